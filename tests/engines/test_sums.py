"""Sums over whole leaves, bit by bit, against what `sums` says, written here once more in loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from adam_any import Optimizer, rules
from adam_any.coefficients import nested
from tests.helpers.dense import dtype_of, gradients
from tests.helpers.libraries import Lib


def defined(line: Any) -> float:
    """Blocks of 32 rows of 512: rows one after another, then folded in halves; blocks exactly."""
    parts = []
    for block in range(0, len(line), 32 * 512):
        lanes = [0.0] * 512
        for i, x in enumerate(line[block : block + 32 * 512].astype(float).tolist()):
            lanes[i % 512] += x
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[i] + lanes[half + i] for i in range(half)]
        parts += lanes
    return math.fsum(parts)


def wide(rng: Any, shape: tuple[int, ...], dtype: str, order: str) -> Any:
    """Finite numbers of very different size, in some order of memory."""
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 6, shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return np.array(x.astype(dtype), order=order)


CASES = [
    ((40_001,), "C", "C"),
    ((300, 170), "F", "F"),
    ((300, 170), "F", "C"),  # a gradient that must be copied
    ((5,), "C", "C"),
    ((0, 3), "C", "C"),
    ((), "C", "C"),
]


@pytest.mark.promise("Sums over a leaf have the same bits on every engine of dense memory.")
@pytest.mark.parametrize(("shape", "mine", "theirs"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_the_order_is_the_one_that_is_promised(
    kernel: Lib, shape: tuple[int, ...], mine: str, theirs: str, dtype: str
) -> None:
    rng = np.random.default_rng(len(shape))
    p, g = wide(rng, shape, dtype, mine), wide(rng, shape, dtype, theirs)
    real = np.dtype(dtype).type(0).real.dtype

    def line(x: Any) -> Any:
        return np.asarray(x).reshape(-1, order=mine).view(real)

    pushed = np.where((line(p) >= 0.5) & (line(g) < 0), real.type(0), line(g))
    want = [defined(pushed * pushed), 0.0]
    # The terms read the parameter, too.
    rule = rules.Bounded(rules.Clipped(rules.Adam(), norm=1.0), None, 0.5, hold=True)
    there = kernel.view(g)
    for opt, given in (
        (Optimizer([kernel.view(p.copy(order="K"))], rule), there),
        (Optimizer([p.copy(order="K")], rule, engine="eager"), g),
    ):
        contents = opt._contents
        (plan,) = contents.current_plans(opt._engine)
        c = nested({"upper": 0.5, "rule.norm": 1.0})
        (got,) = plan.add(True, c, plan.gather([given], contents.written))
        assert list(got) == want


def test_a_gradient_of_another_precision_is_added_as_it_is_stepped(kernel: Lib) -> None:
    rng = np.random.default_rng(0)
    p = wide(rng, (20_000,), "float32", "C")
    for other in gradients(kernel, "float32"):
        g = (wide(rng, (20_000,), "float32", "C") / 1e4).astype(dtype_of(other))
        opt = Optimizer([kernel.view(p.copy())], rules.Clipped(rules.Adam(), leaf_norm=1.0))
        contents = opt._contents
        (plan,) = contents.current_plans(None)
        gathered = plan.gather([kernel.view(g)], contents.written)
        (got,) = plan.add(False, nested({"leaf_norm": 1.0}), gathered)
        narrow = g.astype(np.float32)
        assert list(got) == [defined(narrow * narrow)]
