"""CuPy; everything happens on the device that the array lies on."""

from __future__ import annotations

from typing import Any

import cupy

from ..memory import Extent
from . import Library


def _extent(x: Any) -> Extent | None:
    return Extent(x.data.ptr, x.shape, x.strides, x.dtype.itemsize)


def _write(x: Any, new: Any) -> None:
    with x.device:
        if x.dtype.kind == "c":
            x.real[...], x.imag[...] = new[..., 0], new[..., 1]
        else:
            x[...] = new


def _like(x: Any, new: Any) -> Any:
    with x.device:
        out = cupy.empty_like(x)
    _write(out, new)
    return out


def _copy(x: Any) -> Any:
    with x.device:
        return x.copy(order="K")


def _to_host(x: Any) -> Any:
    return x.get()


def _from_host(host: Any, like: Any) -> Any:
    with like.device:
        return cupy.asarray(host)


ROW = Library(
    extent=_extent, like=_like, write=_write, copy=_copy, to_host=_to_host, from_host=_from_host
)
