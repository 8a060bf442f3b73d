"""Numba's machine code in a file of ours.

`njit(cache=True)` would keep it, too, but stops for ever at a damaged file, shares one index among
versions of Numba, and goes where NUMBA_CACHE_DIR says. So a dispatcher is given this cache in place
of Numba's. What it calls of Numba has been there since 0.60 at least, and is not public: if it
fails, the kernel is compiled in every process.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any

from ..kernels import disk_cache


class MachineCode:
    """The cache of a function that has one signature: what a dispatcher calls of such a thing."""

    def __init__(self, key: str) -> None:
        self._key = key

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The function compiled before, or None."""
        from numba.core.compiler import CompileResult

        context.refresh()
        content = disk_cache.read(self._key)
        if content is not None:
            with suppress(Exception):  # whatever is wrong, compiling mends it
                return CompileResult._rebuild(context, *pickle.loads(content))
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled."""
        from numba.core.serialize import dumps

        with suppress(Exception):
            disk_cache.keep(self._key, dumps(compiled._reduce()))
