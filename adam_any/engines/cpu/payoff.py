"""The moment when compiling pays: until then a program runs in tiles, with the same bits.

Importing Numba and compiling takes a second or more, and a third of that where the machine code is
on disk; a step of a few elements takes 30 us in tiles, and the steps of a small problem may never
come to a second. So what tiles cost is counted, in elements and not in seconds. A program is
compiled when that, and what a thousand steps more would, reaches the price: a large leaf at its
first step, a small one perhaps never; nobody waits for much more than twice as long as if the
number of steps had been known.

It is compiled in a step, before anything is written, and not beside it: while Numba works in
another thread, each NumPy call that lets go of the interpreter waits 5 ms to get it back.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from math import inf

from ..kernels.program import Kind
from . import compiler, objects, tiles
from .codegen import numba_source

#: What loading machine code costs, and compiling, in elements that tiles lag behind meanwhile: 0.4
#: and 1.1 s at 2.3 ns (float32, one core of a Xeon); and what each tile costs beside its elements.
LOADING, COMPILING = 1 << 27, 1 << 29
TILE = 1 << 13

#: The same for the look at all arrays at once (`objects`): it is loaded in 5 ms and compiled in 0.3
#: s, as parts of the above; and an array takes 1 us longer where it is looked at by itself.
LOADING_LOOK, COMPILING_LOOK, ARRAY = 1 / 64, 1 / 4, 1 << 9

#: How many steps a plan is expected to make yet.
AHEAD = 1000

#: What each program, in its dtypes, has cost so far in this process: a list of one number.
_spent: dict[Kind, list[float]] = {}


class Payoff:
    """The choice of the kernel for a plan whose leaves have so many reals each."""

    def __init__(self, kind: Kind, lengths: Sequence[int]) -> None:
        self._kind = kind
        self._step = sum(n + -(-n // tiles.TILE) * TILE for n in lengths)
        self._price: float = price(kind)
        self._spent = _spent.setdefault(kind, [0.0])

    def kernel(self) -> tiles.Kernel | compiler.Kernel:
        """The kernel for the first step of the plan, and those that follow."""
        if self.due():
            self._price = inf  # no other one will ever be due
            if compiler.missing() is None:
                try:
                    return compiler.Kernel(self._kind)
                except Exception as error:  # whatever it is, the steps can go on
                    self._spent[0] = -inf
                    warnings.warn(
                        f"Numba cannot compile a rule, which stays in tiles: {error!r}",
                        RuntimeWarning,
                        stacklevel=2,
                    )
        return tiles.Kernel(self._kind)

    def due(self) -> bool:
        """Count a step, and say whether a plan made now would have another kernel."""
        if self._price == inf:
            return False
        self._spent[0] += self._step
        return self._spent[0] + AHEAD * self._step >= self._price


def price(kind: Kind) -> int:
    """The cost of having a program compiled: nothing, if it is."""
    text = numba_source(kind)
    if compiler.loaded(text):
        return 0
    return LOADING if compiler.kept(text) else COMPILING


def looks(arrays: int) -> int:
    """The number of steps after which it pays to look at so many arrays at once."""
    if compiler.loaded(objects.TEXT):
        return 1
    kept = compiler.kept(objects.TEXT)
    price = LOADING_LOOK * LOADING if kept else COMPILING_LOOK * COMPILING
    return max(1, int(min(price / (ARRAY * arrays), sys.maxsize)) - AHEAD)
