"""The agreement of processes that step parts of the same arrays: the sums of whole leaves.

From equal sums come equal decisions: all of them clip by the same norm, and all raise, or skip, for
a gradient that is not finite in one of them. It is a communication only where arrays are spread
over processes that step their parts themselves (torch's DTensors), and only if there are sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from .leaf import Leaf
from .sums import FINITE, sums_of
from .words import named


def reach(leaves: Sequence[Leaf], names: Sequence[Sequence[str]], found: dict[int, Any]) -> None:
    """Replace the sums of parts, by the index of the leaf, with those of whole leaves.

    `names` has the names of the sums of each leaf. Raises ValueError on every process where one of
    them refuses its gradients, or not all of them have a gradient for a leaf.
    """
    _reach(leaves, names, found, 0.0)


def abstain(leaves: Sequence[Leaf], names: Sequence[Sequence[str]]) -> None:
    """Tell the others, who wait for sums, that this process has refused its gradients."""
    _reach(leaves, names, {}, math.nan)


def _reach(
    leaves: Sequence[Leaf],
    names: Sequence[Sequence[str]],
    found: dict[int, Any],
    refused: float,
) -> None:
    pairs = [(leaf, mine) for leaf, mine in zip(leaves, names, strict=True) if mine]
    spread = [(leaf, mine) for leaf, mine in pairs if leaf.library.spread]
    if not spread:
        return
    own = [leaf for leaf, mine in pairs if not leaf.library.spread and FINITE in mine]
    sums, flags = [], []
    for leaf, mine in spread:
        here = found.get(leaf.index)
        sums.append([_value(here, name) for name in mine if name != FINITE])
        flags.append([float(here is not None), _value(here, FINITE)])
    # What else is on each process belongs to the same step.
    flags[0] += [refused, *(_value(found.get(leaf.index), FINITE) for leaf in own)]
    library = spread[0][0].library
    arrays = [leaf.array for leaf, _ in spread]
    sums, flags = library.totals(arrays, sums, flags)
    if math.isnan(refused):
        return
    if math.isnan(flags[0][2]):
        raise ValueError("another process has refused its gradients, and says why; nothing changed")
    for (leaf, mine), values, (present, finite, *_) in zip(spread, sums, flags, strict=True):
        if leaf.index not in found and not present:
            continue
        if present != library.processes(leaf.array):
            raise ValueError(
                f"{named(leaf.path)}: some processes have a gradient for it, and some None; pass "
                "one on all of them, or None"
            )
        others = iter(values)
        found[leaf.index] = sums_of(
            mine, [finite if name == FINITE else next(others) for name in mine]
        )
    for leaf, value in zip(own, flags[0][3:], strict=True):
        if leaf.index in found:
            setattr(found[leaf.index], FINITE, value)


def _value(sums: SimpleNamespace | None, name: str) -> float:
    return float(getattr(sums, name, 0.0))
