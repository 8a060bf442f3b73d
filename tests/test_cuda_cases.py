"""The cases that every library must pass, on the CUDA engine without a GPU.

Each test of these files that asks for a library is run once more, with CuPy's arrays in the host's
memory. What such arrays cannot do without a GPU, CuPy's own operators, few tests need.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from . import (
    emulated,
    test_adam,
    test_arrays,
    test_defects,
    test_errors,
    test_state,
    test_trees,
)
from .emulated import CUPY
from .libraries import Lib


@pytest.fixture
def xp(emulation: Any) -> Iterator[Lib]:
    yield CUPY


#: Tests that need CuPy's operators, its DLPack or its pickle, or the reference on its arrays.
NEED_CUPY = {
    "test_a_projection_through_params",
    "test_a_run_resumed_in_another_process_has_the_same_bits",
    "test_copies_step_alone_and_alike",
    "test_state_is_copied_out_and_in",
    "test_strided_parameters_are_updated_where_they_lie",
    "test_the_step_count_is_an_exact_int",
}


def _for_every_library(test: Any) -> bool:
    """Whether something is a test that runs on each library, and has chosen none itself."""
    if not inspect.isfunction(test) or "xp" not in inspect.signature(test).parameters:
        return False
    marks = getattr(test, "pytestmark", [])
    return not any(m.name == "parametrize" and "xp" in str(m.args[0]) for m in marks)


for _module in (test_adam, test_arrays, test_defects, test_errors, test_state, test_trees):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and _for_every_library(_test) and _name not in NEED_CUPY:
            globals()[_name] = _test


def test_the_cases_are_there_and_run_on_the_engine(xp: Lib) -> None:
    assert emulated.Device.launches == 0
    test_adam.Adam(xp.array([1.0])).step(xp.array([1.0]))
    assert emulated.Device.launches == 1
    assert sum(name.startswith("test_") for name in globals()) > 40
