"""The memory of arrays: its order, and the arrays that overlap.

NumPy answers exactly whether two strided arrays have a byte in common. It needs addresses and
strides alone, so it answers for the memory of any library and device.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from math import gcd
from typing import Any, NamedTuple

from . import overlap
from .overlap import Span
from .words import named


class Extent(NamedTuple):
    """The memory of an array: its address, shape, strides and element size, in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @property
    def span(self) -> Span:
        """From the first byte to the one after the last, and how the elements lie between."""
        if 0 in self.shape:
            return Span(self.address, self.address, 0, 0)
        low, run, period, size = self.address, self.itemsize, 0, self.itemsize
        for stride, n in sorted(
            (abs(s), n) for s, n in zip(self.strides, self.shape, strict=True) if n > 1
        ):
            if stride == run and not period:
                run *= n
            else:
                period = gcd(period, stride)
            size += (n - 1) * stride
        low += sum((n - 1) * s for s, n in zip(self.strides, self.shape, strict=True) if s < 0)
        return Span(low, low + size, run, period)

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
    """Return whether two arrays of one shape, with these strides, have the same order in memory."""
    return a == b or all(n < 2 or x == y for n, x, y in zip(shape, a, b, strict=True))


def share_memory(a: Extent, b: Extent) -> bool:
    """Return whether two arrays have a byte in common, exactly.

    Two columns of one matrix have none.
    """
    import numpy as np

    return not a.span.misses(b.span) and np.shares_memory(np.asarray(a), np.asarray(b))


def overlaps_itself(extent: Extent) -> bool:
    """Return whether two elements of one array share memory, as in a broadcast view."""
    if 0 in extent.shape or _nested(extent):
        return False
    import numpy as np

    view = np.asarray(extent)
    for axis, length in enumerate(extent.shape):
        first, rest = [slice(None)] * view.ndim, [slice(None)] * view.ndim
        first[axis], rest[axis] = slice(0, 1), slice(1, None)
        # Every slice along an axis is the first one moved, so the first against the others decides.
        if length > 1 and np.shares_memory(view[tuple(first)], view[tuple(rest)]):
            return True
        view = view[tuple(first)]
    return False


def _nested(extent: Extent) -> bool:
    """Return whether each stride steps over all that the shorter ones reach.

    It does in almost every array.
    """
    reach = extent.itemsize
    for stride, n in sorted(
        (abs(s), n) for s, n in zip(extent.strides, extent.shape, strict=True) if n > 1
    ):
        if stride < reach:
            return False
        reach += (n - 1) * stride
    return True


def reals_at(address: int, number: int, dtype: Any) -> Any:
    """The numbers at an address of the host, as an array of NumPy that can be written."""
    import numpy as np

    return np.asarray(_Memory(address, number, dtype))


class _Memory:
    """Exposes raw memory through `__array_interface__`."""

    def __init__(self, address: int, number: int, dtype: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": (number,),
            "typestr": dtype.str,
        }


class Written:
    """The memory that a step writes, leaf by leaf.

    Raises ValueError, at construction, for a written leaf that overlaps itself or another leaf.
    """

    def __init__(self, leaves: Sequence[tuple[str, Extent, bool]]) -> None:
        """`leaves` gives each leaf's path, extent, and whether it is written in place."""
        for path, extent, written in leaves:
            if written and overlaps_itself(extent):
                raise ValueError(
                    f"{named(path)}: two of its elements share memory (strides {extent.strides} "
                    f"for shape {extent.shape}), so it cannot be written; pass a copy"
                )
        paths, extents, written_too = zip(*leaves, strict=True) if leaves else ((), (), ())
        spans = [extent.span for extent in extents]
        found = overlap.pair(spans, written_too, lambda j, k: share_memory(extents[j], extents[k]))
        if found is not None:
            other, path = (named(paths[k]) for k in found)
            raise ValueError(
                f"{path}: shares memory with {other}, and both would be updated; pass a copy of "
                "one, or one leaf for both"
            )
        every = zip(spans, extents, written_too, strict=True)
        self._load([(span, extent) for span, extent, written in every if written])

    def _load(self, written: list[tuple[Span, Extent]]) -> None:
        written.sort(key=lambda leaf: leaf[0])
        spans = [span for span, _ in written]
        self._extents = [extent for _, extent in written]
        self._groups = overlap.groups(spans)
        self._lows = [span.low for span in spans]
        self._highs = list(accumulate((span.high for span in spans), max))

    @cached_property
    def bounds(self) -> tuple[Any, Any]:
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
        lows, highs = self.bounds
        before = np.searchsorted(lows, first + np.asarray(sizes))
        return [int(k) for k in np.flatnonzero(highs[before] > first)]

    def spoils(self, gradient: Extent, own: Extent | None) -> bool:
        """Return whether writing the leaves may change this gradient before it has been read.

        Its own parameter, element for element, does not: each is read before it is written.
        """
        if gradient == own:  # which no other leaf overlaps
            return False
        span = gradient.span
        last = bisect_left(self._groups, span.high, key=lambda group: group.low)
        first = bisect_right(self._groups, span.low, hi=last, key=lambda group: group.high)
        return any(
            share_memory(self._extents[k], gradient)
            for group in self._groups[first:last]
            for k in group.near(span)
        )
