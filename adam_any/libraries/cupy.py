"""CuPy; everything happens on the device that the array lies on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy

from ..memory import Extent
from . import Library


def _extent(x: Any) -> Extent | None:
    return Extent(x.data.ptr, x.shape, x.strides, x.dtype.itemsize)


def _reals(x: Any) -> Any:
    if x.dtype.kind != "c":
        return x
    # CuPy's own view needs contiguous memory; this one is of the same numbers in any layout.
    size = x.dtype.itemsize // 2
    return cupy.ndarray((*x.shape, 2), f"f{size}", x.data, (*x.strides, size))


def _write(x: Any, new: Any) -> None:
    with x.device:
        _reals(x)[...] = new


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


def _largest(arrays: Sequence[Any]) -> list[float]:
    with arrays[0].device:
        peaks = cupy.empty(len(arrays))
        for i, x in enumerate(arrays):
            _peak(_reals(x), peaks[i])
        found: list[float] = peaks.get().tolist()
        return found


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


def _on(x: Any) -> Any:
    return x.device


def _capturing(x: Any) -> bool:
    with x.device:
        try:
            return bool(cupy.cuda.get_current_stream().is_capturing())
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != IMPLICIT:
                raise
            return True


#: What CUDA says of the default stream while one that waits for it is being captured
#: (cudaErrorStreamCaptureImplicit).
IMPLICIT = 906

ROW = Library(
    extent=_extent,
    reals=_reals,
    like=_like,
    write=_write,
    copy=_copy,
    to_host=_to_host,
    from_host=_from_host,
    largest=_largest,
    on=_on,
    capturing=_capturing,
)
