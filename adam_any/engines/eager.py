"""The reference engine: the rule as it stands, on arrays of any array-API library.

- One leaf after another; the temporaries are those of one leaf.
- Arithmetic in the compute dtype (float32 for half precision), moments kept in it.
- A complex leaf is computed as pairs of real numbers, in a last axis of two.
- Overflow and 0/0 give infinities and NaNs, as everywhere in IEEE 754, and no warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from .. import check, detect
from ..libraries import row
from ..memory import Written
from ..rules import Coefficients, Rule, without_lr
from .base import Leaf, Update


def refusal(rule: Rule, leaf: Leaf) -> str | None:
    """None: it takes every leaf."""
    return None


def merit() -> str:
    """What it does."""
    return "the rule as it stands"


class Plan:
    """The leaves of one backend."""

    def __init__(self, rule: Rule, leaves: Sequence[Leaf]) -> None:
        self.leaves = leaves
        self.in_place = leaves[0].backend.writable

    def current(self) -> bool:
        """Yes: it asks the arrays themselves at each step."""
        return True

    def gather(self, grads: Sequence[Any], written: Written) -> list[Any]:
        """Check the gradients, and copy those that the step itself would overwrite."""
        gathered = []
        first = self.leaves[0]
        check.uncaptured(first.path, first.library.capturing(first.array))
        for leaf in self.leaves:
            g = grads[leaf.index]
            if g is not None:
                check.gradient(leaf.path, leaf.backend, leaf.shape, g)
                extent = leaf.library.extent(g)
                if extent is not None and written.spoils(extent, leaf.extent):
                    g = leaf.library.copy(g)
            gathered.append(g)
        return gathered

    def step(self, rule: Rule, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Run the rule on each leaf; one that can be written is, before the next is computed."""
        present = [(x, g) for x, g in zip(self.leaves, grads, strict=True) if g is not None]
        compute = self.leaves[0].backend.compute
        if self.in_place:
            return [_write(rule, c, compute, leaf, g) for leaf, g in present]
        library, run = self.leaves[0].library, partial(replaced, without_lr(rule), c, compute)
        new = library.settle([library.each(run, x.array, g, *x.moments) for x, g in present])
        return [
            Update(leaf, p, tuple(moments))
            for (leaf, _), (p, *moments) in zip(present, new, strict=True)
        ]


@np.errstate(all="ignore")
def update(
    rule: Rule, c: Coefficients, compute: str, p: Any, g: Any, moments: Sequence[Any]
) -> tuple[Any, tuple[Any, ...]]:
    """The rule on one array: its new numbers in the compute dtype, and its new moments."""
    library = row(cast(str, detect.library(p)))
    xp = library.namespace(p)
    with library.on(p):
        p, g = (_converted(xp, library.reals(x), getattr(xp, compute)) for x in (p, g))
        new, *after = rule.update(xp, c, p, g, *moments)
        # A moment that is the parameter or gradient itself would change with it.
        after = [library.copy(x) if x is p or x is g else x for x in after]
    return new, tuple(library.array(moment) for moment in after)


@np.errstate(all="ignore")
def replaced(
    rule: Rule, c: Coefficients, compute: str, p: Any, g: Any, *moments: Any
) -> tuple[Any, ...]:
    """The rule as a pure function of one array: what takes its place, and its new moments."""
    new, after = update(rule, c, compute, p, g, moments)
    return row(cast(str, detect.library(p))).like(p, new), *after


@np.errstate(all="ignore")
def _write(rule: Rule, c: Coefficients, compute: str, leaf: Leaf, g: Any) -> Update:
    new, moments = update(rule, c, compute, leaf.array, g, leaf.moments)
    leaf.library.write(leaf.array, new)
    return Update(leaf, leaf.array, moments)


def _converted(xp: Any, x: Any, dtype: Any) -> Any:
    return x if x.dtype == dtype else xp.astype(x, dtype)
