"""The CPU benchmark: every part of it by name, and the run over some or all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from adam_any.engines.cpu import payoff

from . import figures, machine
from .competitors import CPU, FAMILY, Make
from .harness import Tick, compare
from .kinds import KINDS, LOOPS, looping
from .results import LOOP_TIME, OTHER_KINDS, OTHER_RULES, WRAPPED_TIME, Comparison, Report
from .workloads import ON_CPU, Workload
from .wrapped import WRAPPED

OTHERS, WRAPPERS, SUBNORMALS, FIGURES = "rules", "wrappers", "subnormals", "figures"
ARRAYS, WHOLE_LOOPS = "kinds", "loops"
PARTS = (*ON_CPU, OTHERS, WRAPPERS, ARRAYS, WHOLE_LOOPS, SUBNORMALS, FIGURES)
LARGEST = ("1x64M",)  # left out of a quick run


def run(parts: Iterable[str], *, threads: int, rounds: int, turn: float, tick: Tick) -> Report:
    """Run these parts on this many threads; `machine.use` has arranged them."""
    payoff.LOADING = payoff.COMPILING = 0  # small arrays, too, are measured as in a long run
    report = machine.report("cpu", machine.describe(threads), rounds, turn)
    for part in parts:
        if part == SUBNORMALS:
            report.figures += figures.subnormals(tick)
        elif part == FIGURES:
            report.figures += figures.single(rounds, turn, tick)
        elif part == WRAPPERS:
            made = comparison(ON_CPU["1x16M"], WRAPPED, rounds, turn, tick)
            report.comparisons.append(replace(made, measure=WRAPPED_TIME))
        elif part in (ARRAYS, WHOLE_LOOPS):
            cases = KINDS.items() if part == ARRAYS else ((key, looping(key)) for key in LOOPS)
            for key, (title, workload, who) in cases:
                made = comparison(workload, who, rounds, turn, tick)
                measure = OTHER_KINDS if part == ARRAYS else LOOP_TIME
                report.comparisons.append(replace(made, key=key, title=title, measure=measure))
        elif part == OTHERS:
            for name, rows in FAMILY.items():
                made = comparison(ON_CPU["1x16M"], rows, rounds, turn, tick)
                report.comparisons.append(replace(made, title=name, measure=OTHER_RULES))
        else:
            report.comparisons.append(comparison(ON_CPU[part], CPU, rounds, turn, tick))
    return report


def comparison(
    workload: Workload, competitors: Mapping[str, Make], rounds: int, turn: float, tick: Tick
) -> Comparison:
    """Everyone on one workload. They share parameters and gradients, to spare memory: that several
    write the same parameters changes no competitor's work.
    """
    p, g = workload.arrays(1), workload.arrays(2)
    rows = compare(
        {name: partial(make, p, g) for name, make in competitors.items()},
        rounds=rounds,
        turn=turn,
        tick=lambda text: tick(f"{workload.title}: {text}"),
    )
    leaves = len(workload.shapes)
    return Comparison(workload.key, workload.title, leaves, workload.elements, rows)
