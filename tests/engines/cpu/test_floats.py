"""Python floats have the bits of arrays, and Python's own refusals are no errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from adam_any import Optimizer, rules
from tests.helpers.bits import same
from tests.helpers.family import FAMILY

#: Among them what Python would not divide by, or take the root of, and what overflows.
GRADIENTS = [0.0, -0.0, 1e-300, 5e-324, 0.3, -2.0, 1e160, -1e308, math.inf, 1.0, math.nan, 0.0]


@dataclass(frozen=True)
class Root:
    """A step by the root of the gradient, divided by the moment, which is 0 at first."""

    lr: float = 0.1
    moments: ClassVar[tuple[str, ...]] = ("m",)

    def coefficients(self, t: int) -> dict[str, float]:
        return {"lr": self.lr}

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
        return p - c.lr * (xp.sqrt(g) / m), xp.maximum(m, xp.abs(g))


CASES = [pytest.param(row.made({}), id=row.name) for row in FAMILY]
CASES += [rules.Adam(0.1, eps=0.0), rules.Adam(0.1, amsgrad=True, maximize=True), Root()]
CASES += [rules.Masked(rules.Cautious(rules.Adam(0.1))), rules.L1(rules.Adam(0.1), 0.5)]


@pytest.mark.parametrize("rule", CASES)
def test_they_have_the_bits_of_arrays(rule: Any) -> None:
    floats = Optimizer([1.0, -1.0], rule)
    arrays = Optimizer([np.array(1.0), np.array(-1.0)], rule, engine="eager")
    for g in GRADIENTS:
        new = floats.step([g, -g])
        assert all(type(x) is float for x in new)
        for x, y in zip(new, arrays.step([np.array(g), np.array(-g)]), strict=True):
            same(np.float64(x), y)
    for name in rule.moments:
        for x, y in zip(floats.moment(name), arrays.moment(name), strict=True):
            assert type(x) is float
            same(np.float64(x), y)
