"""What a step does about gradients that are not finite: the keyword `nonfinite` of `Adam`.

- Tested is g * g in the compute dtype, real and imaginary part apart: where it is infinite or NaN,
  v would become so, for good. Converting and squaring keep the order of magnitudes, so the largest
  magnitude of a leaf decides for all of it, and its library finds that in one read.
- It stands in front of every engine, after all else has been checked and before anything is
  written. So it holds for all leaves of all libraries at once, and no engine knows of it.
- The leaves of one library and device are tested together: that device is waited for once.
- What is lazy is computed first, once, for the test and for the step.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence
from typing import Any

from .engines.base import Leaf, Plan

POLICIES = ("propagate", "raise", "skip")

#: A number of the dtype has a finite square if it is smaller than this, and only then.
LIMITS = {"float32": 2.0**64, "float64": 2.0**512}

#: A plan, and what it has gathered: for each of its leaves a gradient, its address, or None.
Gathered = tuple[Plan, Sequence[Any]]


def policy(name: Any) -> str:
    """`name`, if it is one of the policies."""
    if name not in POLICIES:
        known = ", ".join(map(repr, POLICIES))
        raise ValueError(f"nonfinite is {name!r}; it must be one of {known}")
    return str(name)


def settled(gathered: Iterable[Gathered]) -> list[Gathered]:
    """The same, with gradients of a lazy library computed."""
    return [
        (plan, [g for (g,) in plan.leaves[0].library.settle([(g,) for g in mine])])
        for plan, mine in gathered
    ]


def complaint(gathered: Iterable[Gathered], grads: Sequence[Any]) -> str | None:
    """What is wrong with the first leaf that is not finite, in the order of the tree, or None.

    `grads` are the gradients of all leaves, where an address stands for one.
    """
    groups: dict[Any, list[tuple[Leaf, Any]]] = {}
    for plan, mine in gathered:
        for leaf, g in zip(plan.leaves, mine, strict=True):
            if g is not None and 0 not in leaf.shape:
                here = leaf.backend.library, leaf.backend.device
                x = grads[leaf.index] if type(g) is int else g
                groups.setdefault(here, []).append((leaf, x))
    found = []
    for group in groups.values():
        leaves, arrays = zip(*group, strict=True)
        peaks = leaves[0].library.largest(arrays)
        found += [pair for pair in zip(leaves, peaks, strict=True) if not _finite(*pair)]
    return _message(*min(found, key=lambda pair: pair[0].index)) if found else None


def _finite(leaf: Leaf, peak: float) -> bool:
    compute = leaf.backend.compute
    return (ctypes.c_float(peak).value if compute == "float32" else peak) < LIMITS[compute]


def _message(leaf: Leaf, peak: float) -> str:
    if math.isfinite(peak):
        wrong = f"has a magnitude of {peak:g}, whose square overflows {leaf.backend.compute}"
    else:
        wrong = "has an infinity or a NaN"
    return (
        f"{leaf.path!r}: the gradient {wrong}; pass finite numbers, scaled down if need be, or "
        "leave such steps out with nonfinite='skip'"
    )
