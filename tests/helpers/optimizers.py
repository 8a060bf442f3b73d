"""Optimizers that tests step, and what the oracle expects of them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np

from adam_any import Adam, AdamW

from . import oracle
from .libraries import Lib

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda opt: pickle.loads(pickle.dumps(opt)),
}


def schedule(count: int) -> float:
    return 0.1 / (1 + count)


def make(params: Any, options: dict[str, Any], engine: str | None = None) -> Adam:
    options = {"lr": 0.05, "weight_decay": 0.0, **options}
    kind = AdamW if options.pop("decoupled", False) else Adam
    return kind(params, **options, engine=engine)


def samples(shape: tuple[int, ...], steps: int, seed: int = 0) -> tuple[Any, list[Any]]:
    """A start and gradients that shrink and change sign, so that amsgrad matters."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=shape)
    return start, [rng.normal(size=shape) / (1 + i) for i in range(steps)]


def expected(lib: Lib, dtype: str, start: Any, grads: list[Any], options: dict[str, Any]) -> Any:
    """The oracle's path from the values that the arrays really hold."""
    held = [lib.numpy(lib.array(x, dtype)) for x in (start, *grads)]
    options = {"lr": 0.05, **options}
    parts = [np.real, np.imag] if dtype.startswith("complex") else [np.asarray]
    runs = [oracle.run(part(held[0]), map(part, held[1:]), **options) for part in parts]
    return [[state.p for state in run] for run in runs]


def example(lib: Lib, **options: Any) -> tuple[Adam, Any]:
    dtypes = lib.dtypes
    values = {d: np.linspace(1, 2, 6).reshape(2, 3) for d in dtypes}
    tree = {
        "all": [lib.array(v, d) for d, v in values.items()],
        "0d": lib.array(1.0),
        "empty": lib.array(np.ones((0, 2))),
        "none": None,
        "float": 1.0,
    }
    opt = Adam(tree, **{"lr": 0.1, "amsgrad": True, **options}, engine=lib.engine)
    grads = {
        "all": [lib.array(v * 3 - 4, d) for d, v in values.items()],
        "0d": lib.array(2.0),
        "empty": lib.array(np.ones((0, 2))),
        "none": None,
        "float": 0.5,
    }
    opt.step(grads)
    opt.step({**grads, "all": None})
    return opt, grads
