"""The GPU benchmark: three clocks on every workload.

- Device time is that between two events on the device's stream, before and after the steps of a
  turn. Where the host is slower than the device it is the host's time.
- Host time is that of the call alone, on an idle device: each step is waited for, off the clock.
- End to end is on the wall clock, until all steps of a turn are done.

Everyone takes turns, as on a CPU. What is smaller than several caches is there several times, with
the same competitor on each set of arrays in turn, so that no step finds its arrays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from . import machine
from .competitors import OURS
from .cuda import Cuda
from .harness import MissingError, Runner, Tick, compare, wall
from .on_device import Entry, Rotation, everyone
from .results import DEVICE_TIME, END_TO_END, HOST_TIME, WRAPPED_TIME, Comparison, Report, Row
from .workloads import ON_GPU, Arrays, Workload
from .wrapped import NORM, SCALARS, WHOLE, WRAPPED

WRAPPERS = "wrappers"
PARTS = (*ON_GPU, WRAPPERS)
LARGEST = ("1x100M", "1x100M-zeros", "gpt2", WRAPPERS)  # left out of a quick run

#: What there are targets for, in the order in which they matter.
FIRST = ("1x100M", "1000x1000", "200x64x64", WRAPPERS)

#: A competitor's arrays are together at least so many times the cache.
CACHES = 4
STATE, GIVEN = 16, 8  # bytes of an element of p, g, m and v, and of p and g


def run(device: Cuda, parts: Iterable[str], *, rounds: int, turn: float, tick: Tick) -> Report:
    """Run these parts on this device."""
    about = {**machine.describe(machine.available()), **device.describe()}
    report = machine.report("gpu", about, rounds, turn)
    for part in parts:
        if part == WRAPPERS:
            report.comparisons.append(wrapped(device, ON_GPU["1x100M"], rounds, turn, tick))
        else:
            report.comparisons += comparisons(device, ON_GPU[part], rounds, turn, tick)
    return report


def wrapped(device: Cuda, workload: Workload, rounds: int, turn: float, tick: Tick) -> Comparison:
    """Adam, and what is put around it, by device time; on one set of arrays, beyond the caches."""
    params, grads = _given(device, workload, 0)
    rows = compare(
        {name: partial(WRAPPED[name], params, grads) for name in (OURS, WHOLE, SCALARS, NORM)},
        rounds=rounds,
        turn=turn,
        stopwatch=device.seconds,
        tick=partial(_said, tick, f"{workload.title}, wrapped"),
    )
    leaves = len(workload.shapes)
    return Comparison(workload.key, workload.title, leaves, workload.elements, rows, WRAPPED_TIME)


def comparisons(
    device: Cuda, workload: Workload, rounds: int, turn: float, tick: Tick
) -> Iterator[Comparison]:
    """Everyone on one workload, by each clock. As on a CPU they share parameters and gradients."""
    shape = workload.key, workload.title, len(workload.shapes), workload.elements
    number = max(1, -(-CACHES * device.cache // (STATE * workload.elements)))
    try:
        _room(device, number * GIVEN * workload.elements)
        sets = [_given(device, workload, seed) for seed in range(number)]
    except MissingError as error:
        rows = [Row(name, missing=str(error)) for name in everyone(device)]
        yield Comparison(*shape, rows, END_TO_END)
        return
    clocks = (
        (DEVICE_TIME, device.seconds, turn),
        (HOST_TIME, partial(on_host, device), turn / 10),  # much of it is off the clock
        (END_TO_END, partial(to_the_end, device), turn),
    )
    for measure, stopwatch, long in clocks:
        entries = everyone(device).items()
        rows = compare(
            {name: partial(_made, device, entry, measure, sets) for name, entry in entries},
            rounds=rounds,
            turn=long,
            stopwatch=stopwatch,
            tick=partial(_said, tick, f"{workload.title}, {measure.lower()}"),
        )
        yield Comparison(*shape, rows, measure)


def on_host(device: Cuda, runner: Runner, steps: int) -> float:
    """Seconds that the calls of these steps take, each on an idle device."""
    seconds = 0.0
    for _ in range(steps):
        runner.finish()
        device.synchronize()
        start = perf_counter()
        runner.run(1)
        seconds += perf_counter() - start
    return seconds


def to_the_end(device: Cuda, runner: Runner, steps: int) -> float:
    """Seconds on the wall clock until this many steps are done."""
    start = perf_counter()
    wall(runner, steps)
    device.synchronize()
    return perf_counter() - start


def _said(tick: Tick, before: str, text: str) -> None:
    tick(f"{before}: {text}")


def _given(device: Cuda, workload: Workload, seed: int) -> tuple[Arrays, Arrays]:
    """Parameters and gradients on the device."""
    params = [device.array(p) for p in workload.arrays(2 * seed + 1)]
    if workload.zeros:
        return params, [device.array(np.zeros(s, np.float32)) for s in workload.shapes]
    return params, [device.array(g) for g in workload.arrays(2 * seed + 2)]


def _made(
    device: Cuda, entry: Entry, measure: str, sets: Sequence[tuple[Arrays, Arrays]]
) -> Runner:
    """The competitor on every set, unless this clock does not see it, or memory is short."""
    if measure == DEVICE_TIME and not entry.seen:
        raise MissingError("its work is not on the default stream, where the events are")
    elements = sum(p.size for params, _ in sets for p in params)
    _room(device, entry.needs * elements)
    return Rotation(entry.make(params, grads) for params, grads in sets)


def _room(device: Cuda, needs: int) -> None:
    available = device.available()
    if needs > available:
        raise MissingError(f"needs {needs / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free")
