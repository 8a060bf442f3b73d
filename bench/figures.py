"""Single numbers: the first step, Python's share, memory in a step, subnormal moments."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from adam_any import Adam, minimize

from .competitors import ADAM, CPU, EAGER, IN_PLACE, OURS, TEXTBOOK
from .harness import Runner, Tick, compare, reason, wall
from .results import Comparison, Figure
from .workloads import ON_CPU, Arrays

ROOT = Path(__file__).parents[1]

#: What a new process times. Whoever has arrays has imported NumPy.
FIRST_STEP = """
from time import perf_counter
import numpy as np
p, g = np.ones(1_000_000, np.float32), np.ones(1_000_000, np.float32)
start = perf_counter()
from adam_any import Adam
Adam(p).step(g)
print(perf_counter() - start)
"""

SUBNORMAL_ELEMENTS = 1_000_000
EARLY, LATE = range(10, 101), range(780, 901)  # the steps that are compared, the first being 1


def single(rounds: int, turn: float, tick: Tick) -> list[Figure]:
    """The numbers about this package alone."""
    measured: dict[str, Callable[[], list[Figure]]] = {
        "first step": first_step,
        "Python per leaf": partial(per_leaf, rounds, turn),
        "memory in a step": extra_memory,
        "minimize": partial(run_overhead, rounds, turn),
    }
    return _tried("Single figures", tick, measured)


def subnormals(tick: Tick) -> list[Figure]:
    """The slowdown of each competitor by subnormal moments."""
    return _tried("Subnormal moments", tick, {name: partial(slowdown, name) for name in ADAM})


def _tried(table: str, tick: Tick, measured: dict[str, Callable[[], list[Figure]]]) -> list[Figure]:
    found = []
    for name, measure in measured.items():
        tick(f"{table}: {name}")
        try:
            figures = measure()
        except Exception as error:  # one that fails must not lose the others' values
            figures = [Figure(name, None, "", reason(error))]
        found += [dataclasses.replace(figure, table=table) for figure in figures]
    return found


def first_step() -> list[Figure]:
    """In a new process, with an empty cache directory of its own and then with a filled one."""
    how = "import, construction and step of 1 M elements in a new process; "
    with tempfile.TemporaryDirectory() as cache:
        cold, *warm = (_first_step(cache) for _ in range(4))
    return [
        Figure("first step, cold cache", cold, "s", how + "nothing compiled before"),
        Figure("first step, warm cache", statistics.median(warm), "s", how + "median of 3"),
    ]


def _first_step(cache: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP],
        env={**os.environ, "XDG_CACHE_HOME": cache, "NUMBA_CACHE_DIR": cache},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return float(done.stdout)


def per_leaf(rounds: int, turn: float) -> list[Figure]:
    """The cost of a leaf beyond its elements: a million elements in 1000 leaves, and in one."""
    many, one = ON_CPU["1000x1000"], ON_CPU["1x1M"]
    made = {w.key: partial(CPU[OURS], w.arrays(1), w.arrays(2)) for w in (many, one)}
    both = Comparison("", "", 0, 0, compare(made, rounds=rounds, turn=turn))
    in_many, in_one = both.median(many.key), both.median(one.key)
    value = None
    if in_many is not None and in_one is not None:
        value = (in_many - in_one) / len(many.shapes) * 1e6
    return [Figure("per NumPy leaf", value, "µs", "(1000 × 1000 less 1 × 1 M) / 1000")]


class BareLoop(Runner):
    """What a run does, without records: an optimizer, a function's value and gradient, steps."""

    def __init__(self) -> None:
        self._x, self._g, self._value = np.ones(1000), np.full(1000, 1e-3), 0.0

    def fun(self, x: object) -> tuple[float, object]:
        """A value that is always the best so far, which costs a run most."""
        self._value -= 1.0
        return self._value, self._g

    def run(self, steps: int) -> None:
        """Evaluate and step, so many times."""
        opt = Adam(self._x.copy())
        x, fun, step = opt.params, self.fun, opt.step
        for _ in range(steps):
            _, g = fun(x)
            x = step(g)


class WholeRun(BareLoop):
    """The same by `minimize`, with a record at each step."""

    def run(self, steps: int) -> None:
        """Run once, for so many steps."""
        minimize(self.fun, self._x, steps=steps, progress=False)


def run_overhead(rounds: int, turn: float) -> list[Figure]:
    """What `minimize` adds to each step of a loop written by hand."""
    bare, whole = compare({"bare": BareLoop, "whole": WholeRun}, rounds=rounds, turn=turn)
    differences = [b - a for a, b in zip(bare.seconds, whole.seconds, strict=True)]
    how = "1 × 1 k in float64, a record at each step, less the bare loop"
    value = statistics.median(differences) * 1e6 if differences else None
    return [Figure("minimize, per step", value, "µs", how)]


def extra_memory() -> list[Figure]:
    """The peak of the memory that a step allocates, as far as tracemalloc knows: NumPy's."""
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


def slowdown(name: str) -> list[Figure]:
    """One gradient of 1e-3 and then zeros: in steps 764 to 915 the first moment is subnormal."""

    def filled(value: float) -> Arrays:
        return [np.full(SUBNORMAL_ELEMENTS, value, np.float32)]

    runner = ADAM[name](filled(1.0), filled(1e-3))
    try:
        runner.run(1)
        runner.give(filled(0.0))
        seconds = {step: wall(runner, 1) for step in range(2, LATE[-1] + 1)}
    finally:
        runner.close()
    early, late = (statistics.median(seconds[step] for step in steps) for steps in (EARLY, LATE))
    how = "time of steps 780-900 / time of steps 10-100"
    return [Figure(name, late / early, "×", how)]
