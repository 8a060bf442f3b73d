"""The test for gradients that are not finite: the keyword `nonfinite` of every optimizer.

- Tested is g * g in the compute dtype, real and imaginary part apart: where it is infinite or NaN,
  v would become so, for good. Converting and squaring keep the order of magnitudes, so the largest
  magnitude of a leaf decides for all of it, and its library finds that in one read.
- It stands in front of every engine, after all else has been checked and before anything is
  written. So it holds for all leaves of all libraries at once, and no engine knows of it.
- The leaves of one library and device are tested together: that device is waited for once.
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


def first_problem(leaves: Sequence[Leaf], grads: Sequence[Any]) -> str | None:
    """A message about the first leaf whose gradient is not finite, or None."""
    groups: dict[Any, list[Leaf]] = {}
    for leaf in leaves:
        if grads[leaf.index] is not None and 0 not in leaf.shape:
            groups.setdefault((leaf.backend.library, leaf.backend.device), []).append(leaf)
    found = []
    for group in groups.values():
        peaks = group[0].library.largest([grads[leaf.index] for leaf in group])
        found += [pair for pair in zip(group, peaks, strict=True) if not _finite(*pair)]
    return _message(*min(found, key=lambda pair: pair[0].index)) if found else None


def _finite(leaf: Leaf, peak: float) -> bool:
    compute = DTYPES[leaf.backend.compute]
    return compute.round(peak) < compute.limit


def _message(leaf: Leaf, peak: float) -> str:
    if math.isfinite(peak):
        wrong = f"has a magnitude of {peak:g}, whose square overflows {leaf.backend.compute}"
    else:
        wrong = "has an infinity or a NaN"
    return (
        f"{at(leaf.path)}the gradient {wrong}; pass finite numbers, scaled down if need be, or "
        "leave such steps out with nonfinite='skip'"
    )
