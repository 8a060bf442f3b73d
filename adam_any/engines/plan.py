"""Addresses and chunks: what the engines that write in place walk, on the CPU and on a GPU.

- A table holds one column of addresses for each leaf: its gradient, its parameter, its moments. A
  gradient address of zero means "not this time", whatever the reason.
- A chunk is a part of one leaf: leaf, first element, number of elements. A task is a run of chunks
  with about equally many elements, so one huge leaf and a thousand small ones both balance.
- Every number has 64 bits, and none is computed from an allocated array: 2**33 elements can be
  planned anywhere.
- A leaf is walked as one line of real numbers, in the order in which it lies in memory. So it must
  be dense there, in whatever order of its axes; a complex one is twice as many reals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Protocol

import numpy as np

from ..libraries import zeros
from ..memory import Extent, Written
from .base import Leaf

Shape = tuple[int, ...]


class Table:
    """What one call of a kernel works through. Its arrays keep their place in memory."""

    def __init__(self, state: Sequence[Sequence[int]], lengths: Sequence[int], chunk: int) -> None:
        """`state` has for each leaf the addresses of its parameter and moments; `lengths` its
        number of reals; no chunk is longer than `chunk`."""
        self.addresses = np.zeros((1 + len(state[0]), len(state)), np.int64)
        self.addresses[1:] = np.asarray(state, np.int64).T
        self.chunks = chunks(lengths, chunk)
        self.tasks = tasks(self.chunks[:, 2], chunk)
        self.lengths = lengths
        self.elements = sum(lengths)

    @property
    def gradients(self) -> Any:
        """The row of gradient addresses, to be written before each call."""
        return self.addresses[0]


class Arrays(Protocol):
    """What knows the arrays of a library, such as `host.NumPy`."""

    def addresses(self, grads: Sequence[Any]) -> list[int | None]:
        """For each gradient its address if it can be read in place, or else None."""
        ...


class Gradients:
    """Finds where the gradients of a plan's leaves lie: one tight pass over all, and a look at each
    that cannot be read in place, or that may lie where a leaf is written."""

    def __init__(self, leaves: Sequence[Leaf], arrays: Arrays) -> None:
        self._leaves, self._addresses, self._pick = leaves, arrays.addresses, _picker(leaves)
        self._sizes = [length(leaf) * real_size(leaf) for leaf in leaves]
        self._clear: tuple[Written, list[int]] | None = None

    def find(
        self, grads: Sequence[Any], written: Written, look: Callable[[Leaf, Any, Written], Any]
    ) -> list[Any]:
        """For each leaf an address, None, or what `look` returns."""
        mine = self._pick(grads)
        found: list[Any] = self._addresses(mine)
        known, odd = found, []
        if None in found:
            known = [address or 0 for address in found]
            odd = [k for k, x in enumerate(found) if x is None and mine[k] is not None]
        if self._clear != (written, known):  # most often they lie where they lay at the last step
            near = written.near(known, self._sizes)
            self._clear = None if near else (written, [*known])
            odd += near
        for k in odd:
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
    """Where each run of about `grain` elements begins among chunks of these lengths, and the end.

    A run ends with the chunk that reaches the next multiple of `grain`.
    """
    run = (np.cumsum(lengths, dtype=np.int64) - 1) // grain
    begins = np.flatnonzero(np.diff(run, prepend=-1))
    return np.append(begins, len(lengths)).astype(np.int64)


def layout(leaf: Leaf) -> str | None:
    """Why a leaf cannot be walked as one line of aligned reals, or None."""
    at = leaf.extent
    if at is None:
        return f"{leaf.path!r} has no address"
    if order(at) is None:
        return f"{leaf.path!r} is not dense: strides {at.strides} for shape {at.shape}"
    if at.address % real_size(leaf):
        return f"{leaf.path!r} is not aligned: its address is no multiple of {real_size(leaf)}"
    return None


def order(at: Extent) -> Shape | None:
    """The axes from the slowest to the fastest in memory, or None if there are gaps between."""
    axes = sorted(range(len(at.shape)), key=lambda axis: (-at.strides[axis], axis))
    expected = at.itemsize
    for axis in reversed(axes):
        if at.shape[axis] > 1:
            if at.strides[axis] != expected:
                return None if 0 not in at.shape else tuple(axes)
            expected *= at.shape[axis]
    return tuple(axes)


def alike(shape: Shape, a: Shape, b: Shape) -> bool:
    """Whether two arrays of one shape, with these strides, lie in memory in the same order."""
    return a == b or all(n < 2 or x == y for n, x, y in zip(shape, a, b, strict=True))


def real_size(leaf: Leaf) -> int:
    """The bytes of one real number of a parameter; of its moments, see `moment_size`."""
    return 2 if leaf.backend.dtype in ("float16", "bfloat16") else moment_size(leaf)


def moment_size(leaf: Leaf) -> int:
    """The bytes of one number of a moment, which has the compute dtype."""
    return 8 if leaf.backend.compute == "float64" else 4


def length(leaf: Leaf) -> int:
    """The number of reals of a leaf."""
    return math.prod(leaf.shape) * (2 if leaf.backend.complex else 1)


def addresses(leaf: Leaf) -> list[int]:
    """Where the parameter and its moments lie."""
    extents = [leaf.extent, *map(leaf.library.extent, leaf.moments)]
    return [extent.address for extent in extents if extent is not None]


def lay_out(leaf: Leaf) -> None:
    """Give the moments the parameter's order in memory; they may have come from anywhere."""
    p = leaf.extent
    assert p is not None
    size, wide = real_size(leaf), moment_size(leaf)
    strides = tuple(stride // size * wide for stride in p.strides)
    if leaf.backend.complex:
        strides = (*strides, wide)

    def like(old: Any) -> Any:
        at = leaf.library.extent(old)
        if at is not None and alike(at.shape, at.strides, strides):
            return old
        new = zeros(leaf.library, leaf.array, leaf.backend.compute)
        leaf.library.write(new, old)
        return new

    leaf.moments = tuple(map(like, leaf.moments))


def _picker(leaves: Sequence[Leaf]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What picks these leaves' gradients from those of all leaves."""
    indices = [leaf.index for leaf in leaves]
    if indices == list(range(len(indices))):
        return lambda grads: grads[: len(indices)]
    if len(indices) == 1:
        return lambda grads: (grads[indices[0]],)
    return itemgetter(*indices)


def pieces(shape: Shape, limit: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Parts of at most `limit` elements that together are a C-ordered array, one after another: the
    number of elements before each, and its index."""
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
