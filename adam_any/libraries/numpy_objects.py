"""Where NumPy arrays lie, read from the array objects themselves.

To ask an array for its class, dtype, shape, flags and address takes a microsecond: most of a step
of a few elements, and of one of a thousand small arrays. The fields of an array object are part of
NumPy's binary interface, the same since its first version, so they are read as words of memory, by
`struct` here, and by compiled code in `engines.cpu.objects`. `understood` tries that first on
objects whose facts are known; where an interpreter or a NumPy stores them otherwise, nothing is
read, and each array is asked.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ..memory import reals_at

#: Words of an object: its class, which every object has; and of an array the address of its
#: elements, the number of its axes, the address of its shape, its dtype and its flags.
CLASS, ELEMENTS, AXES, SHAPE, DTYPE, FLAGS = 1, 2, 3, 4, 7, 8

#: The words of a list or tuple: its length; in a list the address of its items; and in a tuple
#: where they begin, with Python 3.14 a word later.
LENGTH, LIST_ITEMS, TUPLE_ITEMS = 2, 3, tuple.__basicsize__ // 8

#: The lower half of a word, which is all of an int; and of the flags, those for C order, aligned,
#: and, for what is written, writable.
HALF, ORDERED, WRITABLE = 0xFFFFFFFF, 0x101, 0x501

#: Reads the address of the elements, the dtype and the flags, of one array.
_READ = struct.Struct("=16xq32xqi").unpack_from

#: All memory, as bytes. Only what is known to be there is read.
_ALL = (ctypes.c_char * sys.maxsize).from_address(0)

_ARRAY = np.ndarray


class Finder:
    """Finds arrays of these shapes, and of one dtype."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: Any) -> None:
        self._shapes, self._dtype = shapes, id(dtype)

    def find(self, arrays: Sequence[Any], flags: int = ORDERED) -> list[int | None]:
        """The address of each; None unless it is as expected, and has these flags."""
        found: list[int | None] = []
        dtype = self._dtype
        for x, shape in zip(arrays, self._shapes):  # noqa: B905 (they are as many)
            address = None
            if type(x) is _ARRAY and x.shape == shape:
                at, own, bits = _READ(_ALL, id(x))
                if own == dtype and bits & flags == flags:
                    address = at
            found.append(address)
        return found


def words_of(x: Any, number: int) -> Any:
    """The first words of an object, as long as it lives."""
    return reals_at(id(x), number, np.dtype(np.int64))


@cache
def understood() -> bool:
    """Return whether objects are stored as described here; it is tried out on some."""
    if sys.implementation.name != "cpython" or np.dtype(np.intp).itemsize != 8:
        return False
    if np.ndarray.__basicsize__ < 8 * (1 + FLAGS) or list.__basicsize__ < 8 * (1 + LIST_ITEMS):
        return False
    return _containers_understood() and _arrays_understood()


def _containers_understood() -> bool:
    items = [object(), 1.0, None]
    same, places = tuple(items), [id(x) for x in items]
    words = words_of(same, TUPLE_ITEMS + len(items)).tolist()
    if words[LENGTH] != len(items) or words[TUPLE_ITEMS:] != places:
        return False
    words = words_of(items, 1 + LIST_ITEMS).tolist()
    if words[CLASS] != id(list) or words[LENGTH] != len(items):
        return False
    return bool(reals_at(words[LIST_ITEMS], len(items), np.dtype(np.int64)).tolist() == places)


def _arrays_understood() -> bool:
    base = np.zeros((4, 6, 5), np.float32)
    line = base.reshape(-1)
    fitting = [base, base[1], base[2, 3], base[0, 0, 0:1], base[:0], line[7:], base[0, 0, 0, ...]]
    locked = base[3]
    locked.flags.writeable = False
    others: list[Any] = [base[:, :, 0], base[:, 1].T, base[0, :5], base[0].astype(np.float64)]
    others += [[], 1.0]
    like = Finder([locked.shape], base.dtype)
    if (
        Finder([x.shape for x in fitting], base.dtype).find(fitting, WRITABLE)
        != [x.ctypes.data for x in fitting]
        or like.find([locked]) != [locked.ctypes.data]
        or like.find([locked], WRITABLE) != [None]
        or any(like.find([x]) != [None] for x in others)
    ):
        return False
    for x in fitting:
        word = words_of(x, 1 + FLAGS)
        if word[CLASS] != id(_ARRAY) or word[DTYPE] != id(x.dtype) or word[AXES] & HALF != x.ndim:
            return False
        if word[ELEMENTS] != x.ctypes.data or word[FLAGS] & WRITABLE != WRITABLE:
            return False
        shape = reals_at(word[SHAPE].item(), x.ndim, np.dtype(np.int64)) if x.ndim else ()
        if tuple(shape) != x.shape:
            return False
    return bool(words_of(locked, 1 + FLAGS)[FLAGS] & WRITABLE != WRITABLE)
