"""A step of the CPU engine takes no memory that grows with the arrays."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from adam_any import Adam
from tests.helpers.libraries import LIBRARIES, Lib, on


@pytest.mark.promise(
    "A step takes at most 16 MB more memory, however large the arrays are.",
    defect="D23",
    seen=["torch#97712", "torchtune#389"],
)
@on(lib for lib in LIBRARIES if lib.name == "numpy" and lib.runs == "cpu")
@pytest.mark.parametrize("gradient", ["alike", "another precision", "another order"])
def test_a_large_step_needs_little_memory(lib: Lib, gradient: str) -> None:
    """As much again as the parameters would be 64 MB here."""
    p = np.zeros((4096, 4096), np.float32)
    g = np.zeros(
        (4096, 4096),
        np.float64 if gradient == "another precision" else np.float32,
        order="F" if gradient == "another order" else "C",
    )
    opt = Adam(p, engine=lib.engine)
    opt.step(g)  # makes the plan, and compiles
    tracemalloc.start()
    try:
        opt.step(g)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6
