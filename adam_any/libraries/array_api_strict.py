"""array-api-strict, whose arrays hide NumPy ones."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from ..detect import load
from ..dtypes import is_complex, name_of
from ..memory import Extent
from . import Library


class Strict(Library):
    """array-api-strict."""

    def device(self, x: Any) -> Any:
        return str(x.device).split("'")[-2]  # Device('CPU_DEVICE')

    def writable(self, x: Any) -> bool:
        return True

    def extent(self, x: Any) -> Extent | None:
        """The memory of the NumPy array; the other devices pretend to be out of reach."""
        numpy = load("numpy")
        return numpy.extent(np.from_dlpack(x)) if self.device(x) == "CPU_DEVICE" else None

    def like(self, x: Any, new: Any) -> Any:
        """Joined on the host: arithmetic would spoil infinities."""
        if not is_complex(x):
            return super().like(x, new)
        host = self.to_host(new)
        return self.from_host(host.view(name_of(x.dtype))[..., 0], x)

    def to_host(self, x: Any) -> Any:
        xp = array_api_compat.array_namespace(x)
        return np.from_dlpack(x.to_device(xp.Device("CPU_DEVICE")))


LIBRARY = Strict("array_api_strict")
