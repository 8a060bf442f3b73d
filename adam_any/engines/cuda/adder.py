"""The sums of the leaves of one launch: a launch that adds, two that fold, and one wait.

Blocks, and the order in which a block is added, are those of `sums`; so are the bits.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ...leaf import Leaf
from ...sums import BLOCK, added
from ..kernels.program import Kind, Traced
from ..kernels.table import addresses, chunks
from .codegen import ADDING, CAPACITIES, FOLDED, fold_source, layout, sum_source
from .device import Device


class Adder:
    """The terms of a program over the leaves of a launch."""

    def __init__(self, traced: Traced, kind: Kind, leaves: Sequence[Leaf], mine: slice) -> None:
        leaves = leaves[mine]
        capacity = next(n for n in CAPACITIES if n >= len(leaves))
        self._texts = sum_source(kind, capacity), fold_source()
        lengths = [leaf.reals for leaf in leaves]
        counts = [-(-n // BLOCK) for n in lengths]
        self._ranges = list(pairwise(accumulate(counts, initial=0)))
        self._blocks, self._terms = sum(counts), len(kind.program.outputs)
        state = traced.program.state
        rows = [addresses(leaf, state, kind.program) for leaf in leaves]
        self._held = [np.asarray(rows, np.int64).reshape(len(leaves), -1), chunks(lengths, BLOCK)]
        head, gradients = layout(kind.program, kind.compute, capacity)
        self._head, self._gradients = struct.Struct(head), struct.Struct(f"{len(leaves)}q")
        self._argument = np.zeros(1, f"V{struct.calcsize(head + gradients)}")
        self._fold = np.zeros(1, "V40")
        self._stream: Any = None

    def __call__(
        self, device: Device, stream: Any, values: Sequence[float], at: Sequence[int]
    ) -> list[Sequence[float]]:
        """The sums of every leaf; of those without an address they mean nothing."""
        if self._stream is None or self._stream.ptr != stream.ptr:
            runs = self._blocks * self._terms
            rooms = [device.room(n, stream) for n in (runs * ADDING, runs)]
            self._tables, self._stream = [*device.upload(self._held, stream), *rooms], stream
            self._kernels = [device.kernel(text) for text in self._texts]
        state, chunk, left, results = (x.data.ptr for x in self._tables)
        room = self._argument.view(np.uint8).data
        self._head.pack_into(room, 0, state, chunk, left, 0, *values)
        self._gradients.pack_into(room, self._head.size, *at)
        add, fold = self._kernels
        add((self._blocks,), (ADDING,), (self._argument,), stream=stream)
        runs = self._blocks * self._terms
        for to, row, apart in ((left, ADDING, FOLDED), (results, 1, 1)):
            threads = runs * apart
            places = left, to, row, apart, threads
            struct.pack_into("5q", self._fold.view(np.uint8).data, 0, *places)
            fold((-(-threads // ADDING),), (ADDING,), (self._fold,), stream=stream)
        found = device.numbers(self._tables[-1], stream).reshape(self._blocks, self._terms)
        return [[added(part) for part in found[i:j].T.tolist()] for i, j in self._ranges]
