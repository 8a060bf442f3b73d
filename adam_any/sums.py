"""Sums over whole leaves, which some rules and `nonfinite` ask for before a step.

A rule names its sums, and gives a term for each, element by element. An engine adds the terms of a
leaf in one read, and the rule makes coefficients of the sums. So no gradient is written.

    sums: tuple[str, ...]                            the names; empty where none is needed
    terms(self, xp, c, p, g, *moments) -> tuple      one array for each
    group_scales(self, xp, c, group) -> dict         coefficients; `group` has for every leaf of the
                                                     rule a namespace of its sums
    leaf_scales(self, xp, c, leaf) -> dict           coefficients of one leaf, from its own sums

These are methods of their own, and not a part of `coefficients`, since under a trace sums have no
value yet, while all else comes from the host in float64.

Sums are float64, in an order that depends on shape, dtype and memory order alone: a leaf is a line
of reals in the order of its memory, cut into blocks of 32 rows of 512. The rows of a block are
added one after another, 512 sums side by side; these are folded in halves until one is left; and
what the blocks have is added exactly. So every engine and number of threads has the same bits, but
for JAX, and Dask, which adds chunk by chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from .coefficients import Coefficients
from .detect import is_tracer
from .dtypes import DTYPES
from .rule import Rule, chain
from .words import shown

LANES, ROWS = 512, 32
BLOCK = LANES * ROWS

#: The name of the sum that is 0 where a gradient is finite, and NaN where it is not.
FINITE = "finite"


class Terms:
    """The terms to be added for one rule: its own, and the test for finite gradients.

    Raises ValueError for two rules in one that need sums.
    """

    def __init__(self, rule: Rule, finite: bool) -> None:
        self._rule, self._finite = rule, finite
        asking = [(prefix, x) for prefix, x in chain(rule) if getattr(x, "sums", ())]
        if len(asking) > 1:
            first, second = (type(x).__name__ for _, x in asking[:2])
            raise ValueError(
                f"{first} and {second}, one in the other, both need sums over leaves; one can, so "
                "limit both norms in one Clipped"
            )
        #: The beginning of the paths of the coefficients that are made of sums.
        self.prefix: str = asking[0][0] if asking else ""
        self._asking: Any = asking[0][1] if asking else None
        own = self._asking.sums if self._asking is not None else ()
        self.names = (*own, FINITE) if finite else tuple(own)

    def __call__(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """The terms of arrays of real numbers."""
        finite = ((g * g) * 0.0,) if self._finite else ()
        if self._asking is None:
            return finite
        level: Any = self._rule
        while level is not self._asking:
            g = level.gradient(xp, c, p, g, *moments)
            c, moments, level = c.rule, moments[len(level.own) :], level.rule
        return (*level.terms(xp, c, p, g, *moments), *finite)

    def group_scales(self, xp: Any, c: Coefficients, group: Sequence[Any]) -> dict[str, Any]:
        """The coefficients, by path, that all leaves of the rule have in common."""
        return self._scales("group_scales", xp, c, group)

    def leaf_scales(self, xp: Any, c: Coefficients, leaf: Any) -> dict[str, Any]:
        """The coefficients, by path, of one leaf."""
        return self._scales("leaf_scales", xp, c, leaf)

    def _scales(self, method: str, xp: Any, c: Any, sums: Any) -> dict[str, Any]:
        own = getattr(self._asking, method, None)
        if own is None:
            return {}
        for part in self.prefix.split(".")[:-1]:
            c = getattr(c, part)
        return {self.prefix + name: x for name, x in own(xp, c, sums).items()}


def sample_scales(rule: Rule, values: Mapping[str, Any], nest: Any) -> dict[str, float]:
    """Coefficients made of sums, with some numbers, by path: their names are always the same."""
    terms = Terms(rule, finite=False)
    if not terms.names:
        return {}
    one = sums_of(terms.names, [1.0] * len(terms.names))
    c = nest({name: x for name, x in values.items() if isinstance(x, float | int)})
    found = on_host(terms.group_scales, c, [one], "float64")
    return found | on_host(terms.leaf_scales, c, one, "float64")


def on_host(scales: Any, c: Coefficients, sums: Any, compute: str) -> dict[str, float]:
    """Coefficients of sums that have values, rounded once to the compute dtype.

    Raises ValueError for one that is not a number.
    """
    import array_api_compat.numpy
    import numpy as np

    with np.errstate(all="ignore"):
        values = scales(array_api_compat.numpy, c, sums)
    found = {}
    for path, x in values.items():
        found[path] = DTYPES[compute].round(float(x))
        if math.isnan(found[path]):
            raise ValueError(f"coefficient {path!r} is {shown(x)}; it must be a number")
    return found


def sums_of(names: Sequence[str], values: Sequence[float]) -> SimpleNamespace:
    """The sums of a leaf by name, as NumPy's float64: dividing by 0 is no error."""
    import numpy as np

    return SimpleNamespace(**dict(zip(names, map(np.float64, values), strict=True)))


def added(parts: Sequence[float]) -> float:
    """The sum of the blocks of a leaf, exact and rounded once; NaN and infinities as usual."""
    try:
        return math.fsum(parts)
    except (OverflowError, ValueError):  # too large, or infinities of both signs
        return float(sum(parts))


def blocks(xp: Any, line: Any, wide: str = "float64") -> Any:
    """The sum of each block of a line of reals, in `wide`: the reference."""
    wide = getattr(xp, wide)
    number = -(-line.shape[0] // BLOCK)
    missing = number * BLOCK - line.shape[0]
    if missing:
        device = None if is_tracer(line) else line.device
        zeros = xp.zeros((missing,), dtype=line.dtype, device=device)
        line = xp.concat([line, zeros])
    rows = xp.reshape(line, (number, ROWS, LANES))
    lanes = xp.astype(rows[:, 0, :], wide) + 0.0
    for i in range(1, ROWS):
        lanes = lanes + xp.astype(rows[:, i, :], wide)
    width = LANES
    while width > 1:
        width //= 2
        lanes = lanes[:, :width] + lanes[:, width:]
    return lanes[:, 0]


class Sums:
    """The coefficients that the sums of one step give: by leaf, as pairs of path and value."""

    def __init__(self) -> None:
        self._scales: dict[int, tuple[tuple[str, float], ...]] = {}
        #: The other coefficients, as far as they are known: by kind, count and compute dtype.
        self.known: dict[tuple[int, int, str], Coefficients] = {}

    def set(self, index: int, scales: Mapping[str, float]) -> None:
        """Note the coefficients of a leaf."""
        self._scales[index] = tuple(scales.items())

    def scales(self, index: int) -> tuple[tuple[str, float], ...]:
        """The coefficients of a leaf."""
        return self._scales.get(index, ())
