"""Tables of addresses and chunks, which the kernels of both wings work through.

- A table holds one column of addresses for each leaf: its gradient, its parameter, its moments. A
  gradient address of zero means "not this time", whatever the reason.
- A chunk is a part of one leaf: leaf, first element, number of elements. A task is a run of chunks
  with about equally many elements, so one huge leaf and a thousand small ones both balance.
- Every number has 64 bits, and none is computed from an allocated array: 2**33 elements can be
  planned anywhere.
- A leaf is read as one line of real numbers, in the order of its memory. So it must be dense there,
  in whatever order of its axes; a complex one is twice as many reals.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from ...dtypes import DTYPES
from ...leaf import Leaf
from ...libraries import Addresses
from ...memory import Written, order, same_order
from ...words import named
from ..protocol import Unfinished, unfinished
from .program import Program

Shape = tuple[int, ...]


class Table:
    """The work of one call of a kernel. Its arrays keep their place in memory."""

    def __init__(self, state: Sequence[Sequence[int]], lengths: Sequence[int], chunk: int) -> None:
        """Plan the work for leaves of these addresses and lengths, in chunks of at most `chunk`.

        `state` has for each leaf the addresses of its arrays but the gradient; `lengths` its number
        of reals.
        """
        self.addresses = np.zeros((1 + len(state[0]), len(state)), np.int64)
        self.addresses[1:] = np.asarray(state, np.int64).reshape(len(state), -1).T
        self.chunks = chunks(lengths, chunk)
        self.tasks = tasks(self.chunks[:, 2], chunk)
        self.lengths = lengths
        self.elements = sum(lengths)

    @property
    def gradients(self) -> Any:
        """The row of gradient addresses, to be written before each call."""
        return self.addresses[0]


class Words:
    """The first words of a launch's scalars, which say how far it has come.

    They are its number, and the same again when it has begun, and when it is done, as the kernel
    itself writes them.
    """

    FORMAT = "q16x"  # packing a number clears the other two
    SIZE = struct.calcsize(FORMAT)

    def __init__(self, scalars: str) -> None:
        """`scalars` is the format of what follows."""
        self._format = struct.Struct(self.FORMAT + scalars)
        self.array = np.zeros(-(-self._format.size // 8), np.int64)
        #: Writes a number and the scalars.
        self.pack = partial(self._format.pack_into, self.array.data.cast("B"), 0)

    def unfinished(self, number: int) -> Unfinished | None:
        """The progress of the launch of this number; None if it is done."""
        return unfinished(number, *self.array[1:3].tolist())


class Gradients:
    """Finds the gradients of a plan's leaves in memory.

    It is one tight pass over all, and a look at each that cannot be read in place, or that may
    overlap a leaf that is written.
    """

    def __init__(self, leaves: Sequence[Leaf], addresses: Addresses) -> None:
        self._leaves, self._find, self._pick = leaves, addresses.find, picker(leaves)
        self._sizes = [leaf.reals * leaf.dtype.size for leaf in leaves]
        self._clear: tuple[Written, list[int]] | None = None

    def again(self, grads: Sequence[Any]) -> list[int] | None:
        """The address of each, if all can be read in place, without a look; else None."""
        found: list[Any] = self._find(self._pick(grads))
        if None in found or self._clear is None:
            return None
        written, known = self._clear
        if found != known:
            if written.near(found, self._sizes):
                return None
            self._clear = written, found
        return found

    def find(
        self, grads: Sequence[Any], written: Written, look: Callable[[Leaf, Any, Written], Any]
    ) -> list[Any]:
        """For each leaf an address, None, or what `look` returns."""
        mine = self._pick(grads)
        found: list[Any] = self._find(mine)
        known, unclear = found, []
        if None in found:
            known = [address or 0 for address in found]
            unclear = [k for k, x in enumerate(found) if x is None and mine[k] is not None]
        if self._clear != (written, known):  # most often they are where they were at the last step
            near = written.near(known, self._sizes)
            self._clear = None if near else (written, [*known])
            unclear += near
        for k in unclear:
            found[k] = look(self._leaves[k], mine[k], written)
        return found


def chunks(lengths: Sequence[int], limit: int) -> Any:
    """Rows of leaf, start and length that cover every leaf once, each at most `limit` long."""
    sizes = np.asarray(lengths, np.int64)
    counts = -(-sizes // limit)
    leaf = np.repeat(np.arange(len(sizes), dtype=np.int64), counts)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.arange(len(leaf), dtype=np.int64) - before) * limit
    return np.stack([leaf, start, np.minimum(limit, sizes[leaf] - start)], axis=1)


def tasks(lengths: Any, grain: int) -> Any:
    """The beginnings of runs of about `grain` elements among chunks of these lengths, and the end.

    A run ends with the chunk that reaches the next multiple of `grain`.
    """
    run = (np.cumsum(lengths, dtype=np.int64) - 1) // grain
    begins = np.flatnonzero(np.diff(run, prepend=-1))
    return np.append(begins, len(lengths)).astype(np.int64)


def why_not_dense(leaf: Leaf) -> str | None:
    """The reason why a leaf is not one line of aligned reals at an address, or None."""
    name, size = named(leaf.path), leaf.dtype.size
    reason = leaf.library.no_address(leaf.array)
    if reason is not None:
        return f"{name} {reason}"
    at = leaf.extent
    if at is None:
        return f"{name} has no address"
    if order(at) is None:
        return f"{name} is not dense: strides {at.strides} for shape {at.shape}; pass a copy"
    if at.address % size:
        return f"{name} is not aligned: its address is not a multiple of {size}; pass a copy"
    return None


def arrays(leaf: Leaf, state: Sequence[str], program: Program) -> list[Any]:
    """The arrays of a leaf that a program reads or writes, in the order of `program.arrays`.

    `state` has the names of its parameter and moments.
    """
    named = dict(zip(state, (leaf.array, *leaf.moments), strict=True))
    pairs = zip(program.operands, program.fields, strict=True)
    others = [named[name] if name in named else leaf.operands[path] for name, path in pairs]
    return [*(named[name] for name in program.state), *others]


def addresses(leaf: Leaf, state: Sequence[str], program: Program) -> list[int]:
    """Where these arrays are."""
    extents = map(leaf.library.extent, arrays(leaf, state, program))
    return [extent.address for extent in extents if extent is not None]


def match_memory_order(leaf: Leaf) -> None:
    """Give moments and operands the parameter's order in memory.

    They may have come from anywhere; an operand of another order, or at an address that a GPU
    cannot read at, is copied.
    """
    p = leaf.extent
    assert p is not None
    size, wide = leaf.dtype.size, DTYPES[leaf.backend.compute].size
    strides = tuple(stride // size * wide for stride in p.strides)
    if leaf.dtype.complex:
        strides = (*strides, wide)

    def like(old: Any) -> Any:
        at = leaf.library.extent(old)
        if at is not None and at.address % wide == 0 and same_order(at.shape, at.strides, strides):
            return old
        new = leaf.library.zeros(leaf.array, leaf.backend.compute)
        leaf.library.write(new, old)
        return new

    leaf.moments = tuple(map(like, leaf.moments))
    leaf.operands = {path: like(x) for path, x in leaf.operands.items()}


def picker(leaves: Sequence[Leaf]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that picks these leaves' gradients from those of all leaves."""
    indices = [leaf.index for leaf in leaves]
    if indices == list(range(len(indices))):
        return lambda grads: grads[: len(indices)]
    if len(indices) == 1:
        return lambda grads: (grads[indices[0]],)
    return itemgetter(*indices)


def pieces(shape: Shape, limit: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Parts of at most `limit` elements that together are a C-ordered array, one after another.

    For each the number of elements before it, and its index.
    """
    inner = math.prod(shape[1:])
    if math.prod(shape) <= limit:
        yield 0, (...,)
    elif inner <= limit:
        rows = limit // inner
        for i in range(0, shape[0], rows):
            yield i * inner, (slice(i, i + rows),)
    else:
        for i in range(shape[0]):
            for before, index in pieces(shape[1:], limit):
                yield i * inner + before, (i, *index)
