"""Exact resume: 20 steps, and 10, save, another process, load, 10 more, give the same bits (D4)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest

from adam_any import Adam, AdamW
from tests.helpers.bits import snapshot
from tests.helpers.libraries import LIBRARIES, Lib, named, ready, require
from tests.helpers.optimizers import schedule

HALF = 10

#: What differs from the defaults; `decoupled` makes it AdamW.
OPTIONS = {"decoupled": True, "amsgrad": True, "maximize": True, "weight_decay": 0.1}
EVERY = [
    {name: OPTIONS[name] for name in chosen}
    for n in range(len(OPTIONS) + 1)
    for chosen in combinations(OPTIONS, n)
]
SOME: list[dict[str, Any]] = [{}, {"weight_decay": 0.1}, {**OPTIONS, "lr": schedule}]

#: The dtypes that every engine with the same bits takes.
SAME = ("float32", "float64", "complex64", "complex128")


class Pair(NamedTuple):
    """A container of the user's."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Run:
    """A run whose second half may be on another library or engine than its first."""

    first: Lib
    second: Lib
    options: dict[str, Any]

    def __str__(self) -> str:
        where = [str(self.first)] + [str(self.second)] * (self.first != self.second)
        return "-".join([*where, *self.options])

    @property
    def dtypes(self) -> tuple[str, ...]:
        if self.first != self.second:
            return SAME
        step = 2 if self.first.name == "jax" else 1  # which compiles for each
        return ("float16", "complex128") if self.first.slow else self.first.dtypes[::step]

    def optimizer(self, lib: Lib, params: Any, **more: Any) -> Adam:
        options = {**self.options, **more}
        kind = AdamW if options.pop("decoupled", False) else Adam
        return kind(params, **options, engine=lib.engine)

    def start(self) -> Adam:
        """The run before its first step."""
        options = {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-7, **self.options}
        return self.optimizer(self.first, tree(self.first, self.dtypes, 0), **options)


def tree(lib: Lib, dtypes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Numbers in every kind of container, of every dtype and shape."""
    rng = np.random.default_rng(seed)

    def array(dtype: str, *shape: int) -> Any:
        parts = rng.normal(size=(2, *shape))
        return lib.array(parts[0] + 1j * parts[1] if "complex" in dtype else parts[0], dtype)

    return {
        "dtypes": {dtype: array(dtype, 2, 3) for dtype in dtypes},
        "large": [array("float32", 5000), (array("float64", 0, 2), None)],
        "zero": Pair(array("float32"), array("complex64")),
        "float": float(rng.normal()),
    }


def steps(run: Run, lib: Lib, opt: Adam, begin: int) -> None:
    """Ten steps, each of which skips other leaves than the one before."""
    for step in range(begin, begin + HALF):
        leaves, spec = optree.tree_flatten(tree(lib, run.dtypes, 1 + step), none_is_leaf=True)
        grads = [None if (step + 1) % (i + 2) == 0 else g for i, g in enumerate(leaves)]
        opt.step(optree.tree_unflatten(spec, grads))


def seen(opt: Adam) -> dict[str, str]:
    """Every bit of the parameters and the state, and every hyperparameter, as text."""
    bits = {k: v.hex() if isinstance(v, bytes) else str(v) for k, v in snapshot(opt).items()}
    return {**bits, "options": repr(opt).replace("AdamW", "Adam").partition(" at ")[0]}


def second_half(run: Run, folder: Path) -> dict[str, str]:
    """Go on from what was saved, as a fresh process can: with other hyperparameters at first."""
    with ready(run.second) as lib, np.load(folder / "params.npz") as saved:
        like, spec = optree.tree_flatten(tree(lib, run.dtypes, 0))
        params = [
            float(x) if isinstance(old, float) else lib.array(x, dtype_of(old))
            for old, x in zip(like, saved.values(), strict=True)
        ]
        opt = run.optimizer(lib, optree.tree_unflatten(spec, params))
        opt.load(folder / "state")
        steps(run, lib, opt, HALF)
        return seen(opt)


def dtype_of(x: Any) -> str:
    return str(getattr(x.dtype, "name", x.dtype)).rpartition(".")[2]


#: The halves of these may be on different engines: they promise the same bits.
CHAIN = ("numpy-eager", "numpy", "torch", "dask", "numpy-eager")
ON_GPU = ("numpy", "cupy-emulated", "numpy-tiles", "cupy-cuda", "torch-cuda", "torch")
RUNS = [
    *(Run(at, at, SOME[-1]) for at in LIBRARIES),
    *(
        Run(named(first), named(second), SOME[-1])
        for first, second in (*pairwise(CHAIN), *pairwise(ON_GPU))
    ),
]
#: Every product of options, where it costs least, and the simplest wherever it can be compiled.
MORE = [
    *(Run(at, at, options) for at in (named("numpy-eager"),) for options in EVERY),
    *(Run(at, at, options) for at in LIBRARIES if not at.slow for options in SOME[:-1]),
]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A process that knows nothing of this one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


@pytest.mark.promise(
    "A run that is saved and resumed in another process has the bits of an uninterrupted one.",
    defect="D4",
    seen=["keras#12449", "sklearn#6091", "tinker-feedback#126"],
)
@pytest.mark.promise(
    "Resuming is exact for every option, dtype and tree, and between engines of the same bits."
)
@pytest.mark.parametrize(
    "run",
    [
        *(pytest.param(run, id=str(run)) for run in RUNS),
        *(pytest.param(run, id=f"{run} ", marks=pytest.mark.slow) for run in MORE),
    ],
)
def test_a_resumed_run_has_the_same_bits(
    run: Run, elsewhere: ProcessPoolExecutor, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    require(request.config, run.first)
    require(request.config, run.second)
    with ready(run.first) as lib:
        opt = run.start()
        steps(run, lib, opt, 0)
        opt.save(tmp_path / "state")
        leaves = optree.tree_leaves(opt.params)
        values = [x if isinstance(x, float) else lib.numpy(x) for x in leaves]
        np.savez(tmp_path / "params.npz", *values)
        resumed = elsewhere.submit(second_half, run, tmp_path)
        steps(run, lib, opt, HALF)
        whole = seen(opt)
    assert len({int(v) for k, v in whole.items() if k.endswith(" step")}) > 1
    assert resumed.result() == whole
