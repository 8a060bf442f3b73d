"""The look at NumPy arrays as the objects they are: the part that Numba compiles.

It runs while its thread holds the interpreter, so no object changes or goes meanwhile. `objects`
makes what it is given.

This module imports Numba. It is compiled for itself, and is part of its cache key.
"""

from __future__ import annotations

from numba import njit

from ...libraries.numpy_objects import (
    AXES,
    CLASS,
    DTYPE,
    ELEMENTS,
    FLAGS,
    HALF,
    LIST_ITEMS,
    ORDERED,
    SHAPE,
    TUPLE_ITEMS,
    WRITABLE,
)
from .objects import (
    ARRAY,
    EXPECTED,
    GRADIENTS,
    HIGHS,
    LIST,
    LOWS,
    OBJECT,
    PLACE,
    RANK,
    ROW,
    SHAPES,
    SIZE,
    SPANS,
    TYPE,
    WATCHED,
    WIDTH,
)
from .work_queue import words


@njit
def fits(x: int, row: int, array: int, flags: int) -> bool:
    """Return whether an object is an array as a row says, and has these flags."""
    found = words(x)
    if found[CLASS] != array:
        return False
    expected = words(row)
    if found[DTYPE] != expected[TYPE] or found[FLAGS] & flags != flags:
        return False
    rank = expected[RANK]
    if found[AXES] & HALF != rank:
        return False
    mine, shape = words(found[SHAPE]), words(expected[SHAPES])
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
    array, row = mine[ARRAY], mine[EXPECTED]
    items = words(container + 8 * TUPLE_ITEMS)
    if words(container)[CLASS] == mine[LIST]:
        items = words(words(container)[LIST_ITEMS])
    found, lows, highs = words(mine[ROW]), words(mine[LOWS]), words(mine[HIGHS])
    for k in range(mine[GRADIENTS]):
        expected = words(row)
        x = items[expected[PLACE]]
        if not fits(x, row, array, ORDERED):
            return 0
        at = words(x)[ELEMENTS]
        # As `Written.near`: the first leaf above the gradient, and how far those below it reach.
        first, last = 0, mine[SPANS]
        while first < last:
            middle = (first + last) >> 1
            if lows[middle] < at + expected[SIZE]:
                first = middle + 1
            else:
                last = middle
        if highs[first] > at:
            return 0
        found[k] = at
        row += 8 * WIDTH
    for _ in range(mine[WATCHED]):
        expected = words(row)
        x = expected[OBJECT]
        if not fits(x, row, array, WRITABLE) or words(x)[ELEMENTS] != expected[PLACE]:
            return 0
        row += 8 * WIDTH
    return 1
