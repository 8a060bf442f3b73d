"""Where NumPy arrays lie, read from the array objects themselves.

To ask an array for its class, dtype, shape, flags and address takes a microsecond: most of a step
of a few elements, and of one of a thousand small arrays. The fields of an array object are part of
NumPy's binary interface, the same since its first version, so they are read as words of memory:
those of one array by `struct`, those of many by a few operations of NumPy on all of them together,
in a tenth of the time. `understood` tries that first on arrays whose facts are known; where an
interpreter or a NumPy stores them otherwise, nothing is read, and each array is asked.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..memory import reals_at

#: Words of an object: its class, which every object has; and of an array the number of its axes,
#: its dtype and its flags, the address of its elements, and that of its shape.
CLASS, FACTS, ELEMENTS, SHAPE = 1, np.array([3, 7, 8]), 2, 4

#: Reads the address of the elements, the dtype and the flags, of one array.
_READ = struct.Struct("=16xq32xqi").unpack_from

#: The lower half of a word, which is all of an int; and of the flags, those for C order, aligned,
#: and, for what is written, writable.
HALF, ORDERED, WRITABLE = 0xFFFFFFFF, 0x101, 0x501

#: All memory, as bytes, and as words but for the first. Only what is known to be there is read.
_ALL = (ctypes.c_char * sys.maxsize).from_address(0)
_WORDS = reals_at(8, 1 << 59, np.dtype(np.int64))

_ARRAY = np.ndarray

#: Arrays that are found faster together than one by one.
MANY = 24


class Few:
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

    def watch(self, arrays: Sequence[Any]) -> Callable[[], Any]:
        """A function that says where arrays are, which compares, if they are still written."""
        return lambda: self.find(arrays, WRITABLE)


class Many(Few):
    """Finds many arrays of these shapes, and of one dtype."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: Any) -> None:
        super().__init__(shapes, dtype)
        ranks = np.array([len(shape) for shape in shapes], np.int64)
        self._shape = np.array([n for shape in shapes for n in shape], np.int64)
        self._array = np.repeat(np.arange(len(shapes)), ranks)
        self._axis = np.arange(len(self._shape)) - np.repeat(np.cumsum(ranks) - ranks, ranks)
        self._wanted = np.empty((len(shapes), len(FACTS)), np.int64)
        self._wanted[:, 0], self._wanted[:, 1] = ranks, id(dtype)

    def find(self, arrays: Sequence[Any], flags: int = ORDERED) -> list[int | None]:
        """The address of each; None unless it is as expected, and has these flags."""
        found = self._together(_places(arrays), flags)
        return super().find(arrays, flags) if found is None else found.tolist()

    def watch(self, arrays: Sequence[Any]) -> Callable[[], Any]:
        """A function that says where arrays are, which compares, if they are still written."""
        first = _places(arrays)

        def now() -> Any:
            found = self._together(first, WRITABLE)
            return None if found is None else found.tobytes()

        return now

    def _together(self, first: Any, flags: int) -> Any:
        """The addresses of arrays whose first words are here; None unless all are as expected."""
        self._wanted[:, 2] = flags
        if (_WORDS[first + CLASS] != id(_ARRAY)).any():
            return None  # an object that may have no further words
        facts = _WORDS[first[:, None] + FACTS] & (HALF, -1, flags)
        if not np.array_equal(facts, self._wanted):
            return None
        shapes = _place(_WORDS[first + SHAPE])
        if not np.array_equal(_WORDS[shapes[self._array] + self._axis], self._shape):
            return None
        return _WORDS[first + ELEMENTS]


def _places(objects: Sequence[Any]) -> Any:
    """Where the words of each object begin."""
    return _place(np.fromiter(map(id, objects), np.int64, len(objects)))


def _place(address: Any) -> Any:
    """The index of the word at an address."""
    return address // 8 - 1


@cache
def understood() -> bool:
    """Return whether array objects are stored as described here; it is tried out on some."""
    if sys.implementation.name != "cpython" or np.dtype(np.intp).itemsize != 8:
        return False
    if np.ndarray.__basicsize__ < 8 * (1 + max(FACTS)) or id(np.ndarray) % 8:
        return False
    base = np.zeros((4, 6, 5), np.float32)
    line = base.reshape(-1)
    fitting = [base, base[1], base[2, 3], base[0, 0, 0:1], base[:0], line[7:], base[0, 0, 0, ...]]
    locked = base[3]
    locked.flags.writeable = False
    others: list[Any] = [base[:, :, 0], base[:, 1].T, base[0, :5], base[0].astype(np.float64)]
    others += [[], 1.0]
    places = [x.ctypes.data for x in fitting]
    for kind in (Few, Many):
        like = kind([locked.shape], base.dtype)
        if (
            kind([x.shape for x in fitting], base.dtype).find(fitting, WRITABLE) != places
            or like.find([locked]) != [locked.ctypes.data]
            or like.find([locked], WRITABLE) != [None]
            or any(like.find([x]) != [None] for x in others)
        ):
            return False
    return True
