"""The clock: competitors take turns, round after round, and the median of rounds counts.

Each is warmed up, so that compiling is not measured, and calibrated, so that a turn is long against
the clock and short against what else happens on the machine: whatever slows the machine down for a
second meets all of them. The harness knows neither arrays nor Adam. A stopwatch is passed in, so
that a device can bring its own clock.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from time import perf_counter, sleep
from typing import Any

from .results import Row

WARM_UP = 2


class Runner:
    """A competitor at work on its own arrays. Most need to define no more than `step`."""

    def step(self) -> None:
        """Make one step, or begin it."""
        raise NotImplementedError

    def run(self, steps: int) -> None:
        """Make this many steps; they may still be under way on return."""
        step = self.step
        for _ in range(steps):
            step()

    def finish(self) -> None:
        """Return when all steps are done."""

    def close(self) -> None:
        """Let go of everything that is held outside this object."""


Stopwatch = Callable[[Runner, int], float]
Tick = Callable[[str], None]


class MissingError(Exception):
    """A competitor that cannot take part; the message is the reason, for the table."""


def needed(module: str, package: str | None = None) -> Any:
    """Import a module; MissingError where it cannot be."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingError(f"{package or module} is not installed ({error})") from None


def wall(runner: Runner, steps: int) -> float:
    """Seconds on the wall clock until this many steps are done."""
    start = perf_counter()
    runner.run(steps)
    runner.finish()
    return perf_counter() - start


def compare(
    competitors: Mapping[str, Callable[[], Runner]],
    *,
    rounds: int = 5,
    turn: float = 0.2,
    pause: float = 0.03,
    stopwatch: Stopwatch = wall,
    tick: Tick = lambda text: None,
) -> list[Row]:
    """Seconds per step of each competitor, one value per round.

    turn : seconds that one competitor's turn takes, at least; more where a step takes longer.
    pause : seconds before each turn. OpenMP's threads spin for milliseconds after their last work,
        on a core that the next competitor needs.
    tick : called with a description, once per competitor and once per round.

    Whoever cannot be made, or fails in the warm-up, is a row with the reason.
    """
    gc.collect()  # what the last workload left in cycles; this one needs the memory
    rows = []
    with ExitStack() as opened:
        running: list[tuple[Row, Runner]] = []
        for name, make in competitors.items():
            tick(name)
            row = Row(name)
            rows.append(row)
            try:
                runner = make()
                opened.callback(runner.close)
                stopwatch(runner, WARM_UP)
                row.steps = calibrated(runner, turn, stopwatch)
                running.append((row, runner))
            except Exception as error:  # one that fails must not end the others' run
                row.missing = reason(error)
        for number in range(1, rounds + 1):
            tick(f"round {number} of {rounds}")
            for row, runner in running:
                sleep(pause)
                row.seconds.append(stopwatch(runner, row.steps) / row.steps)
    return rows


def calibrated(runner: Runner, turn: float, stopwatch: Stopwatch) -> int:
    """The number of steps that take about `turn` seconds."""
    steps, seconds = 1, stopwatch(runner, 1)
    while seconds < turn / 10:
        steps *= 4
        seconds = stopwatch(runner, steps)
    return max(1, round(steps * turn / seconds))


def reason(error: Exception) -> str:
    """An error in one line, as a row shows it."""
    if isinstance(error, MissingError):
        return str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
