"""The sums of a plan's leaves: one read of what their terms need, a block a chunk.

Compiled by Numba where the step is, and else computed by NumPy, a few blocks at a time: the same
additions in the same order (`sums`). A gradient that cannot be read in place is copied piece by
piece, and left to NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import array_api_compat.numpy
import numpy as np

from ... import detect
from ...coefficients import Coefficients
from ...dtypes import DTYPES
from ...leaf import Leaf
from ...memory import order
from ...sums import BLOCK, added, blocks
from ..eager import known
from ..kernels.program import Kind, Program, Traced
from ..kernels.table import Table, Words, addresses, pieces
from . import compiler
from .half_numpy import numbers_at, widened
from .sum_codegen import numba_source

#: Elements that NumPy works on at a time.
PIECE = 4 * BLOCK


class Adder:
    """The sums of one rule over the leaves of a plan."""

    def __init__(
        self, traced: Traced, finite: bool, leaves: Sequence[Leaf], compiled: bool
    ) -> None:
        program = traced.summing(finite)
        self._leaves, self._names = leaves, traced.terms(finite).names
        self._lines = _Lines(traced, finite, leaves)
        self._compiled: _Compiled | None = None
        if compiled and isinstance(program, Program):
            real, compute = leaves[0].dtype.real, leaves[0].dtype.compute
            self._compiled = _Compiled(traced, Kind(program, real, real, compute), leaves)

    def __call__(self, c: Coefficients, grads: Sequence[Any]) -> list[Sequence[float] | None]:
        """The sums of each leaf that has a gradient: an address, or what must be copied."""
        found: list[Sequence[float] | None] = [None] * len(grads)
        at = [g if type(g) is int else 0 for g in grads]
        if self._compiled is not None and any(at):
            found = self._compiled(c, at)
        for k, g in enumerate(grads):
            if g is not None and found[k] is None:
                empty = type(g) is int and g == 0
                found[k] = [0.0] * len(self._names) if empty else self._lines(c, k, g)
        return found


class _Compiled:
    """One pass by Numba over all leaves."""

    def __init__(self, traced: Traced, kind: Kind, leaves: Sequence[Leaf]) -> None:
        program, width = kind.program, len(kind.program.outputs)
        lengths = [leaf.reals for leaf in leaves]
        counts = [-(-n // BLOCK) for n in lengths]
        self._ranges = list(pairwise(accumulate(counts, initial=0)))
        self._single = all(number == 1 for number in counts)
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
        if self._single:
            rows = self._blocks.tolist()
            return [row if address else None for row, address in zip(rows, at, strict=True)]
        return [
            [added(part) for part in self._blocks[first:last].T.tolist()] if address else None
            for address, (first, last) in zip(at, self._ranges, strict=True)
        ]


class _Lines:
    """The terms as they stand, on lines of memory, one piece after another."""

    def __init__(self, traced: Traced, finite: bool, leaves: Sequence[Leaf]) -> None:
        self._terms, self._paths = traced.terms(finite), tuple(traced.operands)
        self._fields = tuple(traced.operands.values())
        self._real, self._compute = leaves[0].dtype.real, leaves[0].dtype.compute
        self._leaves = leaves

    @np.errstate(all="ignore")
    def __call__(self, c: Coefficients, k: int, g: Any) -> list[float]:
        """The sums of one leaf, whose gradient is at an address, or must be copied."""
        leaf, real, compute = self._leaves[k], self._real, self._compute
        arrays = leaf.array, *leaf.moments, *(leaf.operands[path] for path in self._fields)
        extents = [leaf.library.extent(x) for x in arrays]
        first, *others = (x.address for x in extents if x is not None)
        lines = [numbers_at(first, leaf.reals, real)]
        lines += [numbers_at(place, leaf.reals, compute) for place in others]
        count, parts = len(leaf.moments), [list[float]() for _ in self._terms.names]
        numpy, start = detect.load("numpy"), 0
        for piece in self._at(g, leaf.reals) if type(g) is int else self._copied(leaf, g):
            p, *rest = (line[start : start + len(piece)] for line in lines)
            start += len(piece)
            p, piece = widened(p, compute), widened(piece, compute)
            given = known(numpy, p, c, dict(zip(self._paths, rest[count:], strict=True)))
            terms = self._terms(array_api_compat.numpy, given, p, piece, *rest[:count])
            for part, term in zip(parts, terms, strict=True):
                part += blocks(array_api_compat.numpy, term).tolist()
        return [added(part) for part in parts]

    def _at(self, address: int, n: int) -> Iterator[Any]:
        line = numbers_at(address, n, self._real)
        return (line[start : start + PIECE] for start in range(0, n, PIECE))

    def _copied(self, leaf: Leaf, g: Any) -> Iterator[Any]:
        """The gradient in the order of its parameter's memory, in whole blocks."""
        at, parts = leaf.extent, 2 if leaf.dtype.complex else 1
        axes = None if at is None else order(at)
        assert axes is not None  # it was not refused
        view, filled = leaf.library.transposed(g, axes), 0
        line = np.empty(PIECE + BLOCK, self._compute)
        for _, index in pieces(view.shape, BLOCK // parts):
            n = math.prod(view[index].shape) * parts
            leaf.library.fill(line[filled : filled + n], view[index])
            filled += n
            if filled >= PIECE:
                yield line[:PIECE]
                line[: filled - PIECE] = line[PIECE:filled]
                filled -= PIECE
        if filled:
            yield line[:filled]
