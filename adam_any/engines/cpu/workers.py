"""The pool of helper threads, which share the tasks of a large kernel call.

`work_queue` has the protocol.

Why threads of our own, and not Numba's parallel loops: with its workqueue layer, two threads that
call a parallel kernel at once abort the process; with OpenMP, so does a forked child after its
parent has; and a parallel kernel takes 2.4 s to compile. Here the kernel is serial, so

- any number of threads may step; one gets the helpers, the others work alone meanwhile;
- a forked child starts helpers of its own when it needs them;
- where threads take turns in one (gevent), a helper finds no job, and sleeps;
- nothing of Numba's is started or set.

As many threads work as the process may use: its affinity, its cgroup's quota, and Numba's
`set_num_threads` and NUMBA_NUM_THREADS.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from time import perf_counter

import numpy as np

from .work_queue import ALONE, HELP, LEAD, LEADERS

#: `run(role, job, board, kernel, seats)`, as `codegen` generates it.
Run = Callable[[int, int, int, int, int], None]

#: Elements that make it worth while to share with one more helper that is awake (in float32 two
#: threads are faster than one from 50,000 on).
SHARE = 1 << 15

#: Elements that make it worth while to wake helpers (measured: it costs the leader 15 us, and they
#: come 50 to 150 us later). Where a step follows within so many seconds on another they are woken
#: for fewer, since they will be awake for the next.
WAKE = 1 << 19
SOON = 1e-4


class _Helpers:
    """The helpers of this process, and the board on which they find their jobs.

    All that is remembered here is which of them exist. An interrupt between any two lines costs the
    help of one thread at most.
    """

    def __init__(self) -> None:
        memory = np.zeros(64, np.int64)  # as words; the cache line the board starts in is its own
        first = -memory.ctypes.data % 64 // 8
        self.words = memory[first:].data
        self.board = memory.ctypes.data + 8 * first
        self._wakes: list[threading.Lock] = []
        self._ended = 0.0
        self._run: Run | None = None

    def lead(self, run: Run, job: int, elements: int, number: int) -> None:
        """Do a job with so many helpers at most."""
        self._run = run
        if elements >= WAKE or perf_counter() - self._ended < SOON:
            self._wake(number)
        run(LEAD, job, self.board, id(run), number)
        self._ended = perf_counter()

    def _wake(self, number: int) -> None:
        """Wake so many helpers, or start them.

        One that is awake looks for a job once more, since it may be about to sleep.
        """
        try:
            for wake in self._wakes[:number]:
                if wake.locked():
                    wake.release()
            while len(self._wakes) < number:
                wake = threading.Lock()
                threading.Thread(
                    target=self._help, args=(wake,), name="adam_any", daemon=True
                ).start()
                self._wakes.append(wake)
        except RuntimeError:
            pass  # another thread has woken it, or no more can be had, or the interpreter ends

    def _help(self, wake: threading.Lock) -> None:
        while True:
            wake.acquire()
            run = None
            while run is not self._run:  # until there has been no job for its kernel for a while
                run = self._run
                assert run is not None
                run(HELP, 0, self.board, id(run), 0)


_helpers = _Helpers()


def _forked() -> None:
    global _helpers
    _helpers = _Helpers()  # a child has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def runner(run: Run, job: int, elements: int) -> Callable[[], None]:
    """A function that does a job of so many elements."""
    if elements < 2 * SHARE:
        return partial(run, ALONE, job, 0, 0, 0)
    return partial(_work, run, job, elements)


def _work(run: Run, job: int, elements: int) -> None:
    """Do a job with helpers, where they are worth while and free."""
    helpers = _helpers
    number = 0 if helpers.words[LEADERS // 8] else min(threads(), elements // SHARE) - 1
    if number < 1:
        run(ALONE, job, 0, 0, 0)
    else:
        helpers.lead(run, job, elements, number)


def threads() -> int:
    """The number of threads that a step may use now."""
    import numba
    from numba.np.ufunc import parallel

    try:
        numba.threading_layer()
        # Not `numba.get_num_threads`: that takes a lock which forked processes share, and which is
        # held for ever where one of them is killed with it, or an interrupt comes in between.
        chosen = int(parallel._get_num_threads())
    except (AttributeError, ValueError):  # it has started no threads, so nobody has chosen a number
        chosen = int(numba.config.NUMBA_NUM_THREADS)
    return max(1, min(chosen, processors(), quota()))


def processors() -> int:
    """The number of processors that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def quota(root: str = "/sys/fs/cgroup", me: str = "/proc/self/cgroup") -> int:
    """The processors that the cgroup may use at a time, rounded up; many without a limit.

    Those around it limit it, too.
    """
    quotas = [math.inf]
    for line in _read(Path(me)).splitlines():
        number, controllers, group = line.split(":", 2)
        base = Path(root) if number == "0" else Path(root) / controllers
        inside = Path(group.lstrip("/"))
        for at in (base / inside, *(base / outer for outer in inside.parents)):
            quota, period = _limits(at, number == "0")
            if quota.isdigit() and int(period) > 0:
                quotas.append(int(quota) / int(period))
    return math.ceil(min(min(quotas), 1 << 20))


def _limits(at: Path, unified: bool) -> tuple[str, str]:
    if unified:
        words = _read(at / "cpu.max").split()
        return (words[0], words[1]) if len(words) == 2 else ("max", "0")
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    quota, period = (_read(at / name).strip() for name in names)
    return quota or "max", period or "0"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
