"""A program walked by NumPy, tile after tile, where Numba is not installed.

- The same instructions, each one ufunc of its own name with `out=`, over tiles that stay in the
  core's cache: memory is read and written once, as in a compiled kernel.
- Results go straight to where they belong, or into a few buffers that are used again as soon as
  their content has been used for the last time.
- One thread: NumPy's calls on a tile are so short that two would fight over the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.program import Program
from ..kernels.symbols import Instruction
from ..kernels.table import Table
from ..protocol import Unfinished

#: Elements of a tile. Measured at 16 million float32, against textbook NumPy: 4096 is 1.9 times as
#: fast, 8192 2.7, 16384 3.7, 32768 3.6; in float64 a tile is twice as large in the cache.
TILE = 16384


class Kernel:
    """A program laid out over buffers: p and moments, g, scalars, then temporaries."""

    chunk = TILE

    def longest(self, elements: int) -> int:
        """The length of a tile in a call for this number of elements."""
        return self.chunk

    def __init__(self, program: Program, compute: str) -> None:
        self._dtype = np.dtype(compute)
        self._arrays = ("g", *program.state)
        self._scalars = len(program.scalars)
        instructions, outputs = _apart(program)
        self._slots = {name: i for i, name in enumerate((*self._arrays, *program.scalars))}
        self._calls: list[tuple[Any, list[int], int]] = []
        self._count = len(self._slots)
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
        free: list[int] = []
        for k, (result, operation, operands) in enumerate(instructions):
            slots = [self._slots[name] for name in operands]
            for name in set(operands):
                if last[name] == k and self._slots[name] >= self._fixed:
                    free.append(self._slots[name])
            home = homes.get(result)
            if home is not None and last.get(home, -1) <= k:
                out = self._slots[home]
            elif free:
                out = free.pop()
            else:
                out, self._count = self._count, self._count + 1
            self._slots[result] = out
            self._calls.append((getattr(np, operation), slots, out))

    @property
    def _fixed(self) -> int:
        return len(self._arrays) + self._scalars

    def bind(self, table: Table) -> Launch:
        """A launch of the program over a table."""
        buffers = [np.empty(TILE, self._dtype) for _ in range(self._fixed, self._count)]
        return Launch(self, table, self._dtype, buffers)

    def tile(self, slots: list[Any]) -> None:
        """Run the program on one tile of every slot."""
        for function, operands, out in self._calls:
            function(*[slots[x] for x in operands], out=slots[out])
        for source, target in self._copies:
            slots[target][...] = slots[source]


class Launch:
    """A program bound to a table."""

    def __init__(self, kernel: Kernel, table: Table, dtype: Any, buffers: list[Any]) -> None:
        self._kernel, self._table, self._dtype, self._buffers = kernel, table, dtype, buffers
        self._state = [
            [_reals(address, n, dtype) for address in column]
            for column, n in zip(table.addresses[1:].T.tolist(), table.lengths, strict=True)
        ]
        self._chunks = table.chunks.tolist()
        self._spare = np.empty(TILE, dtype)
        self._begun = self._done = 0

    def __call__(self, number: int, values: Sequence[float]) -> None:
        """Run the program over the table, with these scalars."""
        table, buffers = self._table, self._buffers
        scalars = list(np.asarray(values, self._dtype))
        gradients = {
            leaf: _reals(address, table.lengths[leaf], self._dtype)
            for leaf, address in enumerate(table.gradients.tolist())
            if address
        }
        with np.errstate(all="ignore"):
            self._begun = number
            for leaf, start, n in self._chunks:
                if leaf not in gradients:
                    continue
                part = slice(start, start + n)
                g = gradients[leaf][part]
                if table.addresses[0, leaf] == table.addresses[1, leaf]:
                    self._spare[:n] = g  # g is p, which may be written before g is read
                    g = self._spare[:n]
                mine = [x[part] for x in self._state[leaf]]
                self._kernel.tile([g, *mine, *scalars, *(x[:n] for x in buffers)])
            self._done = number

    def unfinished(self, number: int) -> Unfinished | None:
        """The progress of the launch of this number; None if it is done."""
        if self._done == number:
            return None
        return Unfinished.HALF if self._begun == number else Unfinished.UNTOUCHED


def _apart(program: Program) -> tuple[list[Instruction], dict[str, str]]:
    """The instructions and outputs, with inputs that are outputs of other names copied first.

    So they are read before anything is written.
    """
    copies = []
    outputs = dict(zip(program.state, program.outputs, strict=True))
    for name, out in outputs.items():
        if out != name and out in ("g", *program.state):
            outputs[name] = f"copy_{name}"
            copies.append(Instruction(outputs[name], "positive", (out,)))
    return [*copies, *program.instructions], outputs


def _reals(address: int, number: int, dtype: Any) -> Any:
    """The numbers at an address, as an array that can be written."""
    return np.asarray(_Memory(address, number, dtype))


class _Memory:
    """Exposes raw memory through `__array_interface__`."""

    def __init__(self, address: int, number: int, dtype: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": (number,),
            "typestr": dtype.str,
        }
