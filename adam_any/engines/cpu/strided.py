"""Leaves with gaps between their elements: a piece at a time, by way of lines in the cache.

- A piece of the parameter and one of its gradient are copied into lines of the compute dtype, the
  program runs over these, and the parameter's new numbers are copied back.
- Moments and operands are dense, in C order, and are read and written in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import check, detect
from ...coefficients import Coefficients
from ...leaf import Leaf, Update
from ...memory import Written
from ..eager import added_up
from ..kernels.program import Kind, Traced
from ..kernels.table import Table, addresses, pieces
from ..protocol import Unfinished, unfinished
from .payoff import Payoff

#: Reals of a line.
PIECE = 1 << 15


def summary() -> str:
    """A line for `explain()`."""
    return "one pass, by way of lines in the cache, since it has gaps or is not aligned"


class Plan:
    """The leaves of one library and dtype that are not dense."""

    in_place = True
    adds_inside = False

    def __init__(self, traced: Traced, leaves: Sequence[Leaf]) -> None:
        first = leaves[0]
        self.leaves, self._traced, self._library = leaves, traced, first.library
        self._compute = first.dtype.compute
        in_order = self._library.in_c_order
        for leaf in leaves:
            leaf.moments = tuple(map(in_order, leaf.moments))
            leaf.operands = {path: in_order(x) for path, x in leaf.operands.items()}
        self._kind = Kind(traced.program, *[self._compute] * 3)
        self._payoff = Payoff(self._kind, [leaf.reals for leaf in leaves])
        kernel = self._payoff.kernel()
        self._values = traced.program.values
        self._lines = np.empty((2, PIECE), self._compute)
        size = self._lines.itemsize
        #: For each leaf its pieces: where each is in its reals, and what runs over it.
        self._pieces: list[list[tuple[Any, Any]]] = []
        for leaf in leaves:
            places = addresses(leaf, traced.program.state, traced.program)
            shape = tuple(self._library.reals(leaf.array).shape)
            mine = []
            for before, index in pieces(shape, PIECE):
                n = math.prod(np.broadcast_to(0, shape)[index].shape)
                state = [self._lines[1].ctypes.data, *(x + before * size for x in places[1:])]
                table = Table([state], [n], kernel.longest(n))
                table.gradients[:] = self._lines[0].ctypes.data
                mine.append((index, kernel.bind(table)))
            self._pieces.append(mine)
        self._begun = self._done = 0

    def current(self) -> bool:
        """Return whether every parameter still means the same, and no other kernel would pay."""
        return not self._payoff.due() and all(
            detect.backend(leaf.array) == leaf.backend and check.shape_of(leaf.array) == leaf.shape
            for leaf in self.leaves
        )

    def gather(self, grads: Sequence[Any], written: Written) -> list[Any]:
        """The gradients, checked; those that the step itself would overwrite are copied."""
        gathered = []
        for leaf in self.leaves:
            g = grads[leaf.index]
            if g is not None:
                check.gradient(leaf.path, leaf.backend, leaf.shape, g)
                g = self._library.beside(leaf.array, g)
                extent = self._library.extent(g)
                if extent is not None and written.spoils(extent, leaf.extent):
                    g = self._library.copy(g)
            gathered.append(g)
        return gathered

    def add(
        self, finite: bool, c: Coefficients, grads: Sequence[Any]
    ) -> list[Sequence[float] | None]:
        """The sums of each leaf that has a gradient, as the reference adds them."""
        terms, pairs = self._traced.terms(finite), zip(self.leaves, grads, strict=True)
        return [None if g is None else added_up(terms, c, self._traced, x, g) for x, g in pairs]

    def step(self, number: int, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Update every leaf that has a gradient, piece by piece."""
        values, library = self._values(c), self._library
        given, new = self._lines
        self._begun = number
        for leaf, g, mine in zip(self.leaves, grads, self._pieces, strict=True):
            if g is None:
                continue
            p, g = library.reals(leaf.array), library.reals(g)
            for index, launch in mine:
                piece = p[index]
                n = math.prod(piece.shape)
                library.fill(given[:n], g[index])
                library.fill(new[:n], piece)
                launch(number, values)
                library.pour(piece, new[:n])
        self._done = number
        return []

    def finish(self, number: int) -> list[Update] | Unfinished:
        """Return the progress of the step; its moments may have been written, if it was begun."""
        return unfinished(number, self._begun, self._done) or []
