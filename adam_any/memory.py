"""The memory of arrays: its order, and the arrays that overlap.

NumPy answers exactly whether two strided arrays have a byte in common. It needs addresses and
strides alone, so it answers for the memory of any library and device.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple


class Extent(NamedTuple):
    """The memory of an array: its address, shape, strides and element size, in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def bounds(self) -> tuple[int, int]:
        """The first byte, and the one after the last; equal for an empty array."""
        if 0 in self.shape:
            return self.address, self.address
        reach = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        low = self.address + sum(r for r in reach if r < 0)
        return low, self.address + sum(r for r in reach if r > 0) + self.itemsize

    @property
    def __array_interface__(self) -> dict[str, Any]:
        # NumPy reasons about this memory, on whatever device; it is never dereferenced.
        return {
            "version": 3,
            "data": (self.address, True),
            "shape": self.shape,
            "strides": self.strides,
            "typestr": f"|V{self.itemsize}",
        }


def order(at: Extent) -> tuple[int, ...] | None:
    """The axes from the slowest to the fastest in memory, or None if there are gaps between."""
    axes = sorted(range(len(at.shape)), key=lambda axis: (-at.strides[axis], axis))
    expected = at.itemsize
    for axis in reversed(axes):
        if at.shape[axis] > 1:
            if at.strides[axis] != expected:
                return None if 0 not in at.shape else tuple(axes)
            expected *= at.shape[axis]
    return tuple(axes)


def same_order(shape: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two arrays of one shape, with these strides, have the same order in memory."""
    return a == b or all(n < 2 or x == y for n, x, y in zip(shape, a, b, strict=True))


def share_memory(a: Extent, b: Extent) -> bool:
    """Whether two arrays have a byte in common, exactly: two columns of one matrix have none."""
    import numpy as np

    (a_low, a_high), (b_low, b_high) = a.bounds, b.bounds
    if a_high <= b_low or b_high <= a_low or a_low == a_high or b_low == b_high:
        return False
    return np.shares_memory(np.asarray(a), np.asarray(b))


def overlaps_itself(extent: Extent) -> bool:
    """Whether two elements of one array share memory, as in a broadcast view."""
    import numpy as np

    if 0 in extent.shape:
        return False
    view = np.asarray(extent)
    for axis, length in enumerate(extent.shape):
        first, rest = [slice(None)] * view.ndim, [slice(None)] * view.ndim
        first[axis], rest[axis] = slice(0, 1), slice(1, None)
        # Every slice along an axis is the first one moved, so the first against the others decides.
        if length > 1 and np.shares_memory(view[tuple(first)], view[tuple(rest)]):
            return True
        view = view[tuple(first)]
    return False


class Written:
    """The memory that a step writes, leaf by leaf.

    Raises ValueError, at construction, for a written leaf that overlaps itself or another leaf.
    """

    def __init__(self, leaves: Iterable[tuple[str, Extent, bool]]) -> None:
        """`leaves` gives each leaf's path, extent, and whether it is written in place."""
        nearby: list[tuple[str, Extent, bool]] = []
        for path, extent, written in sorted(leaves, key=lambda leaf: leaf[1].bounds):
            if written and overlaps_itself(extent):
                raise ValueError(
                    f"{path!r}: two of its elements share memory (strides {extent.strides} for "
                    f"shape {extent.shape}), so it cannot be written; pass a copy"
                )
            nearby = [other for other in nearby if other[1].bounds[1] > extent.bounds[0]]
            for other, theirs, also_written in nearby:
                if (written or also_written) and share_memory(extent, theirs):
                    raise ValueError(
                        f"{path!r}: shares memory with {other!r}, and both would be updated; "
                        "pass a copy of one, or one leaf for both"
                    )
            nearby.append((path, extent, written))
        self._load(leaf[1] for leaf in leaves if leaf[2])

    def _load(self, extents: Iterable[Extent]) -> None:
        self._extents = sorted(extents, key=lambda extent: extent.bounds)
        self._lows = [extent.bounds[0] for extent in self._extents]
        self._highs = list(accumulate((extent.bounds[1] for extent in self._extents), max))

    @cached_property
    def _bounds(self) -> tuple[Any, Any]:
        """The lowest addresses, and the highest of those before each, as arrays."""
        import numpy as np

        return np.asarray(self._lows, np.int64), np.asarray([0, *self._highs], np.int64)

    def near(self, addresses: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """The gradients, of these addresses and sizes, that may overlap a leaf that is written.

        `spoils` decides about those.
        """
        if len(addresses) < 8:  # as fast as NumPy's calls for more
            found = []
            for k, low in enumerate(addresses):
                at = bisect_left(self._lows, low + sizes[k])
                if at and self._highs[at - 1] > low:
                    found.append(k)
            return found
        import numpy as np

        first = np.asarray(addresses)
        lows, highs = self._bounds
        before = np.searchsorted(lows, first + np.asarray(sizes))
        return [int(k) for k in np.flatnonzero(highs[before] > first)]

    def spoils(self, gradient: Extent, own: Extent | None) -> bool:
        """Whether writing the leaves may change this gradient before it has been read.

        Its own parameter, element for element, does not: each is read before it is written.
        """
        low, high = gradient.bounds
        at = bisect_left(self._lows, high)
        while at and self._highs[at - 1] > low:
            at -= 1
            leaf = self._extents[at]
            if not (leaf == own == gradient) and share_memory(leaf, gradient):
                return True
        return False
