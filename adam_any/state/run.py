"""A run in a file: beside parameters, moments and counts, its history and the best so far.

It is an optimizer's file with a little more: a tensor `path/best` for each leaf, the tensor
`run/history`, and in the document an entry `run`. `Optimizer.load` reads it, too, and leaves these.

Or it is a nested dict, for a store that writes arrays in shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..contents import leaf_of
from ..leaf import Leaf
from ..optimizer import Optimizer
from ..words import shown
from . import file
from .file import Path, Stored
from .messages import equal, same_names
from .safetensors import Kind


def save(
    path: Path, opt: Optimizer, entry: dict[str, Any], history: Any, best: Sequence[Any]
) -> None:
    """Write a run to a file, which takes the place of an old one at once, or not at all.

    `history` is of shape (records, columns), `best` has an array for each leaf of the optimizer.
    """
    contents = opt._whole()
    beside = _beside(contents.leaves, history, best)
    file.save(path, contents, {**entry, "records": len(history)}, beside)


def load(
    path: Path, opt: Optimizer, columns: int, names: Sequence[str]
) -> tuple[dict[str, int | float], Any, list[Any]]:
    """Set an optimizer to what a file has; the run's entry, history and best.

    Raises ValueError where the file does not fit or has no run with numbers of these names; nothing
    has changed then.
    """
    leaves = opt._contents.leaves
    found: dict[str, Any] = {}

    def beside(entry: Any) -> list[Stored]:
        if not isinstance(entry, Mapping) or set(entry) != {*names, "records"}:
            raise ValueError("the file has no run, but an optimizer's state; opt.load reads it")
        for name, x in entry.items():
            whole = isinstance(x, float) if name == "value" else type(x) is int and x >= 0
            if not whole:
                raise ValueError(f"{name} is {shown(x)} in the file; it must be a number")
        found.update(entry)
        history = np.empty((entry["records"], columns))
        return _beside(leaves, history, [leaf.array for leaf in leaves])

    rule, restored, more = file.load_all(path, opt._contents, True, beside)
    opt._restore(rule, restored)
    *best, history = more
    return found, history, best


def to_dict(
    opt: Optimizer, entry: dict[str, Any], history: Any, best: Sequence[Any]
) -> dict[str, Any]:
    """A run as a nested dict, for a store: arrays as they lie, by the paths of their leaves."""
    leaves = opt._contents.leaves
    return {
        "optimizer": opt.state_dict(),
        "params": {leaf.path: leaf.array for leaf in leaves},
        "best": {leaf.path: x for leaf, x in zip(leaves, best, strict=True)},
        "run": {**entry, "history": history},
    }


def from_dict(
    opt: Optimizer, found: Any, names: Sequence[str]
) -> tuple[dict[str, int | float], Any, list[Any]]:
    """Set an optimizer to what a store returned; the run's entry, history and best."""
    equal("the keys", sorted(found), ["best", "optimizer", "params", "run"])
    leaves, entry = opt._contents.leaves, dict(found["run"])
    history = np.asarray(entry.pop("history"), "f8")
    same_names("run", entry, list(names))
    for part in ("params", "best"):
        same_names(part, found[part], [leaf.path for leaf in leaves])
    opt.load_state_dict(found["optimizer"])
    opt.params = opt._tree.build(_in_order(opt, found["params"]))
    values = {name: float(x) if name == "value" else int(x) for name, x in entry.items()}
    return values, history, [found["best"][leaf.path] for leaf in leaves]


def _in_order(opt: Optimizer, by_path: Mapping[str, Any]) -> list[Any]:
    return [by_path.get(path) for path in opt._tree.paths]


def _beside(leaves: Sequence[Leaf], history: Any, best: Sequence[Any]) -> list[Stored]:
    stored = [
        Stored(leaf, file.BEST, x, Kind(leaf.dtype.file, leaf.shape + (2,) * leaf.dtype.complex))
        for leaf, x in zip(leaves, best, strict=True)
    ]
    run = leaf_of(-1, "run", history)
    return [*stored, Stored(run, file.HISTORY, history, Kind("F64", history.shape))]
