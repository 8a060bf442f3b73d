"""The CPU engine: one pass over memory, all leaves in one call, on every core.

- Takes writable NumPy arrays and torch CPU tensors that are dense in memory, in any order of their
  axes, of float32, float64, complex64 or complex128. It reads them where they lie.
- The program is made from the rule; Numba compiles it, or NumPy walks it in cache-sized tiles. Both
  give the bits of the reference.
- A gradient of the same dtype and order is read where it lies; one of another precision or order is
  copied in pieces, so a step needs a few MB of memory more, whatever the size of the leaves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import check
from ..memory import Written
from ..program import UnsupportedError, program
from ..rules import Coefficients, Rule
from . import compiled, plan, tiles
from .base import Leaf, Update
from .host import HOSTS
from .plan import Table

DTYPES = ("float32", "float64", "complex64", "complex128")

#: Reals that are copied at a time from gradients that cannot be read where they lie.
PIECE = 1 << 19


def refusal(rule: Rule, leaf: Leaf) -> str | None:
    """Why it cannot take the leaf, or None."""
    facts, path = leaf.backend, repr(leaf.path)
    if str(facts.device) != "cpu":
        return f"{path} lies on {facts.device}"
    if facts.dtype not in DTYPES:
        return f"{path} is {facts.dtype}, and this engine takes {', '.join(DTYPES)}"
    if not facts.writable:
        return f"{path} is read-only"
    try:
        program(rule)
    except UnsupportedError as error:
        return f"the rule uses {error}"
    return HOSTS[facts.library].refusal(leaf) or plan.layout(leaf)


def merit() -> str:
    """What it does."""
    lacking = compiled.missing()
    if lacking is not None:
        return f"one pass in cache-sized tiles; {lacking}"
    number = compiled.threads()
    return f"one pass over memory, compiled by Numba, {number} thread{'s' * (number > 1)}"


class Plan:
    """The leaves of one library and dtype."""

    in_place = True

    def __init__(self, rule: Rule, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            plan.lay_out(leaf)
        self.leaves = leaves
        traced = program(rule)
        self._host = HOSTS[leaves[0].backend.library](leaves)
        self._compute = leaves[0].backend.compute
        engine = tiles if compiled.missing() else compiled
        self._kernel = engine.Kernel(traced, self._compute)
        self._parts = 2 if leaves[0].backend.complex else 1
        lengths = [plan.length(leaf) for leaf in leaves]
        chunk = self._kernel.longest(sum(lengths))
        self._table = Table([plan.addresses(leaf) for leaf in leaves], lengths, chunk)
        self._launch = self._kernel.bind(self._table)
        self._values = traced.values
        self._gradients = plan.Gradients(leaves, self._host)
        self._pack = struct.Struct(f"{len(leaves)}q").pack_into
        self._row = self._table.gradients.data

    def current(self) -> bool:
        """Whether the parameters lie where they lay when the plan was made."""
        return not self._host.moved()

    def gather(self, grads: Sequence[Any], written: Written) -> list[Any]:
        """For each leaf the address of its gradient, or the gradient where it must be copied."""
        return self._gradients.find(grads, written, self._look)

    def _look(self, leaf: Leaf, g: Any, written: Written) -> Any:
        """The address of one gradient, or the gradient itself if it must be copied."""
        check.gradient(leaf.path, leaf.backend, leaf.shape, g)
        if 0 in leaf.shape:
            return 0
        extent = leaf.library.extent(g)
        if extent is not None and written.spoils(extent, leaf.extent):
            return leaf.library.copy(g)
        if extent is None or g.dtype != leaf.array.dtype or not self._host.readable(leaf, g):
            return g
        return extent.address

    def step(self, rule: Rule, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Update every leaf that has a gradient, in place."""
        values = self._values(c)
        try:
            self._pack(self._row, 0, *grads)
        except (struct.error, TypeError):  # one is not an address
            self._pack(self._row, 0, *(g if type(g) is int else 0 for g in grads))
            if which := [k for k, g in enumerate(grads) if not (g is None or type(g) is int)]:
                self._step_copied(values, which, grads)
        self._launch(values)
        self._host.written(grads)
        return []

    def _step_copied(self, values: Sequence[float], which: Sequence[int], grads: Any) -> None:
        """Update leaves by way of a line of reals into which their gradients are copied, piece by
        piece; many small ones fill it together."""
        size = plan.real_size(self.leaves[0])
        line = np.empty(PIECE, self._compute)
        state: list[Any] = []
        lengths: list[int] = []
        for k in which:
            for start, g in self._pieces(self.leaves[k], grads[k]):
                n = math.prod(g.shape) * self._parts
                if sum(lengths) + n > PIECE:
                    self._flush(values, line, state, lengths)
                    state, lengths = [], []
                at = sum(lengths)
                self._host.fill(line[at : at + n], g)
                state.append(self._table.addresses[1:, k] + start * self._parts * size)
                lengths.append(n)
        self._flush(values, line, state, lengths)

    def _pieces(self, leaf: Leaf, g: Any) -> Iterator[tuple[int, Any]]:
        """The parts of a gradient in the order in which its parameter lies in memory."""
        at = leaf.extent
        axes = None if at is None else plan.order(at)
        assert axes is not None  # it was not refused
        view = self._host.view(g, axes)
        return ((at, view[index]) for at, index in plan.pieces(view.shape, PIECE // self._parts))

    def _flush(self, values: Any, line: Any, state: Any, lengths: Sequence[int]) -> None:
        table = Table(state, lengths, self._kernel.longest(sum(lengths)))
        begins = np.cumsum([0, *lengths[:-1]]) * line.itemsize
        table.gradients[:] = line.ctypes.data + begins
        self._kernel.bind(table)(values)
