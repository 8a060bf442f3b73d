"""NumPy, and Python floats computed by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import array_api_compat.numpy
import numpy as np

from ..memory import Extent
from . import Library

#: Elements that `largest` looks at, twice, while they are in the core's cache. Measured at 16
#: million float32: 65536 and 131072 are equally fast, 8192 and 1 million 1.4 to 1.8 times slower.
PIECE = 1 << 16


def _namespace(x: Any) -> Any:
    return array_api_compat.numpy


def _extent(x: Any) -> Extent | None:
    facts = getattr(x, "__array_interface__", None)
    if facts is None:
        return None  # a Python float
    return Extent(facts["data"][0], facts["shape"], x.strides, x.dtype.itemsize)


def _array(x: Any) -> Any:
    return np.asarray(x)


def _reals(x: Any) -> Any:
    x = _array(x)
    # With a last axis of one the view is allowed for 0-d and strided arrays too.
    return x[..., None].view(x.real.dtype) if x.dtype.kind == "c" else x


def _write(x: Any, new: Any) -> None:
    _reals(x)[...] = new


def _like(x: Any, new: Any) -> Any:
    out = np.empty_like(_array(x))
    _write(out, new)
    return out if isinstance(x, np.ndarray) else out[()]


def _copy(x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        return x  # a scalar
    out = np.array(x, order="K", subok=False)
    out.flags.writeable = x.flags.writeable
    return out


def _from_host(host: Any, like: Any) -> Any:
    out = np.empty_like(like)
    out[...] = host
    return out


@np.errstate(all="ignore")
def _largest(arrays: Sequence[Any]) -> list[float]:
    found = []
    for x in map(_reals, arrays):
        if x.size > PIECE:
            pieces = np.nditer(x, ["external_loop", "buffered"], buffersize=PIECE)
            x = np.array([_peak(piece) for piece in pieces])
        found.append(_peak(x))
    return found


def _peak(x: Any) -> float:
    low, high = np.minimum.reduce(x, axis=None), np.maximum.reduce(x, axis=None)
    return max(float(high), -float(low))  # both are NaN where one element is


def _python_like(x: float, new: Any) -> float:
    return float(new)


ROW = Library(
    namespace=_namespace,
    extent=_extent,
    reals=_reals,
    array=_array,
    like=_like,
    write=_write,
    copy=_copy,
    to_host=_array,
    from_host=_from_host,
    largest=_largest,
)

#: A Python float has moments that are NumPy arrays.
PYTHON = Library(
    namespace=_namespace,
    reals=_array,
    array=_array,
    like=_python_like,
    copy=_copy,
    to_host=_array,
    from_host=_from_host,
    largest=_largest,
)
