"""Lion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight
from ._steps import descent, moved


@dataclass(frozen=True)
class Lion:
    r"""The sign of an interpolated momentum [1]_.

    Parameters
    ----------
    lr : float or callable
        The length of every step; 3 to 10 times smaller than Adam's serves.
    betas : tuple of two floats
        The share of the momentum in the step, and its decay rate; each in [0, 1).
    weight_decay : float
        Decoupled: ``lr * weight_decay * p`` is part of the step.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        p &\leftarrow p - \eta \, (\mathrm{sign}(\beta_1 m + (1 - \beta_1) g) + \lambda p) \\
        m &\leftarrow \beta_2 m + (1 - \beta_2) g

    optax has the same numbers, but a weight decay of 0.001 unless told otherwise.

    References
    ----------
    .. [1] X. Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023,
       arXiv:2302.06675, Algorithm 2.
    """

    lr: Number = number(1e-4)
    betas: tuple[Number, Number] = number((0.9, 0.99), below=1.0)
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = True
    moments: ClassVar[tuple[str, ...]] = ("m",)
    rates: ClassVar[tuple[str, ...]] = ("lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The weights of both averages."""
        lr: Any = self.lr
        beta1, beta2 = self.betas
        return {
            "lr": lr,
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "decay": lr * self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        beta1, beta2 = self.betas
        g = descent(self, c, p, g)
        u = xp.sign(ema(m, g, beta1, c.w1))
        return moved(self, c, p, c.lr * u), ema(m, g, beta2, c.w2)
