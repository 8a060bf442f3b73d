"""The look at NumPy arrays as the objects they are: all arrays of a step in one compiled call.

It answers the two questions of a step like the one before: are the parameters where they were, and
where are the gradients? Asked one by one in Python these take 1 us an array, and longer when a
large step has emptied the core's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...leaf import Leaf
from ...memory import Written

#: What a call is given, word by word: the addresses of the two classes, `ndarray` and `list`; how
#: many items the container has at least; where the rows are, first those of the gradients, then
#: those of the arrays that are watched, and how many there are; where to write the gradients'
#: addresses; and the memory that is written.
ARRAY, LIST, ITEMS, EXPECTED, GRADIENTS, WATCHED, ROW, LOWS, HIGHS, SPANS = range(10)

#: What is expected of an array: dtype, number of axes, and where its shape is. Then, of a gradient,
#: its place in the container and its size in bytes; of one that is watched, where its elements
#: are, and the object itself.
TYPE, RANK, SHAPES, PLACE, SIZE = range(5)
OBJECT = SIZE
WIDTH = 5

#: The types of what the function is called with, and returns.
SIGNATURE = "int64(int64, int64)"

TEXT = '''\
"""The look at array objects."""

from adam_any.engines.cpu.objects_numba import run
'''


class Look:
    """Looks at the gradients of some leaves, and at arrays that are to stay as they are."""

    def __init__(
        self, leaves: Sequence[Leaf], watched: Sequence[Any], written: Written, gradients: Any
    ) -> None:
        """`gradients` is where the addresses are written to."""
        from . import compiler

        self._run = compiler.function(TEXT, SIGNATURE)
        shapes = [*(leaf.shape for leaf in leaves), *(x.shape for x in watched)]
        sizes = np.array([n for shape in shapes for n in shape] or [0], np.int64)
        ranks = np.array([len(shape) for shape in shapes], np.int64)
        rows = np.zeros((len(shapes), WIDTH), np.int64)
        rows[:, TYPE] = [
            *[id(leaves[0].array.dtype)] * len(leaves),
            *(id(x.dtype) for x in watched),
        ]
        rows[:, RANK] = ranks
        rows[:, SHAPES] = sizes.ctypes.data + 8 * (np.cumsum(ranks) - ranks)
        rows[: len(leaves), PLACE] = [leaf.index for leaf in leaves]
        rows[: len(leaves), SIZE] = [leaf.reals * leaf.dtype.size for leaf in leaves]
        rows[len(leaves) :, PLACE] = [x.ctypes.data for x in watched]
        rows[len(leaves) :, OBJECT] = [id(x) for x in watched]
        lows, highs = written.bounds
        held = rows, np.asarray(gradients), lows, highs
        places = [x.ctypes.data for x in held]
        self._job = np.array(
            [
                *(id(np.ndarray), id(list), 1 + max(leaf.index for leaf in leaves)),
                *(places[0], len(leaves), len(watched), *places[1:], len(lows)),
            ],
            np.int64,
        )
        self._held, self._found = (held, sizes, list(watched)), gradients
        self._address = self._job.ctypes.data

    def __call__(self, grads: Sequence[Any]) -> Sequence[int] | None:
        """Where each gradient is, from a list or tuple of those of all leaves; None for a doubt."""
        return self._found if self._run(self._address, id(grads)) else None
