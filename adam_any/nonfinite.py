"""The test for gradients that are not finite: the keyword `nonfinite` of every optimizer.

- Tested is g * g in the compute dtype, real and imaginary part apart: where it is infinite or NaN,
  v would become so, for good. That is one of the terms that engines add over whole leaves (`sums`),
  so it takes one read, and where a rule needs a norm, too, both are one.
- It is added after all else has been checked and before anything is written, so it holds for all
  leaves of all libraries at once.
- Lazy gradients are computed first, once, for the test and for the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .dtypes import DTYPES
from .leaf import Leaf
from .words import at

POLICIES = ("propagate", "raise", "skip")


def policy(name: Any) -> str:
    """`name`, if it is one of the policies."""
    if name not in POLICIES:
        known = ", ".join(map(repr, POLICIES))
        raise ValueError(f"nonfinite is {name!r}; it must be one of {known}")
    return str(name)


def computed(leaves: Sequence[Leaf], grads: Sequence[Any]) -> list[Any] | None:
    """The gradients with those of lazy libraries computed, all at once; None if nothing is lazy."""
    lazy = [leaf for leaf in leaves if leaf.library.lazy and grads[leaf.index] is not None]
    if not lazy:
        return None
    new = list(grads)
    results = lazy[0].library.computed([(grads[leaf.index],) for leaf in lazy])
    for leaf, (g,) in zip(lazy, results, strict=True):
        new[leaf.index] = g
    return new


def message(leaf: Leaf, g: Any) -> str:
    """A sentence about a gradient that is not finite."""
    (peak,) = leaf.library.largest([g])
    if leaf.library.spread and peak < DTYPES[leaf.backend.compute].limit:
        wrong = "has an infinity, a NaN, or a number too large, in another process"
    elif math.isfinite(peak):
        wrong = f"has a magnitude of {peak:g}, whose square overflows {leaf.backend.compute}"
    else:
        wrong = "has an infinity or a NaN"
    return (
        f"{at(leaf.path)}the gradient {wrong}; pass finite numbers, scaled down if need be, or "
        "leave such steps out with nonfinite='skip'"
    )
