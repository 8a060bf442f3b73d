"""One pass over memory, all leaves in one call, on every core.

- Takes writable NumPy arrays and torch CPU tensors that are dense in memory, in any order of their
  axes, of any dtype. It reads them in place; half precision is converted element by element.
- The program is made from the rule; NumPy walks it in cache-sized tiles, until Numba compiles it
  (`payoff`). Both give the bits of the reference.
- A gradient of the same dtype and order is read in place; one of another precision or order is
  copied in pieces, so a step needs a few MB of memory more, whatever the size of the leaves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from ... import check
from ...coefficients import Coefficients
from ...dtypes import DTYPES
from ...leaf import Leaf, Update
from ...memory import Written, order
from ..kernels.program import Kind, Traced
from ..kernels.table import Gradients, Table, addresses, match_memory_order, pieces
from ..protocol import Takes, Unfinished
from . import compiler, tiles
from .adder import Adder
from .objects import Look
from .payoff import Payoff, looks

#: Reals that are copied at a time from gradients that cannot be read in place.
PIECE = 1 << 19


def summary() -> str:
    """A line for `explain()`."""
    lacking = compiler.missing()
    if lacking is not None:
        return f"one pass in cache-sized tiles; {lacking}"
    number = compiler.threads()
    return (
        "one pass in cache-sized tiles, compiled by Numba once that pays, "
        f"for {number} thread{'s' * (number > 1)}"
    )


class Plan:
    """The leaves of one library and dtype."""

    in_place = True
    adds_inside = False

    def __init__(self, traced: Traced, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            match_memory_order(leaf)
        self.leaves = leaves
        first = leaves[0]
        self._library, self._dtype = first.library, first.dtype
        self._parts = 2 if first.dtype.complex else 1
        self._arrays = first.library.addresses([leaf.array for leaf in leaves], first.dtype.size)
        wide = DTYPES[first.dtype.compute].size
        self._operands = [
            first.library.addresses([leaf.operands[path] for leaf in leaves], wide)
            for path in traced.program.fields
        ]
        self._watched = [self._arrays, *self._operands]
        lengths = [leaf.reals for leaf in leaves]
        real, compute = first.dtype.real, first.dtype.compute
        self._kind = Kind(traced.program, real, real, compute)
        self._payoff = Payoff(self._kind, lengths)
        self._kernel = self._payoff.kernel()
        chunk = self._kernel.longest(sum(lengths))
        self._traced, program = traced, traced.program
        self.takes = Takes(program.coefficients, program.constants)
        state = [addresses(leaf, program.state, program) for leaf in leaves]
        self._table = Table(state, lengths, chunk)
        self._launch = self._kernel.bind(self._table)
        self._adders: dict[bool, Adder] = {}
        self._piece: Any = None
        self._values = traced.program.values
        self._gradients = Gradients(leaves, self._arrays)
        self._pack = struct.Struct(f"{len(leaves)}q").pack_into
        self._row = self._table.gradients.data
        #: The look at all arrays at once, where it has paid; how many there were one by one, and
        #: how many will be.
        self._at_once: Look | None = None
        self._looks = self._enough = 0
        self._written = Written(())

    def current(self) -> bool:
        """Return whether parameters are where they were, and another kernel would not pay now."""
        for arrays in self._watched:
            if arrays.moved():
                return False
        return not self._payoff.due()

    def gather(self, grads: Sequence[Any], written: Written) -> list[Any]:
        """For each leaf the address of its gradient, or the gradient where it must be copied."""
        if written is not self._written:
            self._written, self._at_once, self._looks = written, None, 0
        return self._gradients.find(grads, written, self._look)

    def _look(self, leaf: Leaf, g: Any, written: Written) -> Any:
        """The address of one gradient, or the gradient itself if it must be copied."""
        check.gradient(leaf.path, leaf.backend, leaf.shape, g)
        near = leaf.library.beside(leaf.array, g)  # in which all processes take part
        if not leaf.reals:
            return 0
        if near is not g:
            return near
        extent = leaf.library.extent(g)
        if extent is not None and written.spoils(extent, leaf.extent):
            return leaf.library.copy(g)
        if extent is None or g.dtype != leaf.array.dtype:
            return g
        if not self._library.readable(leaf.array, g):
            return g
        return extent.address

    def look(self, grads: Sequence[Any]) -> Sequence[int] | None:
        """The address of each gradient, if the step is like the one before."""
        if self._at_once is not None:
            return self._at_once(grads)
        if self._looks == 0:
            objects = self._objects()
            self._enough = 0 if objects is None else looks(len(objects))
        self._looks += 1
        if self._looks == self._enough:
            with suppress(Exception):  # whatever it is, there is the other way
                self._at_once = Look(self.leaves, self._objects() or (), self._written, self._row)
        return self._gradients.again(grads) if self.current() else None

    def _objects(self) -> list[Any] | None:
        """The arrays that are watched, where all can be looked at once; else None."""
        objects = [arrays.objects for arrays in self._watched]
        if isinstance(self._kernel, tiles.Kernel) or None in objects:
            return None
        return [x for mine in objects for x in mine or ()]

    def launch(
        self, number: int, scalars: Sequence[float], gradients: Sequence[Any]
    ) -> list[Update]:
        """Update every leaf that has an address, in place."""
        self._arrays.written(gradients)  # before, since nothing may be left to do after the launch
        if gradients is not self._row:
            self._bind(gradients)
        self._launch(number, scalars)
        return []

    def _bind(self, grads: Sequence[Any]) -> None:
        try:
            self._pack(self._row, 0, *grads)
        except (struct.error, TypeError):  # one is not an address
            self._pack(self._row, 0, *(g if type(g) is int else 0 for g in grads))

    def add(
        self, finite: bool, c: Coefficients, grads: Sequence[Any]
    ) -> list[Sequence[float] | None]:
        """The sums of each leaf that has a gradient."""
        if finite not in self._adders:
            compiled = isinstance(self._kernel, compiler.Kernel)
            self._adders[finite] = Adder(self._traced, finite, self.leaves, compiled)
        return self._adders[finite](c, grads)

    def step(self, number: int, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Update every leaf that has a gradient, in place."""
        values = self._values(c)
        which = [k for k, g in enumerate(grads) if not (g is None or type(g) is int)]
        if not which:
            return self.launch(number, values, grads)
        self._arrays.written(grads)
        self._bind(grads)
        self._step_copied(number, values, which, grads)
        self._launch(number, values)
        return []

    def finish(self, number: int) -> list[Update] | Unfinished:
        """Ask the launch of the step, which comes last, and the first of its pieces."""
        unfinished = self._launch.unfinished(number)
        if unfinished is Unfinished.UNTOUCHED and self._piece is not None:
            begun = self._piece.unfinished(number) is not Unfinished.UNTOUCHED
            return Unfinished.HALF if begun else Unfinished.UNTOUCHED
        return unfinished or []

    @cached_property
    def _wide(self) -> tiles.Kernel | compiler.Kernel:
        """The kernel for gradients that were copied: in the compute dtype, so none is narrowed."""
        kind = self._kind._replace(gradient=self._kind.compute)
        return self._kernel if kind == self._kind else type(self._kernel)(kind)

    def _step_copied(
        self, number: int, values: Sequence[float], which: Sequence[int], grads: Any
    ) -> None:
        """Update leaves by way of a line of reals, into which their gradients are copied in pieces.

        Many small ones fill it together.
        """
        self._piece = None
        kernel, compute = self._wide, self._kind.compute
        sizes = np.array([DTYPES[real].size for real in self._kind.stored.values()][1:])
        line = np.empty(PIECE, compute)
        state: list[Any] = []
        lengths: list[int] = []
        for k in which:
            for start, g in self._pieces(self.leaves[k], grads[k]):
                n = math.prod(g.shape) * self._parts
                if sum(lengths) + n > PIECE:
                    self._flush(kernel, number, values, line, state, lengths)
                    state, lengths = [], []
                at = sum(lengths)
                self._library.fill(line[at : at + n], g)
                state.append(self._table.addresses[1:, k] + start * self._parts * sizes)
                lengths.append(n)
        self._flush(kernel, number, values, line, state, lengths)

    def _pieces(self, leaf: Leaf, g: Any) -> Iterator[tuple[int, Any]]:
        """The parts of a gradient in the order of its parameter's memory."""
        at = leaf.extent
        axes = None if at is None else order(at)
        assert axes is not None  # it was not refused
        view = self._library.transposed(g, axes)
        return ((at, view[index]) for at, index in pieces(view.shape, PIECE // self._parts))

    def _flush(
        self,
        kernel: tiles.Kernel | compiler.Kernel,
        number: int,
        values: Any,
        line: Any,
        state: Any,
        lengths: Sequence[int],
    ) -> None:
        table = Table(state, lengths, kernel.longest(sum(lengths)))
        begins = np.cumsum([0, *lengths[:-1]]) * line.itemsize
        table.gradients[:] = line.ctypes.data + begins
        launch = kernel.bind(table)
        self._piece = self._piece or launch
        launch(number, values)
