"""The sums of a plan's leaves: one read of what their terms need, a block a chunk.

Compiled by Numba where the step is, and else computed by NumPy, a few blocks at a time: the same
additions in the same order (`sums`). A gradient that cannot be read in place is left to the
reference, which has the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import array_api_compat.numpy
import numpy as np

from ... import detect
from ...coefficients import Coefficients
from ...dtypes import DTYPES
from ...leaf import Leaf
from ...sums import BLOCK, added, blocks
from ..eager import added_up, known
from ..kernels.program import Kind, Program, Traced
from ..kernels.table import Table, Words, addresses
from . import compiler
from .half_numpy import numbers_at, widened
from .sum_codegen import numba_source

#: Elements that NumPy works on at a time.
PIECE = 8 * BLOCK


class Adder:
    """The sums of one rule over the leaves of a plan."""

    def __init__(
        self, traced: Traced, finite: bool, leaves: Sequence[Leaf], compiled: bool
    ) -> None:
        self._leaves, self._traced, self._terms = leaves, traced, traced.terms(finite)
        program = traced.summing(finite)
        real, compute = leaves[0].dtype.real, leaves[0].dtype.compute
        self._sums: _Compiled | _Lines
        if compiled and isinstance(program, Program):
            self._sums = _Compiled(traced, Kind(program, real, real, compute), leaves)
        else:
            self._sums = _Lines(traced, finite, leaves)

    def __call__(self, c: Coefficients, grads: Sequence[Any]) -> list[Sequence[float] | None]:
        """The sums of each leaf that has a gradient: an address, or what must be copied."""
        found: list[Sequence[float] | None] = [None] * len(grads)
        at = [g if type(g) is int else 0 for g in grads]
        if any(at):
            found = self._sums(c, at)
        for k, g in enumerate(grads):
            if g is not None and not at[k]:
                empty = type(g) is int
                found[k] = (
                    [0.0] * len(self._terms.names)
                    if empty
                    else added_up(self._terms, c, self._traced, self._leaves[k], g)
                )
        return found


class _Compiled:
    """One pass by Numba over all leaves."""

    def __init__(self, traced: Traced, kind: Kind, leaves: Sequence[Leaf]) -> None:
        program, width = kind.program, len(kind.program.outputs)
        lengths = [leaf.reals for leaf in leaves]
        counts = [-(-n // BLOCK) for n in lengths]
        self._ranges = list(pairwise(accumulate(counts, initial=0)))
        self._blocks = np.zeros((sum(counts), width))
        own = self._blocks.ctypes.data
        # As the last array of each leaf, the place of its blocks' sums.
        state = [
            [*addresses(leaf, traced.program.state, program), own + first * width * 8]
            for leaf, (first, _) in zip(leaves, self._ranges, strict=True)
        ]
        self._table = Table(state, lengths, BLOCK)
        words = Words(f"{len(program.scalars)}{DTYPES[kind.compute].struct}")
        run = compiler.function(numba_source(kind))
        self._launch, self._values = compiler.Launch(run, self._table, words), program.values

    def __call__(self, c: Coefficients, at: Sequence[int]) -> list[Sequence[float] | None]:
        self._table.gradients[:] = at
        self._launch(0, self._values(c))
        return [
            [added(part) for part in self._blocks[first:last].T.tolist()] if address else None
            for address, (first, last) in zip(at, self._ranges, strict=True)
        ]


class _Lines:
    """The terms as they stand, on lines of memory."""

    def __init__(self, traced: Traced, finite: bool, leaves: Sequence[Leaf]) -> None:
        self._terms, self._paths = traced.terms(finite), tuple(traced.operands)
        self._dtypes = leaves[0].dtype.real, leaves[0].dtype.compute
        self._leaves = []
        for leaf in leaves:
            operands = [leaf.operands[path] for path in traced.operands.values()]
            arrays = leaf.array, *leaf.moments, *operands
            extents = [leaf.library.extent(x) for x in arrays]
            places = [x.address for x in extents if x is not None]
            self._leaves.append((leaf.reals, places, len(leaf.moments)))

    def __call__(self, c: Coefficients, at: Sequence[int]) -> list[Sequence[float] | None]:
        pairs = zip(at, self._leaves, strict=True)
        return [self._leaf(c, address, *leaf) if address else None for address, leaf in pairs]

    @np.errstate(all="ignore")
    def _leaf(
        self, c: Coefficients, address: int, n: int, places: Sequence[int], moments: int
    ) -> list[float]:
        real, compute = self._dtypes
        own = [numbers_at(place, n, real) for place in (address, places[0])]
        lines = [*own, *(numbers_at(place, n, compute) for place in places[1:])]
        parts: list[list[float]] = [[] for _ in self._terms.names]
        for start in range(0, n, PIECE):
            g, p, *rest = (line[start : start + PIECE] for line in lines)
            g, p = widened(g, compute), widened(p, compute)
            operands = dict(zip(self._paths, rest[moments:], strict=True))
            given = known(detect.load("numpy"), p, c, operands)
            terms = self._terms(array_api_compat.numpy, given, p, g, *rest[:moments])
            for part, term in zip(parts, terms, strict=True):
                part += blocks(array_api_compat.numpy, term).tolist()
        return [added(part) for part in parts]
