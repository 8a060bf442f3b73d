"""LaProp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import sqrt
from ._steps import descent, moved


@dataclass(frozen=True)
class LaProp:
    r"""Adam that divides the gradient before it is averaged [1]_, not the average.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    betas : tuple of two floats
        Decay rates of the two moments, each in [0, 1); the first may exceed the second.
    eps : float
        Added outside the root, after the bias correction.
    weight_decay : float
        Decoupled: ``lr * weight_decay * p`` is part of the step.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \\
        p &\leftarrow p - \frac{\eta}{1 - \beta_1^t} \, m

    The authors' code and timm average steps, with the learning rate that each had; while that is
    constant, it makes no difference.

    References
    ----------
    .. [1] L. Ziyin, Z. T. Wang and M. Ueda, "LaProp: Separating momentum and adaptivity in Adam",
       2020, arXiv:2002.04839, Algorithm 1.
    """

    lr: Number = number(4e-4)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-15)
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = True
    moments: ClassVar[tuple[str, ...]] = ("m", "v")
    rates: ClassVar[tuple[str, ...]] = ("alpha", "lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """Adam's."""
        lr: Any = self.lr
        beta1, beta2 = self.betas
        return {
            "lr": lr,
            "alpha": lr / one_minus_power(beta1, t),
            "s": 1.0 / sqrt(one_minus_power(beta2, t)),
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "eps": self.eps,
            "decay": lr * self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        beta1, beta2 = self.betas
        g = descent(self, c, p, g)
        v = ema(v, g * g, beta2, c.w2)
        m = ema(m, g / (xp.sqrt(v) * c.s + c.eps), beta1, c.w1)
        return moved(self, c, p, c.alpha * m), m, v
