"""What the choice of an engine is worth on this machine: one large step, timed."""

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
    """Seconds of one step: of the engine chosen, and of the reference."""

    choice: Choice
    chosen: float
    reference: float


def compare() -> Comparison:
    """Time a step of NumPy's float32 arrays with both engines, in turns.

    The reference does in NumPy, one operation after another, what people write by hand.
    """
    g = np.random.default_rng(0).standard_normal(ELEMENTS, np.float32)
    chosen, reference = (Adam(np.zeros_like(g), engine=engine) for engine in (None, "eager"))
    seconds: dict[Adam, list[float]] = {chosen: [], reference: []}
    for _ in range(1 + ROUNDS):  # the first one compiles, and meets the memory
        for opt, times in seconds.items():
            begun = time.perf_counter()
            opt.step(g)
            times.append(time.perf_counter() - begun)
    ours, plain = (median(seconds[opt][1:]) for opt in (chosen, reference))
    return Comparison(chosen.explain()[0], ours, plain)
