"""The machine: how many threads a run may use, and what a result says about where it was made."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .results import Report

PACKAGES = (
    *("numpy", "numba", "torch", "jax", "jaxlib", "optax", "deepspeed", "optree"),
    *("dask", "distributed", "orbax-checkpoint", "zarr"),
    *("cupy-cuda12x", "cupy-cuda13x", "cuda-bindings"),
    *("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc"),
)


def available() -> int:
    """The number of processors that this process may use: by affinity, and by cgroup quota."""
    # Here, since it imports Numba.
    from adam_any.engines.cpu.workers import processors, quota

    return min(processors(), quota())


def use(threads: int | None) -> int:
    """Hold this process, and those that it starts, to so many threads, or to all that it may use;
    the number.

    Call it before an array library is imported: XLA has no setting for the number of its threads,
    and counts the processors of the affinity when it loads; so does OpenMP.

    Raises ValueError where that many, or that few, cannot be arranged.
    """
    most = available()
    threads = most if threads is None else threads
    if not 1 <= threads <= most:
        raise ValueError(f"{threads} threads; this process may use 1 to {most}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    elif threads != most:
        raise ValueError(f"this system has no affinity, so XLA cannot be held to {threads} threads")
    for name in ("torch", "numba"):
        if find_spec(name):
            import_module(name).set_num_threads(threads)
    return threads


def report(kind: str, about: dict[str, Any], rounds: int, turn: float) -> Report:
    """A report of a run that begins now."""
    return Report(
        kind=kind,
        date=now(),
        machine=about,
        versions=versions(),
        settings={"rounds": rounds, "turn": turn},
    )


def now() -> str:
    """Date, time and time zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def describe(threads: int) -> dict[str, Any]:
    """Processor, system, Python, thread count, and the load that others put on the machine: OpenMP
    waits by spinning, so where a core is busy the times of who uses it say little.
    """
    found = {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": threads,
    }
    if hasattr(os, "getloadavg"):
        found["load before"] = round(os.getloadavg()[0], 2)
    return found


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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
