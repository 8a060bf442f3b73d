"""What the memory allows: the 4 reads and 3 writes of an Adam step, with trivial arithmetic.

Needs Numba. The loop runs from 0 over whole arrays, and divisions are NumPy's: so it vectorises.
"""

from __future__ import annotations

import numba

from .workloads import Array

PARALLEL_FROM = 1 << 16  # below, starting the threads costs more than it saves


@numba.njit(nogil=True)
def pass_over(p: Array, g: Array, m: Array, v: Array) -> None:
    """Read p, g, m, v and write p, m, v, on the calling thread."""
    for i in range(p.size):
        m[i] += g[i]
        v[i] += g[i]
        p[i] += g[i]


@numba.njit(parallel=True)
def _pass_over_in_parts(p: Array, g: Array, m: Array, v: Array, parts: int) -> None:
    n = (p.size + parts - 1) // parts
    for k in numba.prange(parts):
        lo, hi = k * n, (k + 1) * n
        pass_over(p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi])


def step(p: Array, g: Array, m: Array, v: Array) -> None:
    """One pass on as many threads as Numba is set to use."""
    threads = numba.get_num_threads()
    if threads == 1 or p.size < PARALLEL_FROM:
        pass_over(p, g, m, v)
    else:
        _pass_over_in_parts(p, g, m, v, threads)
