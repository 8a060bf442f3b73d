"""array-api-strict, whose arrays hide NumPy ones."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from ..detect import dtype_name
from ..memory import Extent
from . import Library, from_host, is_complex, like, row


def _extent(x: Any) -> Extent | None:
    # Its other devices pretend to be out of the host's reach.
    return row("numpy").extent(np.from_dlpack(x)) if str(x.device).count("CPU_DEVICE") else None


def _to_host(x: Any) -> Any:
    xp = array_api_compat.array_namespace(x)
    return np.from_dlpack(x.to_device(xp.Device("CPU_DEVICE")))


def _like(x: Any, new: Any) -> Any:
    if not is_complex(x):
        return like(x, new)
    # The standard has no way to join two parts without arithmetic, which would spoil infinities.
    host = _to_host(new)
    return from_host(host.view(dtype_name(x.dtype))[..., 0], x)


def _write(x: Any, new: Any) -> None:
    x[...] = _like(x, new)


ROW = Library(extent=_extent, like=_like, write=_write, to_host=_to_host)
