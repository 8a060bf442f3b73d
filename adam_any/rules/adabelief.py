"""AdaBelief."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import sqrt
from ._steps import descent, moved


@dataclass(frozen=True)
class AdaBelief:
    r"""Adam that divides by the deviation of the gradient from its average [1]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    betas : tuple of two floats
        Decay rates of the two moments, each in [0, 1).
    eps : float
        Added to the second moment in every step, and outside the root.
    weight_decay : float
        Added to the gradient as ``weight_decay * p`` (L2), or decoupled from it.
    decoupled : bool
        Decay the parameter directly.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        s &\leftarrow \beta_2 s + (1 - \beta_2) (g - m)^2 + \epsilon \\
        p &\leftarrow p - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}

    optax has the same numbers, and the two epsilons apart.

    References
    ----------
    .. [1] J. Zhuang et al., "AdaBelief optimizer: Adapting stepsizes by the belief in observed
       gradients", NeurIPS 2020, arXiv:2010.07468, Algorithm 2.
    """

    lr: Number = number(1e-3)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-16)
    weight_decay: Number = number(0.0)
    decoupled: bool = False
    maximize: bool = False

    moments: ClassVar[tuple[str, ...]] = ("m", "s")
    rates: ClassVar[tuple[str, ...]] = ("alpha", "lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """Adam's; `scale` is that of the root."""
        lr: Any = self.lr
        beta1, beta2 = self.betas
        return {
            "lr": lr,
            "alpha": lr / one_minus_power(beta1, t),
            "scale": 1.0 / sqrt(one_minus_power(beta2, t)),
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "eps": self.eps,
            "wd": self.weight_decay,
            "decay": lr * self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any, s: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        beta1, beta2 = self.betas
        g = descent(self, c, p, g)
        m = ema(m, g, beta1, c.w1)
        surprise = g - m
        s = ema(s, surprise * surprise, beta2, c.w2) + c.eps
        return moved(self, c, p, c.alpha * (m / (xp.sqrt(s) * c.scale + c.eps))), m, s
