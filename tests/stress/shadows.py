"""What an optimizer should be: the same steps, made where nothing else happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adam_any import Adam

from ..helpers import oracle
from ..helpers.bits import differ
from ..helpers.libraries import tolerance
from ..helpers.optimizers import make
from .recipes import NUMPY, Leaf, Recipe

#: Up to this many numbers of a leaf are followed by the oracle; all of them by the twin.
SAMPLE = 512


class Mismatch(Exception):  # noqa: N818 (a finding, not an error)
    """Something is not as it must be; the message says what."""


class Shadows:
    """A twin on the reference engine, over NumPy copies, and an oracle for every leaf."""

    def __init__(self, recipe: Recipe, start: Sequence[Any], exact: list[bool], lr: Any) -> None:
        self.leaves, self.options = recipe.leaves, recipe.options
        self.exact, self.lr = exact, lr
        self.twin = make(self._copies(start), {**self.options, "lr": lr}, engine="eager")
        #: The states of each leaf's oracle since its parameters were last compared.
        self.paths = [[oracle.start(_sample(v))] for v in start]

    def step(self, grads: Sequence[Any]) -> None:
        """Step by the numbers of these gradients; None skips a leaf."""
        self.twin.step(grads)
        with np.errstate(all="ignore"):
            for path, g in zip(self.paths, grads, strict=True):
                if g is not None:
                    options = {**self.options, "lr": self.lr}
                    path.append(oracle.step(path[-1], _sample(g), **options))

    def put(self, values: Sequence[Any]) -> None:
        """Go on from these parameters."""
        self.twin.params = self._copies(values)
        for path, v in zip(self.paths, values, strict=True):
            _trust(path, _sample(v))

    def learn(self, lr: Any) -> None:
        """Go on at another rate."""
        self.lr = self.twin.lr = lr

    def compare(self, opt: Adam, arrays: Sequence[Any]) -> float:
        """Raise unless this optimizer and its parameters are as they should be.

        Returns the largest distance from an oracle, as a share of what rounding may amount to.
        """
        mine, twins = (o.state_dict()["state"] for o in (opt, self.twin))
        worst = 0.0
        for i, (entry, twin) in enumerate(zip(mine.values(), twins.values(), strict=True)):
            leaf, path = self.leaves[i], self.paths[i]
            where = f"{list(mine)[i]!r}, {leaf}"
            if entry["step"] != path[-1].t:
                raise Mismatch(f"{where}: {entry['step']} steps, not {path[-1].t}")
            if self.exact[i]:
                has, should = {**entry, "p": arrays[i]}, {**twin, "p": self.twin.params[i]}
                for name in has.keys() - {"step"}:
                    number = differ(leaf.lib.numpy(has[name]), NUMPY.numpy(should[name]))
                    if number:
                        raise Mismatch(f"{where}: {number} numbers of {name} are not the twin's")
            strain = self._strain(leaf, path, _sample(leaf.lib.numpy(arrays[i])))
            if not strain <= 1:
                raise Mismatch(f"{where}: {strain:.3g} times the bound away from the oracle")
            worst = max(worst, strain)
        return worst

    def _strain(self, leaf: Leaf, path: list[oracle.State], p: Any) -> float:
        """The distance from the oracle as a share of the bound. The parameters are then those to
        go on from, so that no rounding is granted on credit."""
        rate = max(self.lr(state.t) if callable(self.lr) else self.lr for state in path)
        bound = tolerance(leaf.dtype, [state.p for state in path], rate)
        distance = np.abs(p - path[-1].p)
        _trust(path, p)
        with np.errstate(all="ignore"):
            share = np.where(distance == 0, 0, distance / bound)
        return float(np.max(share, initial=0))

    def _copies(self, values: Sequence[Any]) -> list[Any]:
        # A leaf of bfloat16, which NumPy lacks, is compared with the oracle alone.
        dtypes = (leaf.dtype.replace("bfloat16", "float32") for leaf in self.leaves)
        return [NUMPY.array(v, dtype) for v, dtype in zip(values, dtypes, strict=True)]


def _trust(path: list[oracle.State], p: Any) -> None:
    path[:] = [path[-1]._replace(p=np.asarray(p, np.longdouble))]


def _sample(x: Any) -> Any:
    row = np.array(x).reshape(-1)
    row = row.view(row.real.dtype)
    return row[:: max(1, row.size // SAMPLE)]
