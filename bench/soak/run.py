"""The run: generation after generation of optimizers, each passed from thread to thread."""

from __future__ import annotations

import datetime
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic

import numpy as np

from .. import machine
from ..harness import reason
from . import faults, memory
from .leaves import Random, pick
from .report import Soak
from .subject import Subject
from .trees import Recipe, options, plain, recipe

#: Optimizers in a generation, and how often something happens to each.
SUBJECTS, BURSTS = 16, 6

#: What is compiled stays compiled. So it is the same in all runs, and not much: options, of which
#: each is a program for Numba, and for JAX whole trees.
OPTIONS = [options(np.random.default_rng(number)) for number in range(16)]
JAX_TREES = 2

#: Generations at least, so that memory has a second fifth and a last.
FEWEST = 5

#: Optimizers for each of these trees in the warm-up: so many meet all that JAX compiles for.
WARM = 4

#: Called with a description, and the seconds since it was called last.
Tick = Callable[[str, float], None]


def run(minutes: float, seed: int, threads: int, tick: Tick) -> Soak:
    """Soak for so long, and `FEWEST` generations, after a warm-up in which everything is compiled.

    Generation `n` has the seed `seed + n`, and is the same in every run on the same libraries.
    """
    soak = Soak(
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=machine.describe(threads),
        versions=machine.versions(),
        settings={"minutes": minutes, "seed": seed},
    )
    memory.settle()
    diary = memory.Diary()
    with _forking(), tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        live = partial(_live, soak, pool, threads, Path(folder))
        tick("warm-up", 0.0)
        jax = _jax_trees()
        live("warm-up", 0, [*map(plain, OPTIONS), *jax * WARM])
        began = last = monotonic()
        while len(diary.steps) < FEWEST or last < began + 60 * minutes:
            number = seed + len(diary.steps)
            random = np.random.default_rng(number)
            live(f"seed {number}", number, [_recipe(random, jax) for _ in range(SUBJECTS)])
            diary.note(soak.done["steps"])
            now = monotonic()
            tick(f"{soak.done['steps']:,} steps, {len(soak.mismatches)} mismatches", now - last)
            last = now
    soak.done["generations"] = len(diary.steps)
    soak.memory = diary.growth()
    return soak


def _live(
    soak: Soak,
    pool: Executor,
    threads: int,
    folder: Path,
    name: str,
    seed: int,
    recipes: Sequence[Recipe],
) -> None:
    """One generation, from its first step to its last."""
    subjects = []
    for i, drawn in enumerate(recipes):
        random = np.random.default_rng([seed, i])
        subjects.append(Subject(drawn, f"{name}, optimizer {i}", random, folder / str(i)))
    waiting: SimpleQueue[tuple[Subject, int]] = SimpleQueue()
    for subject in subjects:
        waiting.put((subject, BURSTS))
    for working in [pool.submit(_work, waiting) for _ in range(threads)]:
        soak.mismatches += working.result()
    for subject in subjects:
        soak.add(subject.done, subject.faults, subject.strain)


def _work(waiting: SimpleQueue[tuple[Subject, int]]) -> list[str]:
    """What each thread does: take an optimizer, see it through a burst of steps with a fault, and
    leave it to whoever comes next. One with a mismatch is not stepped again."""
    mismatches: list[str] = []
    while True:
        try:
            subject, bursts = waiting.get_nowait()
        except Empty:
            return mismatches
        try:
            subject.burst(pick(subject.random, faults.ALL))
        except Exception as error:  # the package's own is no better than a wrong number
            mismatches.append(f"{subject.name}: {reason(error)}")
        else:
            if bursts > 1:
                waiting.put((subject, bursts - 1))


def _recipe(random: Random, jax: Sequence[Recipe]) -> Recipe:
    """That of the next optimizer."""
    mixtures: list[tuple[str, ...]] = [("numpy",), ("numpy",), ("numpy", "python")]
    if find_spec("torch"):
        mixtures += [("torch",), ("numpy", "torch", "python")]
    if jax and random.random() < 0.15:
        return pick(random, jax)
    return recipe(random, pick(random, mixtures), pick(random, OPTIONS))


def _jax_trees() -> list[Recipe]:
    if not find_spec("jax"):
        return []
    return [
        recipe(np.random.default_rng(number), ("jax", "jax", "numpy"), OPTIONS[number])
        for number in range(JAX_TREES)
    ]


@contextmanager
def _forking() -> Iterator[None]:
    """What is needed to fork while several threads work, with only one thread for each of torch's
    operators, and without being told each time that it is dangerous: that is what is tested."""
    if find_spec("torch"):
        import_module("torch").set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*fork", DeprecationWarning)
        warnings.filterwarnings("ignore", "(?s).*fork", RuntimeWarning)
        yield
