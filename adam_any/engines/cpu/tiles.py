"""A program walked by NumPy, tile after tile: what begins at once, and needs no compiler.

- The same instructions, each one ufunc of its own name with `out=`, over tiles that stay in the
  core's cache: memory is read and written once, as in a compiled kernel.
- Results go straight to where they belong, or into a few buffers that are used again as soon as
  their content has been used for the last time.
- Where there are few tiles, the calls on each are listed, and listed anew when the gradient has
  another address: to list them takes as long as to call NumPy on 1,000 elements.
- Half precision is widened into a buffer first, and the parameter rounded from one at last.
- One thread: NumPy's calls on a tile are so short that two would fight over the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..kernels.program import Kind, Program
from ..kernels.symbols import CONDITIONS, WHERE, Instruction
from ..kernels.table import Table
from ..protocol import Unfinished, unfinished
from .half_numpy import narrow, numbers_at, widen

#: Elements of a tile. Measured at 16 million float32, against textbook NumPy: 4096 is 1.9 times as
#: fast, 8192 2.7, 16384 3.7, 32768 3.6; in float64 a tile is twice as large in the cache.
TILE = 16384

#: Tiles whose calls are kept, at 4 kB each; a step of more takes so long that it does not matter.
FEW = 64


#: A function of NumPy, its operands, and where its result goes.
Call = tuple[Callable[..., Any], Sequence[Any], Any]


class Kernel:
    """A program laid out over buffers: g, p and moments, scalars, then temporaries."""

    chunk = TILE

    def longest(self, elements: int) -> int:
        """The length of a tile in a call for this number of elements."""
        return self.chunk

    def __init__(self, kind: Kind) -> None:
        program = kind.program
        self.kind, self._dtype = kind, np.dtype(kind.compute)
        self._arrays = ("g", *program.arrays)
        self._scalars = len(program.scalars)
        instructions, outputs = _apart(program)
        self._slots = {name: i for i, name in enumerate((*self._arrays, *program.scalars))}
        self._calls: list[tuple[Any, list[int], int]] = []
        self._count = len(self._slots)
        #: The slots that hold conditions.
        self._conditions: set[int] = set()
        self._allocate(program, instructions, outputs)
        new = ((self._slots[out], self._slots[name]) for name, out in outputs.items())
        self._copies = [(source, target) for source, target in new if source != target]

    def _allocate(
        self, program: Program, instructions: Sequence[Instruction], outputs: dict[str, str]
    ) -> None:
        """Choose for each result the slot that it is written to."""
        last = {name: k for k, it in enumerate(instructions) for name in it.operands}
        last |= dict.fromkeys(outputs.values(), len(instructions))
        homes = {out: name for name, out in outputs.items() if out != name}
        free: dict[bool, list[int]] = {False: [], True: []}
        for k, (result, operation, operands) in enumerate(instructions):
            slots = [self._slots[name] for name in operands]
            for name in set(operands):
                slot = self._slots[name]
                if last[name] == k and slot >= self._fixed:
                    free[slot in self._conditions].append(slot)
            home, condition = homes.get(result), operation in CONDITIONS
            if home is not None and last.get(home, -1) <= k:
                out = self._slots[home]
            elif free[condition]:
                out = free[condition].pop()
            else:
                out, self._count = self._count, self._count + 1
            if condition:
                self._conditions.add(out)
            self._slots[result] = out
            function = _where if operation == WHERE else getattr(np, operation)
            self._calls.append((function, slots, out))

    @property
    def _fixed(self) -> int:
        return len(self._arrays) + self._scalars

    def bind(self, table: Table) -> Launch:
        """A launch of the program over a table."""
        longest = max(table.chunks[:, 2].tolist(), default=0)
        temporaries = range(self._fixed, self._count)
        buffers = [
            np.empty(longest, bool if slot in self._conditions else self._dtype)
            for slot in (None, None, *temporaries)  # two for g and p, where they are converted
        ]
        return Launch(self, table, np.empty(self._scalars, self._dtype), buffers)

    def calls(self, slots: Sequence[Any]) -> list[Call]:
        """The calls that run the program on one tile of every slot."""
        copies = ((np.positive, [source], target) for source, target in self._copies)
        return [
            (function, [slots[x] for x in operands], slots[out])
            for function, operands, out in (*self._calls, *copies)
        ]

    def tile(self, calls: Sequence[Call]) -> None:
        """Run the program on one tile."""
        for function, operands, out in calls:
            function(*operands, out=out)


class Launch:
    """A program bound to a table."""

    def __init__(self, kernel: Kernel, table: Table, scalars: Any, buffers: list[Any]) -> None:
        self._kernel, self._scalars = kernel, scalars
        self._rest = [scalars[i, ...] for i in range(len(scalars))], buffers
        self._gradients, self._lengths = table.gradients, table.lengths
        self._places = table.addresses[1].tolist()
        self._real, *reals = kernel.kind.stored.values()
        self._state = [
            [numbers_at(address, n, real) for address, real in zip(column, reals, strict=True)]
            for column, n in zip(table.addresses[1:].T.tolist(), table.lengths, strict=True)
        ]
        self._chunks: list[list[tuple[int, int]]] = [[] for _ in table.lengths]
        for leaf, start, n in table.chunks.tolist():
            self._chunks[leaf].append((start, n))
        self._few = len(table.chunks) <= FEW
        self._listed: list[tuple[int, list[list[Call]]]] = [(0, [])] * len(table.lengths)
        self._begun = self._done = 0

    def __call__(self, number: int, values: Sequence[float]) -> None:
        """Run the program over the table, with these scalars."""
        found = [self._calls(k, at) for k, at in enumerate(self._gradients.tolist()) if at]
        with np.errstate(all="ignore"):
            self._scalars[:] = values
            run = self._kernel.tile
            self._begun = number
            for tiles in found:
                for calls in tiles:
                    run(calls)
            self._done = number

    def _calls(self, leaf: int, address: int) -> Iterable[list[Call]]:
        """The calls for each tile of a leaf whose gradient has this address."""
        if not self._few:
            return self._list(leaf, address)
        if self._listed[leaf][0] != address:
            self._listed[leaf] = address, [*self._list(leaf, address)]
        return self._listed[leaf][1]

    def _list(self, leaf: int, address: int) -> Iterator[list[Call]]:
        arrays = numbers_at(address, self._lengths[leaf], self._real), *self._state[leaf]
        scalars, buffers = self._rest
        compute = self._scalars.dtype
        for start, n in self._chunks[leaf]:
            g, p, *others = (x[start : start + n] for x in arrays)
            own_g, own_p, *rest = (x[:n] for x in buffers)
            before: list[Call] = []
            after: list[Call] = []
            if g.dtype != compute:
                before, g = [(widen, [g], own_g)], own_g
            elif address == self._places[leaf]:  # g is p, which may be written before g is read
                before, g = [(np.positive, [g], own_g)], own_g
            if p.dtype != compute:
                before.append((widen, [p], own_p))
                after, p = [(narrow, [own_p], p)], own_p
            slots = [g, p, *others, *scalars, *rest]
            yield [*before, *self._kernel.calls(slots), *after]

    def unfinished(self, number: int) -> Unfinished | None:
        """The progress of the launch of this number; None if it is done."""
        return unfinished(number, self._begun, self._done)


def _where(condition: Any, x: Any, y: Any, out: Any) -> None:
    np.copyto(out, np.where(condition, x, y))


def _apart(program: Program) -> tuple[list[Instruction], dict[str, str]]:
    """The instructions and outputs, with inputs that are outputs of other names copied first.

    So they are read before anything is written.
    """
    copies = []
    outputs = dict(zip(program.state, program.outputs, strict=True))
    for name, out in outputs.items():
        if out != name and out in ("g", *program.arrays):
            outputs[name] = f"copy_{name}"
            copies.append(Instruction(outputs[name], "positive", (out,)))
    return [*copies, *program.instructions], outputs
