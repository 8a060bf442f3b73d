"""The look at NumPy arrays as the objects they are: the part that Numba compiles.

It runs while its thread holds the interpreter, so no object changes or goes meanwhile. `objects`
makes what it is given.

This module imports Numba. It is compiled for itself, and is part of its cache key.
"""

from __future__ import annotations

from numba import njit

from ...libraries import numpy_objects as layout
from . import objects as given
from .work_queue import words


@njit
def fits(x: int, row: int, array: int, flags: int) -> bool:
    """Return whether an object is an array as a row says, and has these flags."""
    found = words(x)
    if found[layout.CLASS] != array:
        return False
    expected = words(row)
    if found[layout.DTYPE] != expected[given.TYPE] or found[layout.FLAGS] & flags != flags:
        return False
    rank = expected[given.RANK]
    if found[layout.AXES] & layout.HALF != rank:
        return False
    mine, shape = words(found[layout.SHAPE]), words(expected[given.SHAPES])
    for axis in range(rank):  # noqa: SIM110 (Numba has no all() of a generator)
        if mine[axis] != shape[axis]:
            return False
    return True


@njit
def run(job: int, container: int) -> int:
    """Write down where the gradients in a list or tuple are, if all is as expected; else return 0.

    That is: the arrays that are watched are where they were, and no gradient may overlap what is
    written.
    """
    mine = words(job)
    array, row = mine[given.ARRAY], mine[given.EXPECTED]
    held, items = words(container), words(container + 8 * layout.TUPLE_ITEMS)
    if held[layout.LENGTH] < mine[given.ITEMS]:
        return 0  # another thread has taken some out
    if held[layout.CLASS] == mine[given.LIST]:
        items = words(held[layout.LIST_ITEMS])
    found, lows, highs = words(mine[given.ROW]), words(mine[given.LOWS]), words(mine[given.HIGHS])
    for k in range(mine[given.GRADIENTS]):
        expected = words(row)
        x = items[expected[given.PLACE]]
        if not fits(x, row, array, layout.ORDERED):
            return 0
        at = words(x)[layout.ELEMENTS]
        # As `Written.near`: the first leaf above the gradient, and how far those below it reach.
        first, last = 0, mine[given.SPANS]
        while first < last:
            middle = (first + last) >> 1
            if lows[middle] < at + expected[given.SIZE]:
                first = middle + 1
            else:
                last = middle
        if highs[first] > at:
            return 0
        found[k] = at
        row += 8 * given.WIDTH
    for _ in range(mine[given.WATCHED]):
        expected = words(row)
        x = expected[given.OBJECT]
        if (
            not fits(x, row, array, layout.WRITABLE)
            or words(x)[layout.ELEMENTS] != expected[given.PLACE]
        ):
            return 0
        row += 8 * given.WIDTH
    return 1
