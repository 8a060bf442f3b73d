"""The time of one large step on this machine, with the engine chosen and with the reference."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import numpy as np

from ..adam import Adam
from ..engines import Choice

ELEMENTS = 16_000_000
ROUNDS = 3


class Comparison(NamedTuple):
    """The engine chosen, and the seconds of one step with it and with the reference."""

    choice: Choice
    chosen: float
    reference: float


def compare() -> Comparison:
    """Time a step of a float32 NumPy array with both engines, in turns.

    The reference engine runs one NumPy operation after another, as code written by hand does.
    """
    g = np.random.default_rng(0).standard_normal(ELEMENTS, np.float32)
    chosen, reference = (Adam(np.zeros_like(g), engine=engine) for engine in (None, "eager"))
    seconds: dict[Adam, list[float]] = {chosen: [], reference: []}
    for _ in range(1 + ROUNDS):  # the first one compiles, and touches new memory
        for opt, times in seconds.items():
            begun = time.perf_counter()
            opt.step(g)
            times.append(time.perf_counter() - begun)
    ours, plain = (median(seconds[opt][1:]) for opt in (chosen, reference))
    return Comparison(chosen.explain()[0], ours, plain)
