"""Exact resume: 20 steps, and 10, save, a fresh process, load, 10 more, give the same bits (D4).

All second halves run in one fresh process: `python -m tests.state.test_resume FOLDER`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest

from adam_any import Adam, AdamW
from tests.helpers import ROOT
from tests.helpers.bits import snapshot
from tests.helpers.libraries import LIBRARIES, Lib, missing, named, ready, require
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
        return ("float16", "complex128") if self.first.slow else self.first.dtypes

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


def first_half(run: Run, folder: Path, number: int) -> Adam:
    """Take ten steps and save what there is then."""
    with ready(run.first) as lib:
        opt = run.start()
        steps(run, lib, opt, 0)
        opt.save(folder / f"{number}.state")
        values = [
            x if isinstance(x, float) else lib.numpy(x) for x in optree.tree_leaves(opt.params)
        ]
        np.savez(folder / f"{number}.npz", *values)
        return opt


def go_on(run: Run, opt: Adam) -> dict[str, str]:
    """Take ten more steps in the same process."""
    with ready(run.first) as lib:
        steps(run, lib, opt, HALF)
        return seen(opt)


def second_half(run: Run, folder: Path, number: int) -> dict[str, str]:
    """Go on from what was saved, as a fresh process can: with other hyperparameters at first."""
    with ready(run.second) as lib, np.load(folder / f"{number}.npz") as saved:
        like, spec = optree.tree_flatten(tree(lib, run.dtypes, 0))
        params = [
            float(x) if isinstance(old, float) else lib.array(x, dtype_of(old))
            for old, x in zip(like, saved.values(), strict=True)
        ]
        opt = run.optimizer(lib, optree.tree_unflatten(spec, params))
        opt.load(folder / f"{number}.state")
        steps(run, lib, opt, HALF)
        return seen(opt)


def dtype_of(x: Any) -> str:
    return str(getattr(x.dtype, "name", x.dtype)).rpartition(".")[2]


RUNS = [
    *(Run(named("numpy-eager"), named("numpy-eager"), options) for options in EVERY),
    *(
        Run(at, at, options)
        for at in LIBRARIES
        if str(at) != "numpy-eager"  # as above
        for options in (SOME[-1:] if at.slow or at.name == "jax" else SOME)
    ),
    # Those that promise the same bits: the halves may lie on different ones.
    *(
        Run(named(first), named(second), SOME[-1])
        for first, second in (
            ("numpy-eager", "numpy"),
            ("numpy", "numpy-eager"),
            ("numpy", "torch"),
            ("torch", "dask"),
            ("dask", "numpy-eager"),
            ("numpy", "cupy-cuda"),
            ("cupy-cuda", "torch-cuda"),
            ("torch-cuda", "torch"),
        )
    ),
]


class Halves(NamedTuple):
    """What each run was after 20 steps in one go, and after 10 and 10."""

    whole: dict[str, dict[str, str]]
    resumed: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Halves:
    folder = tmp_path_factory.mktemp("resume")
    able = [i for i, run in enumerate(RUNS) if not missing(run.first) and not missing(run.second)]
    (folder / "able").write_text(json.dumps(able))
    begun = {i: first_half(RUNS[i], folder, i) for i in able}
    command = [sys.executable, "-m", "tests.state.test_resume", str(folder)]
    with subprocess.Popen(command, cwd=ROOT) as fresh:
        whole = {str(RUNS[i]): go_on(RUNS[i], opt) for i, opt in begun.items()}
    assert fresh.returncode == 0
    return Halves(whole, json.loads((folder / "resumed").read_text()))


@pytest.mark.promise(
    "A run that is saved and resumed in another process has the bits of an uninterrupted one.",
    defect="D4",
    seen=["keras#12449", "sklearn#6091", "tinker-feedback#126"],
)
@pytest.mark.promise(
    "Resuming is exact for every option, dtype and tree, and between engines of the same bits."
)
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_resumed_run_has_the_same_bits(
    run: Run, halves: Halves, request: pytest.FixtureRequest
) -> None:
    require(request.config, run.first)
    require(request.config, run.second)
    whole, resumed = halves.whole[str(run)], halves.resumed[str(run)]
    assert len({int(v) for k, v in whole.items() if k.endswith(" step")}) > 1
    assert resumed == whole


def main(folder: Path) -> None:
    able = json.loads((folder / "able").read_text())
    resumed = {str(RUNS[i]): second_half(RUNS[i], folder, i) for i in able}
    (folder / "resumed").write_text(json.dumps(resumed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
