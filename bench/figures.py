"""Single numbers about this package: the first step, Python's share, memory in a step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from functools import partial
from pathlib import Path

from .competitors import CPU, EAGER, IN_PLACE, OURS, TEXTBOOK
from .harness import compare
from .results import Figure
from .workloads import ON_CPU

ROOT = Path(__file__).parents[1]


def first_step() -> list[Figure]:
    """In a new process, with an empty cache directory of its own and then with a filled one."""
    how = "import, construction and step of 1 M elements in a new process; "
    with tempfile.TemporaryDirectory() as cache:
        cold = _first_step(cache)
        warm = statistics.median(_first_step(cache) for _ in range(3))
    return [
        Figure("first step, cold cache", cold, "s", how + "nothing compiled before"),
        Figure("first step, warm cache", warm, "s", how + "median of 3"),
    ]


def _first_step(cache: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "bench.first_step"],
        env={**os.environ, "XDG_CACHE_HOME": cache, "NUMBA_CACHE_DIR": cache},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return float(done.stdout)


def per_leaf(rounds: int, turn: float) -> list[Figure]:
    """What a leaf costs beyond its elements: a million elements in 1000 leaves, and in one."""
    many, one = ON_CPU["1000x1000"], ON_CPU["1x1M"]
    rows = compare(
        {w.key: partial(CPU[OURS], w.arrays(1), w.arrays(2)) for w in (many, one)},
        rounds=rounds,
        turn=turn,
    )
    in_many, in_one = (row.median for row in rows)
    value = None
    if in_many is not None and in_one is not None:
        value = (in_many - in_one) / len(many.shapes) * 1e6
    return [Figure("per NumPy leaf", value, "µs", "(1000 × 1000 less 1 × 1 M) / 1000")]


def extra_memory() -> list[Figure]:
    """What a step allocates at its peak, of which tracemalloc knows: what NumPy allocates."""
    workload = ON_CPU["1x16M"]
    how = f"peak in the third step of {workload.title} float32, by tracemalloc (sees NumPy's)"
    figures = []
    for name in (OURS, EAGER, IN_PLACE, TEXTBOOK):
        tracemalloc.start()
        try:
            runner = CPU[name](workload.arrays(1), workload.arrays(2))
            runner.run(2)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            runner.run(1)
            extra = (tracemalloc.get_traced_memory()[1] - before) / 1e6
        finally:
            tracemalloc.stop()
        figures.append(Figure(f"extra memory of {name}", extra, "MB", how))
    return figures
