"""Adamax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._steps import descent, moved


@dataclass(frozen=True)
class Adamax:
    r"""Adam with the largest recent gradient in place of the root mean square [1]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate: no step is much longer.
    betas : tuple of two floats
        Decay rates of the first moment and of the maximum, each in [0, 1).
    eps : float
        Added to the magnitude of the gradient.
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        u &\leftarrow \max(\beta_2 u, |g| + \epsilon) \\
        p &\leftarrow p - \frac{\eta}{1 - \beta_1^t} \, \frac{m}{u}

    The paper has no epsilon: 0/0 is NaN until the first gradient that is not 0. It is torch's and
    optax's; Keras adds its own to u outside of the maximum.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: A method for stochastic optimization", ICLR 2015,
       Algorithm 2.
    """

    lr: Number = number(2e-3)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-8)
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = False
    moments: ClassVar[tuple[str, ...]] = ("m", "u")
    rates: ClassVar[tuple[str, ...]] = ("alpha", "lr")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The bias correction, folded into a step size `alpha`."""
        lr: Any = self.lr
        beta1, beta2 = self.betas
        return {
            "lr": lr,
            "alpha": lr / one_minus_power(beta1, t),
            "w1": ema_weight(beta1),
            "beta2": beta2,
            "eps": self.eps,
            "wd": self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any, u: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        g = descent(self, c, p, g)
        m = ema(m, g, self.betas[0], c.w1)
        u = xp.maximum(c.beta2 * u, abs(g) + c.eps)
        return moved(self, c, p, c.alpha * (m / u)), m, u
