"""A program compiled by Numba into one pass over memory.

- Compiled once for a generated source, and kept: another learning rate, or optimizer, compiles
  nothing. The machine code is kept on disk where there is a place for it.
- Numba is imported, and its compiler started, by the first step that needs it, not before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...dtypes import DTYPES
from ..kernels import disk_cache
from ..kernels.program import Program
from ..kernels.table import Table, Words
from .codegen import numba_source

#: Elements of a chunk at most, and at least where there are as many. Long ones are read faster (16
#: million float32 by a tenth faster in chunks of 65536 than of 16384), short ones end together.
CHUNK, SHORT = 1 << 16, 1 << 13


@cache
def missing() -> str | None:
    """Why Numba cannot be used, or None."""
    try:
        import_module("numba")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            return "pip install numba for one compiled pass"
        return f"numba cannot be imported: {error}"  # such as one made for another NumPy
    return None


def threads() -> int:
    """How many threads a step may use now."""
    from . import workers

    return workers.threads()


class Kernel:
    """The kernel of a program in a compute dtype."""

    chunk = CHUNK

    def longest(self, elements: int) -> int:
        """The length of a chunk in a call for so many elements."""
        return min(self.chunk, max(SHORT, elements // 64 // 1024 * 1024))

    def __init__(self, program: Program, compute: str) -> None:
        self._run = _kernel(program, compute)
        self._scalars = f"{len(program.scalars)}{DTYPES[compute].struct}"

    def bind(self, table: Table) -> Launch:
        """A launch of the kernel over a table."""
        return Launch(self._run, table, Words(self._scalars))


class Launch:
    """A kernel bound to a table."""

    def __init__(self, run: Any, table: Table, words: Words) -> None:
        from .workers import work

        self._work, self._run, self._elements = work, run, table.elements
        self._held = (table.addresses, table.chunks, table.tasks, words.array)
        places = [x.ctypes.data for x in self._held]
        self._job = np.array([*places, len(table.lengths), len(table.tasks) - 1], np.int64)
        self._address = self._job.ctypes.data
        self._pack, self.unfinished = words.pack, words.unfinished

    def __call__(self, number: int, values: Sequence[float]) -> None:
        """Run the kernel, which is told its number and the scalars."""
        self._pack(number, values)
        self._work(self._run, self._address, self._elements)


_lock = threading.RLock()
_kernels: dict[str, Any] = {}

if hasattr(os, "register_at_fork"):
    # A fork waits for a compilation in another thread: the child would wait for it for ever.
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def _kernel(program: Program, compute: str) -> Any:
    text = numba_source(program, compute, cache=True)
    with _lock:
        if text not in _kernels:
            _kernels[text] = _compile(program, compute, text)
        return _kernels[text]


def _compile(program: Program, compute: str, text: str) -> Any:
    version = Path(__file__).with_name("work_queue.py").read_text()
    try:
        return disk_cache.load(text, version).run
    except OSError:  # nothing can be written anywhere
        scope: dict[str, Any] = {"__name__": __name__}
        exec(numba_source(program, compute, cache=False), scope)
        return scope["run"]
