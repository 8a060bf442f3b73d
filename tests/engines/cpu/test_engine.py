"""What only the CPU engine meets, and what it says of itself."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from adam_any import Adam
from adam_any.engines.cpu import compiler as compiled
from tests.helpers.bits import snapshot
from tests.helpers.libraries import Lib, named, params

DTYPES = ("float32", "float64", "complex64", "complex128")


@pytest.mark.parametrize("kernel", params((named("numpy"), named("numpy-tiles"))), indirect=True)
def test_a_scalar_is_the_gradient_of_an_array_without_axes(kernel: Lib) -> None:
    p, q = np.zeros(()), np.zeros(())
    fast, slow = Adam([p]), Adam([q], engine="eager")
    for t in range(50):
        g = np.sum(np.arange(3.0) - t)  # NumPy gives a scalar, which has no lasting address
        fast.step([g]), slow.step([g])
    assert snapshot(fast) == snapshot(slow)


def test_a_tensor_that_is_no_plain_memory_is_left_to_the_reference(torch_: Any) -> None:
    z = torch_.zeros(3, dtype=torch_.complex64)
    params = {"conj": z.conj(), "imag": z}
    reasons = {x.path: (x.engine, x.reason) for x in Adam({"c": params["conj"]}).explain()}
    assert reasons["c"][0] == "eager"
    assert "conjugate" in reasons["c"][1]


def test_without_numba_explain_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    compiled.missing.cache_clear()
    try:
        (choice,) = Adam(np.zeros(3)).explain()
    finally:
        compiled.missing.cache_clear()
    assert choice.engine == "cpu"
    assert choice.reason.startswith("one pass in cache-sized tiles")
