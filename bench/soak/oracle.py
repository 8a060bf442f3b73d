"""Adam on the numbers of one leaf, from the paper (Kingma & Ba 2015), in long double.

It imports nothing of the package: what it has in common with it is the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rate = float | Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Options:
    """Everything about Adam but its learning rate."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    amsgrad: bool = False
    maximize: bool = False


class Oracle:
    """What the parameters `p` should be, and how far from that rounding can have taken them."""

    p: Any
    #: Steps since `trust`, and the largest of |p|, |its change| and the learning rate in them.
    steps: int
    reach: Any

    def __init__(self, options: Options, p: Any) -> None:
        self.options, self.t = options, 0
        self.trust(p)
        self.m, self.v, self.vmax = (np.zeros_like(self.p) for _ in range(3))

    def step(self, g: Any, lr: Rate) -> None:
        """Update once."""
        o, before = self.options, self.p
        beta1, beta2 = map(np.longdouble, o.betas)
        alpha = lr(self.t) if callable(lr) else lr
        self.t += 1
        g = np.asarray(g, np.longdouble) * (-1 if o.maximize else 1)
        if not o.decoupled:
            g = g + o.weight_decay * before
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        self.vmax = np.maximum(self.vmax, self.v)
        m_hat = self.m / (1 - beta1**self.t)
        v_hat = (self.vmax if o.amsgrad else self.v) / (1 - beta2**self.t)
        self.p = before - alpha * m_hat / (np.sqrt(v_hat) + o.eps)
        if o.decoupled:
            self.p = self.p - alpha * o.weight_decay * before
        self.steps += 1
        moved = np.abs(self.p - before)
        self.reach = np.maximum(self.reach, np.maximum(np.maximum(np.abs(self.p), moved), alpha))

    def trust(self, p: Any) -> None:
        """Take these parameters, found good or set by the user, as those to go on from.

        So rounding is given to no parameter on credit: the bound holds for the few steps since.
        """
        self.p = np.asarray(p, np.longdouble)
        self.reach, self.steps = np.abs(self.p), 0

    def strain(self, p: NDArray[Any], eps: float) -> float:
        """The largest distance of `p` as a share of what `eps` a step allows; above 1 is wrong."""
        bound = max(self.steps, 1) * eps * self.reach
        distance = np.abs(np.asarray(p, np.longdouble) - self.p)
        with np.errstate(all="ignore"):
            share = np.where(distance == 0, 0, distance / bound)
        return float(np.max(share, initial=0.0))
