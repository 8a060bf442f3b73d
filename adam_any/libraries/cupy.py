"""CuPy; everything happens on the device of the array."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import cupy

from ..memory import Extent, same_order
from . import Library

#: What CUDA says of the default stream while one that waits for it is being captured
#: (cudaErrorStreamCaptureImplicit).
IMPLICIT = 906

#: The largest magnitude, or NaN, in one read; amax of abs would take two, and memory. CuPy replaces
#: the names of both parameters in the expressions as plain text.
_peak = cupy.ReductionKernel(
    "T element",
    "float64 peak",
    "fabs(double(element))",
    "a != a || a > b ? a : b",
    "peak = a",
    "0",
    "adam_any_peak",
)


class CuPy(Library):
    """CuPy."""

    def device(self, x: Any) -> Any:
        """The name that torch gives the device."""
        return f"cuda:{x.device.id}"

    def writable(self, x: Any) -> bool:
        return True

    def engine(self, device: Any) -> str | None:
        return "cuda"

    def extent(self, x: Any) -> Extent | None:
        return Extent(x.data.ptr, x.shape, x.strides, x.dtype.itemsize)

    def reals(self, x: Any) -> Any:
        """A view; CuPy's own needs contiguous memory."""
        if x.dtype.kind != "c":
            return x
        size = x.dtype.itemsize // 2
        return cupy.ndarray((*x.shape, 2), f"f{size}", x.data, (*x.strides, size))

    def like(self, x: Any, new: Any) -> Any:
        with x.device:
            out = cupy.empty_like(x)
        self.write(out, new)
        return out

    def write(self, x: Any, new: Any) -> None:
        """Through the view of reals, so that infinities stay in their own part."""
        with x.device:
            self.reals(x)[...] = new

    def copy(self, x: Any) -> Any:
        with x.device:
            return x.copy(order="K")

    def to_host(self, x: Any) -> Any:
        return x.get()

    def from_host(self, host: Any, like: Any) -> Any:
        with like.device:
            return cupy.asarray(host)

    def largest(self, arrays: Sequence[Any]) -> list[float]:
        with arrays[0].device:
            peaks = cupy.empty(len(arrays))
            for i, x in enumerate(arrays):
                _peak(self.reals(x), peaks[i])
            found: list[float] = peaks.get().tolist()
            return found

    def on(self, x: Any) -> Any:
        return x.device

    def capturing(self, x: Any) -> bool:
        """Return whether its device's current stream, or one waiting for it, is being captured."""
        with x.device:
            try:
                return bool(cupy.cuda.get_current_stream().is_capturing())
            except cupy.cuda.runtime.CUDARuntimeError as error:
                if error.status != IMPLICIT:
                    raise
                return True

    def no_address(self, x: Any) -> str | None:
        if type(x) is not cupy.ndarray:
            return f"is of class {type(x).__name__}, whose operators may differ"
        return None

    def addresses(self, params: Sequence[Any], itemsize: int) -> Addresses:
        return Addresses(params, itemsize)

    def readable(self, p: Any, g: Any) -> bool:
        size, wide = g.dtype.itemsize, p.dtype.itemsize
        if g.data.ptr % size or any(stride % size for stride in g.strides):
            return False
        mine, theirs = (tuple(s // n for s in x.strides) for x, n in ((p, wide), (g, size)))
        return same_order(p.shape, mine, theirs)


_SHAPE = attrgetter("shape")


class Addresses:
    """Finds the gradients of CuPy parameters."""

    objects: Sequence[Any] | None = None

    def __init__(self, params: Sequence[Any], itemsize: int) -> None:
        self._params, first = params, params[0]
        self._kind, self._dtype, self._device = type(first), first.dtype, first.data.device_id
        self._likes = [(p.shape, p.strides) for p in params]
        self._misaligned = itemsize - 1
        self._shapes = self._now()

    def find(self, grads: Sequence[Any]) -> list[int | None]:
        kind, dtype, device = self._kind, self._dtype, self._device
        misaligned = self._misaligned
        found: list[int | None] = []
        for g, (shape, strides) in zip(grads, self._likes, strict=True):
            if type(g) is kind and g.dtype is dtype and g.shape == shape and g.strides == strides:
                at = g.data
                address = at.ptr
                usable = at.device_id == device and not address & misaligned
                found.append(address if usable else None)
            else:
                found.append(None)
        return found

    def moved(self) -> bool:
        """Return whether a parameter has another meaning, after `p.shape = s`.

        Nothing else of a CuPy array can be set, and that only where it leaves the memory in order.
        """
        return self._now() != self._shapes

    def _now(self) -> list[Any]:
        return list(map(_SHAPE, self._params))

    def written(self, grads: Sequence[Any]) -> None:
        pass  # CuPy keeps no record of writes.


LIBRARY = CuPy("cupy")
