"""Rules of a user's own."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar

import numpy as np

from . import ROOT


@dataclasses.dataclass(frozen=True)
class Custom:
    """A rule with one moment and whatever update a test wants."""

    function: Any

    moments = ("m",)

    def coefficients(self, t: int) -> dict[str, float]:
        return {"a": 0.1, "b": 0.3}

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
        result: tuple[Any, ...] = self.function(xp, c, p, g, m)
        return result


def every_operation(xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
    u = xp.maximum(p, g) * c.a + xp.minimum(g, m) / 3 - xp.sign(p) * 0.1
    v = xp.sqrt(abs(u)) - xp.abs(-g) + (2 - m) / (1.5 + p)
    near = ((u < v) | (g == 0)) & ~(p >= 0.5)
    v = xp.where(near, v, xp.where((m <= c.a) & (g > u), u, 0.25))
    u = xp.where(xp.logical_or(u != u, near), xp.maximum(u, 0.0), u)
    return u - xp.minimum(c.b, v), v


def lion() -> Any:
    """The rule that docs/RULES.md shows, from the page itself."""
    page = (ROOT / "docs" / "RULES.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    scope: dict[str, Any] = {"__name__": __name__, "params": np.ones(2), "grads": np.ones(2)}
    exec(code[1], scope)
    assert scope["params"].tolist() == [1 - 1e-3] * 2
    return scope["Lion"]


@dataclasses.dataclass(frozen=True)
class Sgd:
    """A rule of the user's, with fields of every kind that a file can hold."""

    lr: Any = 1e-3
    limits: tuple[float, ...] = (0.0, 1.0)
    count: Any = 3
    kind: Any = ("plain", None, ("x", True))
    moments: ClassVar[tuple[str, ...]] = ("m",)

    def coefficients(self, t: int) -> dict[str, float]:
        return {"lr": self.lr}

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
        return p - c.lr * g, g + m
