"""What is put around Adam: the package's wrappers, NumPy's passes after it, and optax's chain.

The gradient is clipped to [-1, 1], the parameters to [0, 1], and averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .competitors import BETAS, EPS, LR, OURS, Make, Optax, Ours
from .harness import needed
from .workloads import Arrays

DECAY = 0.999
WHOLE, PASSES, CHAIN = "clip, bound, average", "Adam, then NumPy's passes", "optax's chain, jax.jit"
SCALARS, ARRAYS, NORM = "Bounded by scalars", "Bounded by arrays", "Clipped by norm"


class Passes(Ours):
    """The package's Adam, and NumPy's passes before and after it, in place."""

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        super().__init__(params, grads)
        self.average = [np.zeros_like(p) for p in params]
        self.scratch = [np.empty_like(p) for p in params]

    def step(self) -> None:
        """Make one step."""
        for g, s in zip(self.g, self.scratch, strict=True):
            np.clip(g, -1, 1, out=s)
        params = self.optimizer.step(self.scratch)
        for p, a, s in zip(params, self.average, self.scratch, strict=True):
            np.clip(p, 0, 1, out=p)
            np.subtract(p, a, out=s)
            np.multiply(s, 1 - DECAY, out=s)
            np.add(a, s, out=a)


class Chain(Optax):
    """The same of optax's parts under jax.jit, all that changes donated."""

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        super().__init__(params, grads)
        optax = needed("optax")
        chain = optax.chain(optax.clip(1.0), optax.adam(LR, *BETAS, eps=EPS))

        def update(params: Any, state: Any, grads: Any) -> Any:
            inner, average = state
            change, inner = chain.update(grads, inner, params)
            params = optax.apply_updates(params, change)
            params = self.jax.tree.map(lambda p: self.jax.numpy.clip(p, 0.0, 1.0), params)
            return params, (inner, optax.incremental_update(params, average, 1 - DECAY))

        self.update = self.jax.jit(update, donate_argnums=(0, 1))
        zeros = self.jax.tree.map(self.jax.numpy.zeros_like, self.p)
        self.state = chain.init(self.p), zeros


def _wrapped(wrap: Callable[[Any, Any, Arrays], Any]) -> Make:
    def make(params: Arrays, grads: Arrays) -> Ours:
        from adam_any import rules

        rule = wrap(rules, rules.Adam(LR, BETAS, EPS), params)
        return Ours(params, grads, rule=rule)

    return make


def _whole(rules: Any, adam: Any, params: Arrays) -> Any:
    return rules.Averaged(rules.Bounded(rules.Clipped(adam, value=1), 0, 1), DECAY)


def _arrays(rules: Any, adam: Any, params: Arrays) -> Any:
    return rules.Bounded(adam, *([np.full_like(p, x) for p in params] for x in (0, 1)))


#: Everyone who takes part, by the name in the tables.
WRAPPED: dict[str, Make] = {
    OURS: partial(Ours),
    WHOLE: _wrapped(_whole),
    PASSES: Passes,
    CHAIN: Chain,
    SCALARS: _wrapped(lambda rules, adam, params: rules.Bounded(adam, 0, 1)),
    ARRAYS: _wrapped(_arrays),
    NORM: _wrapped(lambda rules, adam, params: rules.Clipped(adam, norm=1)),
}

#: One's time divided by another's, and what that is to be: at most, or at least.
TARGETS = (
    (WHOLE, OURS, "at most", 1.35),
    (PASSES, WHOLE, "at least", 2.5),
    (SCALARS, OURS, "at most", 1.05),
    (ARRAYS, OURS, "at most", 1.35),
    (NORM, OURS, "at most", 1.20),
    (CHAIN, WHOLE, "at least", 1.5),
)
