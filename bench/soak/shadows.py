"""What an optimizer should be: the same steps made where nothing else happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adam_any import Adam, AdamW

from .leaves import Leaf, Numbers, host, reals
from .oracle import Options, Oracle, Rate

#: What a step may differ by where no bits are promised, in units of the last place of the compute
#: dtype: the bound of `adam_any.engines.xla`. Half precision is rounded once more, to itself.
ULPS = 4
HALVES = {"float16": 2.0**-10, "bfloat16": 2.0**-7}

#: The oracle follows so many numbers of a leaf at most; the twin follows all.
SAMPLE = 512

Values = Sequence[Numbers]
Grads = Sequence[Numbers | None]


class MismatchError(Exception):
    """Something is not as it must be; the message says what."""


class Shadows:
    """A twin on the reference engine over NumPy copies of the leaves whose bits are promised, and
    an oracle for every leaf."""

    def __init__(
        self, leaves: tuple[Leaf, ...], start: Values, exact: list[bool], options: Options, lr: Rate
    ) -> None:
        self.leaves, self.exact, self.lr = leaves, exact, lr
        self.twin = adam(self._twins(start), options, lr, engine="eager")
        self.oracles = [Oracle(options, _sample(v)) for v in start]

    def _twins(self, values: Values) -> list[Numbers | None]:
        """Those of the leaves whose bits are promised, as arrays of the twin's own."""
        triples = zip(self.leaves, values, self.exact, strict=True)
        return [np.array(v, leaf.dtype) if exact else None for leaf, v, exact in triples]

    def step(self, values: Grads) -> None:
        """Step by these gradients."""
        pairs = list(zip(values, self.exact, strict=True))
        self.twin.step([v if promised else None for v, promised in pairs])
        for oracle, v in zip(self.oracles, values, strict=True):
            if v is not None:
                oracle.step(_sample(v), self.lr)

    def put(self, values: Values) -> None:
        """Go on from these parameters."""
        self.twin.params = self._twins(values)
        for oracle, v in zip(self.oracles, values, strict=True):
            oracle.trust(_sample(v))

    def learn(self, lr: Rate) -> None:
        """Go on at another rate."""
        self.lr = self.twin.lr = lr

    def compare(self, opt: Adam, arrays: list[Any]) -> float:
        """Raise unless this optimizer and its parameters are as they should be.

        Returns the largest distance from the oracle as a share of the bound.
        """
        state = list(opt.state_dict()["state"].items())
        twins = iter(self.twin.state_dict()["state"].values())
        worst = 0.0
        for i, ((path, entry), oracle) in enumerate(zip(state, self.oracles, strict=True)):
            leaf, p = self.leaves[i], reals(host(arrays[i]))
            where = f"{path!r}, {leaf}"
            if entry["step"] != oracle.t:
                raise MismatchError(f"{where}: {entry['step']} steps, not {oracle.t}")
            if self.exact[i]:
                theirs = {"p": self.twin.params[i], **next(twins)}
                for name, want in theirs.items():
                    have = p if name == "p" else entry[name]
                    _same(f"{where}: {name}", have, want)
            worst = max(worst, self._trust(where, leaf, oracle, _sample(p)))
        return worst

    def _trust(self, where: str, leaf: Leaf, oracle: Oracle, p: Any) -> float:
        eps = 2.0**-52 if leaf.dtype in ("float64", "complex128") else 2.0**-23
        strain = oracle.strain(p, ULPS * eps + HALVES.get(leaf.dtype, 0.0))
        if not strain <= 1:
            raise MismatchError(f"{where}: {strain:.3g} times the bound away from the oracle")
        oracle.trust(p)
        return strain


def adam(params: Any, options: Options, lr: Rate, **more: Any) -> Adam:
    """The optimizer of these options."""
    o, kind = options, AdamW if options.decoupled else Adam
    more.update(amsgrad=o.amsgrad, maximize=o.maximize)
    return kind(params, lr, o.betas, o.eps, o.weight_decay, **more)


def _sample(x: Any) -> Numbers:
    row = reals(x)
    return row[:: max(1, row.size // SAMPLE)]


def _same(what: str, have: Any, want: Any) -> None:
    """Raise unless two arrays, or step counts, have the same bits."""
    a, b = reals(host(have)), reals(np.asarray(want))
    if a.dtype != b.dtype or a.shape != b.shape:
        raise MismatchError(f"{what} is {a.dtype} of {a.shape}, not {b.dtype} of {b.shape}")
    if a.tobytes() != b.tobytes():
        at = int(np.flatnonzero(a.view(f"u{a.itemsize}") != b.view(f"u{b.itemsize}"))[0])
        raise MismatchError(f"{what}[{at}] is {a[at]!r}, not {b[at]!r}")
