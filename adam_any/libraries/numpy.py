"""NumPy: arrays and scalars in the host's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat.numpy
import numpy as np

from ..memory import Extent, same_order
from ..words import a
from . import Library, numpy_objects

#: Elements that `largest` looks at, twice, while they are in the core's cache. Measured at 16
#: million float32: 65536 and 131072 are equally fast, 8192 and 1 million 1.4 to 1.8 times slower.
PIECE = 1 << 16


class NumPy(Library):
    """NumPy."""

    scalars = True

    def device(self, x: Any) -> Any:
        return "cpu"

    def writable(self, x: Any) -> bool:
        return isinstance(x, np.ndarray) and bool(x.flags.writeable)

    def engine(self, device: Any) -> str | None:
        return "cpu"

    def accept(self, x: Any, what: str) -> None:
        """Raise TypeError for a subclass whose operators may mean something else."""
        if not isinstance(x, np.generic) and type(x) not in (np.ndarray, np.memmap):
            raise TypeError(
                f"the {what} is {a(type(x))}, whose operators differ from an array's; pass "
                "numpy.asarray of it"
            )

    def native(self, x: Any) -> bool:
        """Return whether the bytes are in native order; ml_dtypes' bfloat16 always are."""
        return bool(x.dtype.isnative and x.dtype.kind in "fc") or _lent(x)

    def namespace(self, x: Any) -> Any:
        return array_api_compat.numpy

    def extent(self, x: Any) -> Extent | None:
        facts = getattr(x, "__array_interface__", None)
        if facts is None:
            return None
        return Extent(facts["data"][0], facts["shape"], x.strides, x.dtype.itemsize)

    def reals(self, x: Any) -> Any:
        x = self.array(x)
        # With a last axis of one the view is allowed for 0-d and strided arrays too.
        return x[..., None].view(x.real.dtype) if x.dtype.kind == "c" else x

    def paired(self, x: Any) -> Any:
        return x.view(np.result_type(x, np.complex64))[..., 0]

    def truth(self, x: Any, value: bool) -> Any:
        return np.bool_(value)

    def tried(
        self, f: Callable[..., Any], x: Any, number: int, shape: tuple[int, ...], compute: str
    ) -> Any:
        ones = np.ones(shape, compute)
        ones.flags.writeable = False  # to find out whether it is left alone
        return f(*[ones] * number)

    def like(self, x: Any, new: Any) -> Any:
        out = np.empty_like(self.array(x))
        self.write(out, new)
        return out if isinstance(x, np.ndarray) else out[()]

    def write(self, x: Any, new: Any) -> None:
        """Through the view of reals, so that infinities stay in their own part."""
        self.reals(x)[...] = new

    def array(self, x: Any) -> Any:
        return np.asarray(x)

    def copy(self, x: Any) -> Any:
        """A copy in the same order, which can be written if the original can."""
        if not isinstance(x, np.ndarray):
            return x  # a scalar
        out = np.array(x, order="K", subok=False)
        out.flags.writeable = x.flags.writeable
        return out

    def to_host(self, x: Any) -> Any:
        return np.asarray(x)

    def from_host(self, host: Any, like: Any) -> Any:
        """A copy in the order of `like`; a scalar for a scalar."""
        out = np.empty_like(like)
        out[...] = host
        return out[()] if isinstance(like, np.generic) else out

    @np.errstate(all="ignore")
    def largest(self, arrays: Sequence[Any]) -> list[float]:
        found = []
        for x in map(self.reals, arrays):
            if x.size > PIECE:
                pieces = np.nditer(x, ["external_loop", "buffered"], buffersize=PIECE)
                x = np.array([_peak(piece) for piece in pieces])
            found.append(_peak(x))
        return found

    def no_address(self, x: Any) -> str | None:
        return None

    def addresses(self, params: Sequence[Any], itemsize: int) -> Addresses:
        return Addresses(params, itemsize)

    def readable(self, p: Any, g: Any) -> bool:
        if not isinstance(g, np.ndarray):  # a scalar has no lasting address
            return False
        return same_order(p.shape, g.strides, p.strides) and g.flags.aligned

    def transposed(self, g: Any, axes: tuple[int, ...]) -> Any:
        return np.asarray(g).transpose(axes)

    def in_c_order(self, x: Any) -> Any:
        return np.ascontiguousarray(x).reshape(x.shape)

    @np.errstate(all="ignore")
    def pour(self, x: Any, line: Any) -> None:
        x[...] = line.reshape(x.shape)

    def fill(self, out: Any, g: Any) -> None:
        out = out.view(np.result_type(out, np.complex64)) if g.dtype.kind == "c" else out
        with np.errstate(all="ignore"):
            out.reshape(g.shape)[...] = g


class Addresses:
    """Finds the gradients of NumPy parameters, if these are in C order and have elements."""

    def __init__(self, params: Sequence[Any], itemsize: int) -> None:
        self.objects: Sequence[Any] | None = None
        self._params = params
        plain = all(type(p) is np.ndarray and p.flags.c_contiguous and p.size for p in params)
        if plain and numpy_objects.understood():
            self.objects = params
            self._finder = numpy_objects.Finder([p.shape for p in params], params[0].dtype)
        self._facts = self._now()

    def find(self, grads: Sequence[Any]) -> list[int | None]:
        return [None] * len(grads) if self.objects is None else self._finder.find(grads)

    def moved(self) -> bool:
        """Return whether a parameter has other memory, or another meaning.

        It has after `p.resize(n)`, `p.strides = s`, `p.flags.writeable = False`.
        """
        return bool(self._now() != self._facts)

    def written(self, grads: Sequence[Any]) -> None:
        pass  # NumPy keeps no record of writes.

    def _now(self) -> Any:
        if self.objects is not None:
            return self._finder.find(self._params, numpy_objects.WRITABLE)
        return [(p.__array_interface__, p.strides, p.flags.writeable) for p in self._params]


def _lent(x: Any) -> bool:
    """Return whether an array is of ml_dtypes' bfloat16, which the buffer protocol cannot name."""
    return bool(x.dtype.name == "bfloat16")


def _peak(x: Any) -> float:
    low, high = np.minimum.reduce(x, axis=None), np.maximum.reduce(x, axis=None)
    return max(float(high), -float(low))  # both are NaN where one element is


LIBRARY = NumPy("numpy")
