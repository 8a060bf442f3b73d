"""The CPU benchmark: every part of it by name, and the run over some or all of them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from . import figures, machine
from .competitors import ADAM, CPU, Make
from .harness import Tick, compare, reason, wall
from .results import Comparison, Figure, Report, Slowdown
from .workloads import ON_CPU, Arrays, Workload

SUBNORMALS, FIGURES = "subnormals", "figures"
PARTS = (*ON_CPU, SUBNORMALS, FIGURES)
LARGEST = ("1x64M",)  # left out of a quick run

SUBNORMAL_ELEMENTS = 1_000_000
EARLY, LATE = range(10, 101), range(780, 901)  # the steps that are compared, the first being 1


def run(parts: Sequence[str], *, threads: int, rounds: int, turn: float, tick: Tick) -> Report:
    """Run these parts on this many threads; `machine.use` has arranged them."""
    report = Report(
        kind="cpu",
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=machine.describe(threads),
        versions=machine.versions(),
        settings={"rounds": rounds, "turn": turn},
    )
    for part in parts:
        if part == SUBNORMALS:
            report.slowdown = slowdown(tick)
        elif part == FIGURES:
            report.figures = single_figures(rounds, turn, tick)
        else:
            report.comparisons.append(comparison(ON_CPU[part], rounds, turn, tick))
    return report


def ticks(parts: Sequence[str], rounds: int) -> int:
    """How often a run over these parts calls `tick`."""
    special = {SUBNORMALS: len(ADAM), FIGURES: 3}
    return sum(special.get(part, len(CPU) + rounds) for part in parts)


def comparison(workload: Workload, rounds: int, turn: float, tick: Tick) -> Comparison:
    """Everyone on one workload. They share parameters and gradients, to spare memory: that several
    write the same parameters changes no competitor's work."""
    p, g = workload.arrays(1), workload.arrays(2)
    rows = compare(
        {name: partial(make, p, g) for name, make in CPU.items()},
        rounds=rounds,
        turn=turn,
        tick=lambda text: tick(f"{workload.title}: {text}"),
    )
    return Comparison(workload.key, workload.title, len(workload.shapes), workload.elements, rows)


def slowdown(tick: Tick) -> list[Slowdown]:
    """One gradient of 1e-3 and then zeros: in steps 764 to 915 the first moment is subnormal."""
    rows = []
    for name, make in ADAM.items():
        tick(f"subnormals: {name}")
        try:
            rows.append(_slowdown(name, make))
        except Exception as error:  # one that fails must not end the others' run
            rows.append(Slowdown(name, missing=reason(error)))
    return rows


def _slowdown(name: str, make: Make) -> Slowdown:
    def filled(value: float) -> Arrays:
        return [np.full(SUBNORMAL_ELEMENTS, value, np.float32)]

    runner = make(filled(1.0), filled(1e-3))
    try:
        runner.run(1)
        runner.give(filled(0.0))
        seconds = {step: wall(runner, 1) for step in range(2, LATE[-1] + 1)}
    finally:
        runner.close()
    return Slowdown(name, [seconds[step] for step in EARLY], [seconds[step] for step in LATE])


def single_figures(rounds: int, turn: float, tick: Tick) -> list[Figure]:
    """The numbers that are no comparisons."""
    measured: dict[str, Callable[[], list[Figure]]] = {
        "first step": figures.first_step,
        "Python per leaf": partial(figures.per_leaf, rounds, turn),
        "memory in a step": figures.extra_memory,
    }
    found = []
    for text, measure in measured.items():
        tick(text)
        try:
            found += measure()
        except Exception as error:  # one that fails must not lose the others' values
            found.append(Figure(text, None, "", reason(error)))
    return found
