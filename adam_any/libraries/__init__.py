"""What the array API cannot say, one row per library.

Every function takes an array of its own library. Those in this file are written in the array API
and serve any library that speaks it; a row replaces what its library does better, or must do
otherwise. The module of a row loads when its library is first met, so nothing here imports a
library that no array belongs to, but NumPy, which is the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import array_api_compat

from ..detect import dtype_name
from ..memory import Extent


def _namespace(x: Any) -> Any:
    return array_api_compat.array_namespace(x)


def _extent(x: Any) -> Extent | None:
    return None


def is_complex(x: Any) -> bool:
    """Whether it is updated as pairs of real numbers."""
    return dtype_name(x.dtype).startswith("complex")


def same(x: Any) -> Any:
    """What was given."""
    return x


def _reals(x: Any) -> Any:
    xp = array_api_compat.array_namespace(x)
    return xp.stack([xp.real(x), xp.imag(x)], axis=-1) if is_complex(x) else x


def like(x: Any, new: Any) -> Any:
    """The numbers of `new` in the dtype of `x`."""
    xp = array_api_compat.array_namespace(x)
    if is_complex(x):
        new = xp.astype(new[..., 0], x.dtype) + xp.astype(new[..., 1], x.dtype) * 1j
    return xp.astype(new, x.dtype)


def _write(x: Any, new: Any) -> None:
    x[...] = like(x, new)


def _copy(x: Any) -> Any:
    return array_api_compat.array_namespace(x).asarray(x, copy=True)


def _to_host(x: Any) -> Any:
    import numpy as np

    return np.from_dlpack(x)


def _each(f: Callable[..., Any], *arrays: Any) -> Any:
    return f(*arrays)


def _counter(x: Any) -> Any:
    return 0


def _on(x: Any) -> AbstractContextManager[Any]:
    return nullcontext()


def _capturing(x: Any) -> bool:
    return False


def _largest(arrays: Sequence[Any]) -> list[float]:
    xp = array_api_compat.array_namespace(*arrays)
    return [float(xp.max(xp.abs(_reals(x)))) for x in arrays]


def from_host(host: Any, like: Any) -> Any:
    """The numbers of a NumPy array beside `like`."""
    return array_api_compat.array_namespace(like).asarray(host, device=like.device)


@dataclass(frozen=True)
class Library:
    """One row: how a library does what the array API leaves open."""

    #: The array-API namespace of an array.
    namespace: Callable[[Any], Any] = _namespace
    #: Where the array lies, or None where the library does not say.
    extent: Callable[[Any], Extent | None] = _extent
    #: The array as real numbers, a complex one as pairs in a last axis of two; a view if possible.
    reals: Callable[[Any], Any] = _reals
    #: What an operation returned, as an array (NumPy turns 0-d results into scalars).
    array: Callable[[Any], Any] = same
    #: A new array of the dtype and kind of the first, with the numbers `reals` would give.
    like: Callable[[Any, Any], Any] = like
    #: Overwrite the first with the numbers `reals` would give.
    write: Callable[[Any, Any], None] = _write
    #: An independent copy on the same device.
    copy: Callable[[Any], Any] = _copy
    #: A NumPy array with the same numbers, and an array beside `like` with those of a NumPy array.
    to_host: Callable[[Any], Any] = _to_host
    from_host: Callable[[Any, Any], Any] = from_host
    #: A pure function of a parameter, its gradient and its moments, applied to these.
    each: Callable[..., tuple[Any, ...]] = _each
    #: The results of `each` for several leaves, computed: where the library is lazy, all at once.
    settle: Callable[[list[tuple[Any, ...]]], list[tuple[Any, ...]]] = same
    #: A step count of 0 for a pure step of the array.
    counter: Callable[[Any], Any] = _counter
    #: For each of several arrays on one device, none of them empty, the largest magnitude among its
    #: reals, infinite or NaN if one is NaN: one read of each, and on a device one wait for all.
    largest: Callable[[Sequence[Any]], list[float]] = _largest
    #: Where operations on the array run, and new arrays lie, as a context.
    on: Callable[[Any], AbstractContextManager[Any]] = _on
    #: Whether what is done to the array now would only be recorded, in a CUDA graph.
    capturing: Callable[[Any], bool] = _capturing


ROWS = ("numpy", "torch", "cupy", "jax", "dask", "array_api_strict")


@cache
def row(library: str) -> Library:
    """The row of a library; the array API's own functions where it has none."""
    if library == "python":
        python: Library = import_module(f"{__name__}.numpy").PYTHON
        return python
    if library not in ROWS:
        return Library()
    found: Library = import_module(f"{__name__}.{library}").ROW
    return found


def zeros(library: Library, x: Any, compute: str) -> Any:
    """A moment for the parameter `x`: zeros in the compute dtype beside it, laid out alike."""
    xp = library.namespace(x)
    with library.on(x):
        return xp.zeros_like(library.reals(x), dtype=getattr(xp, compute))
