"""The machine: how many threads a run may use, and what a result says about where it was made."""

from __future__ import annotations

import math
import os
import platform
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

PACKAGES = (
    *("numpy", "numba", "torch", "jax", "jaxlib", "optax", "deepspeed", "optree"),
    *("cupy-cuda12x", "cupy-cuda13x"),
)


def available() -> int:
    """The number of processors that this process may use: by affinity, and by cgroup quota."""
    cores = len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or the quota is "max"
        return cores


def use(threads: int) -> None:
    """Hold this process, and those that it starts, to a number of threads.

    Call it before an array library is imported: XLA has no setting for the number of its threads,
    and counts the processors of the affinity when it loads; so do OpenMP and Numba.

    Raises ValueError where that many, or that few, cannot be arranged.
    """
    if not 1 <= threads <= available():
        raise ValueError(f"{threads} threads; this process may use 1 to {available()}")
    if _has_affinity():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    elif threads != available():
        raise ValueError(f"this system has no affinity, so XLA cannot be held to {threads} threads")
    for name in ("torch", "numba"):
        if find_spec(name):
            import_module(name).set_num_threads(threads)


def describe(threads: int) -> dict[str, str | int | float]:
    """Processor, system, Python, thread count, and the load that others put on the machine: OpenMP
    waits by spinning, so where a core is busy the times of who uses it say little."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": threads,
        "load before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """The versions of this package and of the libraries in the benchmark that are installed."""
    from adam_any import __version__

    found = {"adam_any": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _has_affinity() -> bool:
    return hasattr(os, "sched_setaffinity")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
