"""What the process holds in the quiet between two generations, and whether that grows.

Two things are read, since neither sees everything. The resident set is what the system has given,
in pages, and an allocator keeps some of what it gets back: it is noisy, and misses little things
for long. Python's blocks are its small objects, counted: one left behind in each step shows within
seconds, and a large array does not.

The first fifth of a run is its warm-up: caches fill, and allocators find their size. What grows is
what differs between the medians of the second fifth and the last by more than noise.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any

RESIDENT, BLOCKS = "bytes resident", "Python blocks"

#: By how much they differ without anything being lost.
NOISE = {RESIDENT: 2 << 20, BLOCKS: 500}

#: The C library. Only GNU's has the functions that are called here.
_C: Any = ctypes.CDLL(None) if os.name == "posix" else None


def settle() -> None:
    """Let the allocator keep as little as it can of what it gets back: otherwise each thread has a
    heap of its own, and what is free in it stays between what is not."""
    arenas, mapped = -8, -3  # M_ARENA_MAX, M_MMAP_THRESHOLD
    with suppress(AttributeError):
        _C.mallopt(arenas, 1)
        _C.mallopt(mapped, 1 << 20)


class Diary:
    """What was held in each quiet. It keeps plain numbers, so that it is not itself what grows."""

    def __init__(self) -> None:
        self.held: dict[str, array[int]] = {name: array("q") for name in _read()}

    def note(self) -> None:
        """Read, with nothing alive but what is meant to stay."""
        gc.collect()
        with suppress(AttributeError):
            _C.malloc_trim(0)
        for name, value in _read().items():
            self.held[name].append(value)

    def growth(self) -> dict[str, float]:
        """The last fifth less the second, of each; nothing before there are five readings."""
        grown = {}
        for name, values in self.held.items():
            if fifth := len(values) // 5:
                second, last = values[fifth : 2 * fifth], values[4 * fifth : 5 * fifth]
                grown[name] = statistics.median(last) - statistics.median(second)
        return grown


def _read() -> dict[str, int]:
    held = {BLOCKS: sys.getallocatedblocks()}
    with suppress(OSError):  # elsewhere than on Linux the system tells only the largest size so far
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held[RESIDENT] = pages * os.sysconf("SC_PAGE_SIZE")
    return held
