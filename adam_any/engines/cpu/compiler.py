"""A program compiled by Numba into one pass over memory.

- Compiled once for a generated source, and kept: another learning rate, or optimizer, compiles
  nothing. The machine code is kept on disk (`disk_cache`).
- Numba is imported, and its compiler started, when that pays (`payoff`), not before.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...dtypes import DTYPES
from ..kernels import disk_cache
from ..kernels.program import Kind
from ..kernels.table import Table, Words
from .codegen import numba_source
from .machine_code import MachineCode

#: Elements of a chunk at most, and at least where there are as many. Long ones are read faster (16
#: million float32 by a tenth faster in chunks of 65536 than of 16384), short ones end together.
CHUNK, SHORT = 1 << 16, 1 << 13

#: What is compiled into a kernel, beside its text.
_COMPILED = (
    *("half_numba", "objects", "objects_numba", "work_queue"),
    "../../libraries/numpy_objects",
)

#: The types of what a kernel is called with, and returns.
SIGNATURE = "void(int64, int64, int64, int64, int64)"


@cache
def missing() -> str | None:
    """The reason why Numba cannot be used, or None."""
    try:
        numba = import_module("numba")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            return "pip install numba for one compiled pass"
        return f"numba cannot be imported: {error}"  # such as one made for another NumPy
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set; unset it for one compiled pass"
    return None


def threads() -> int:
    """The number of threads that a step may use now."""
    from . import workers

    return workers.threads()


class Kernel:
    """The kernel of a program in these dtypes."""

    chunk = CHUNK

    def longest(self, elements: int) -> int:
        """The length of a chunk in a call for so many elements."""
        return min(self.chunk, max(SHORT, elements // 64 // 1024 * 1024))

    def __init__(self, kind: Kind) -> None:
        self._run = function(numba_source(kind))
        self._scalars = f"{len(kind.program.scalars)}{DTYPES[kind.compute].struct}"

    def bind(self, table: Table) -> Launch:
        """A launch of the kernel over a table."""
        return Launch(self._run, table, Words(self._scalars))


class Launch:
    """A kernel bound to a table."""

    def __init__(self, run: Any, table: Table, words: Words) -> None:
        from . import workers

        self._held = (table.addresses, table.chunks, table.tasks, words.array)
        places = [x.ctypes.data for x in self._held]
        self._job = np.array([*places, len(table.lengths), len(table.tasks) - 1], np.int64)
        self._run = workers.runner(run, self._job.ctypes.data, table.elements)
        self._pack, self.unfinished = words.pack, words.unfinished

    def __call__(self, number: int, values: Sequence[float]) -> None:
        """Run the kernel, which is told its number and the scalars."""
        self._pack(number, *values)
        self._run()


def loaded(text: str) -> bool:
    """Return whether the function of a module with this text is in this process."""
    return text in _kernels


def kept(text: str) -> bool:
    """Return whether its machine code is likely to be on disk: asked without Numba."""
    return disk_cache.likely(_key(text))


_lock = threading.RLock()
_kernels: dict[str, Any] = {}

if hasattr(os, "register_at_fork"):
    # A fork waits for a compilation in another thread: the child would wait for it for ever.
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def function(text: str, signature: str = SIGNATURE) -> Any:
    """The compiled function `run` of a module with this text."""
    with _lock:
        if text not in _kernels:
            _kernels[text] = _compile(text, signature)
        return _kernels[text]


def _compile(text: str, signature: str) -> Any:
    """The function `run` of a module with this text: its machine code from a file, or compiled."""
    import llvmlite
    import numba

    key = _key(text)
    module = ModuleType(f"kernel_{key}")
    sys.modules[module.__name__] = module  # Numba looks for a function's module by its name
    exec(compile(text, f"<{module.__name__}>", "exec"), module.__dict__)
    run = module.run
    processor = run.targetctx.codegen().magic_tuple()
    suffix = disk_cache.key(numba.__version__, llvmlite.__version__, *processor)
    run._cache = MachineCode(f"{key}-{suffix}")
    run.compile(signature)
    (compiled,) = run.overloads.values()
    return compiled.entry_point  # without the dispatcher, which takes 0.1 us to look at types


@cache
def _key(text: str) -> str:
    """A key that stands for all that goes into a kernel but Numba and the processor."""
    imported = ((Path(__file__).parent / f"{x}.py").read_text() for x in _COMPILED)
    return disk_cache.key(text, *imported, str(sys.implementation.cache_tag))
