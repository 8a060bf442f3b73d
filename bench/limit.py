"""The limit of the memory: the 4 reads and 3 writes of an Adam step, with trivial arithmetic.

Needs Numba. The loop runs from 0 over whole arrays, and divisions are NumPy's: so it vectorises.
"""

from __future__ import annotations

import numba
import numpy as np

from .harness import Runner
from .workloads import Array, Arrays

PARALLEL_FROM = 1 << 16  # below, starting the threads costs more than it saves


class MemoryLimit(Runner):
    """The same reads and writes as Adam's, over one array of as many elements."""

    LARGEST = 1 << 26  # far beyond any cache; more elements are as many passes, to spare memory

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        elements = sum(p.size for p in params)
        self.passes = -(-elements // self.LARGEST)
        size = elements // self.passes
        self.arrays: Arrays = [np.full(size, 1e-3, np.float32) for _ in range(4)]

    def step(self) -> None:
        """Pass over the arrays, on as many threads as Numba is set to use."""
        threads = numba.get_num_threads()
        serial = threads == 1 or self.arrays[0].size < PARALLEL_FROM
        for _ in range(self.passes):
            if serial:
                _pass_over(*self.arrays)
            else:
                _pass_over_in_parts(*self.arrays, threads)


@numba.njit(nogil=True)
def _pass_over(p: Array, g: Array, m: Array, v: Array) -> None:
    for i in range(p.size):
        m[i] += g[i]
        v[i] += g[i]
        p[i] += g[i]


@numba.njit(parallel=True)
def _pass_over_in_parts(p: Array, g: Array, m: Array, v: Array, parts: int) -> None:
    n = (p.size + parts - 1) // parts
    for k in numba.prange(parts):
        lo, hi = k * n, (k + 1) * n
        _pass_over(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi])
