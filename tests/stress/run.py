"""The run: generation after generation of optimizers, each passed from thread to thread."""

from __future__ import annotations

import dataclasses
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

import numpy as np

from . import memory
from .attacks import burst
from .recipes import JAX, NUMPY, PYTHON, TORCH, Random, Recipe, options, pick, plain, recipe
from .shadows import Mismatch
from .subject import Subject

#: Optimizers in a generation, and how often each is attacked.
SUBJECTS, BURSTS = 16, 6

#: What is compiled stays compiled. So it is the same in all runs, and not much: options, of which
#: each is a program for Numba, and for JAX whole trees.
OPTIONS = [options(np.random.default_rng(number)) for number in range(16)]
JAX_TREES = 2

#: Generations at least, so that memory has a second fifth and a last.
FEWEST = 5

#: Optimizers for each of JAX's trees in the warm-up: enough to meet all that it compiles for.
WARM = 4


@dataclasses.dataclass
class Found:
    """What a run did and found."""

    done: Counter[str] = dataclasses.field(default_factory=Counter)
    attacks: Counter[str] = dataclasses.field(default_factory=Counter)
    #: The largest distance from an oracle, as a share of what rounding may amount to.
    strain: float = 0.0
    growth: dict[str, float] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)


def run(minutes: float, seed: int, threads: int, tell: Callable[[str], None]) -> Found:
    """Stress for so long, and `FEWEST` generations, after a warm-up in which all is compiled.

    Generation `n` has the seed `seed + n`, and is the same in every run on the same libraries.
    """
    memory.settle()
    if find_spec("torch"):  # its own threads do not survive a fork
        import_module("torch").set_num_threads(1)
    diary, found = memory.Diary(), Found()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        live = partial(_live, found, pool, Path(folder), tell)
        jax = _jax_trees()
        live("warm-up", 0, [*map(plain, OPTIONS), *jax * WARM])
        end = monotonic() + 60 * minutes
        while found.done["generations"] < FEWEST or monotonic() < end:
            number = seed + found.done["generations"]
            random = np.random.default_rng(number)
            live(f"seed {number}", number, [_recipe(random, jax) for _ in range(SUBJECTS)])
            diary.note()
            found.done["generations"] += 1
    found.growth = diary.growth()
    for name, value in found.growth.items():
        if value > memory.NOISE[name]:
            found.problems.append(f"{name} grew by {value:,.0f}")
    return found


def _live(
    found: Found,
    pool: ThreadPoolExecutor,
    folder: Path,
    tell: Callable[[str], None],
    name: str,
    seed: int,
    recipes: Sequence[Recipe],
) -> None:
    """One generation, from its first step to its last. Each burst may be another thread's; who has
    a problem is not stepped again."""
    tell(f"{name}, {found.done['steps']:,} steps, {len(found.problems)} problems")
    subjects = [
        Subject(drawn, f"{name}, optimizer {i}", np.random.default_rng([seed, i]), folder / str(i))
        for i, drawn in enumerate(recipes)
    ]
    sound = subjects
    for _ in range(BURSTS):
        problems = list(pool.map(_problem, sound))
        found.problems += filter(None, problems)
        sound = [s for s, problem in zip(sound, problems, strict=True) if problem is None]
    for subject in subjects:
        found.done += subject.done
        found.attacks += subject.attacks
        found.strain = max(found.strain, subject.strain)


def _problem(subject: Subject) -> str | None:
    """See it through a burst; what was not as it must be."""
    try:
        burst(subject)
    except Mismatch as mismatch:
        return f"{subject.name}: Mismatch: {mismatch}"
    except Exception as error:  # the package's own is no better than a wrong number
        return f"{subject.name}: {''.join(traceback.format_exception(error))}"
    return None


def _recipe(random: Random, jax: Sequence[Recipe]) -> Recipe:
    """The recipe of the next optimizer."""
    mixtures = [(NUMPY,), (NUMPY,), (NUMPY, PYTHON)]
    if find_spec("torch"):
        mixtures += [(TORCH,), (NUMPY, TORCH, PYTHON)]
    if jax and random.random() < 0.15:
        return pick(random, jax)
    return recipe(random, pick(random, mixtures), pick(random, OPTIONS))


def _jax_trees() -> list[Recipe]:
    numbers = range(JAX_TREES if find_spec("jax") else 0)
    return [recipe(np.random.default_rng(n), (JAX, JAX, NUMPY), OPTIONS[n]) for n in numbers]
