"""Yogi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import choose, sqrt
from ._steps import descent, moved


@dataclass(frozen=True)
class Yogi:
    r"""Adam whose second moment moves by steps that do not grow with it [1]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    betas : tuple of two floats
        Decay rates of the two moments, each in [0, 1).
    eps : float
        Added outside the root.
    initial : float
        The second moment before the first step.
    corrected : bool
        Correct the bias of both moments, as Adam does.
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow v - (1 - \beta_2) \, \mathrm{sign}(v - g^2) \, g^2 \\
        p &\leftarrow p - \eta \, \frac{m}{\sqrt{v} + \epsilon}

    The paper's algorithm corrects no bias. optax does, and starts m, too, at 1e-6.

    References
    ----------
    .. [1] M. Zaheer et al., "Adaptive methods for nonconvex optimization", NeurIPS 2018,
       Algorithm 2.
    """

    lr: Number = number(1e-2)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-3)
    initial: Number = number(1e-6)
    corrected: bool = False
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = False
    moments: ClassVar[tuple[str, ...]] = ("m", "v")
    rates: ClassVar[tuple[str, ...]] = ("alpha", "lr")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The weights of both moments, and Adam's corrections where asked for."""
        lr: Any = self.lr
        beta1: Any
        beta2: Any
        beta1, beta2 = self.betas
        return {
            "lr": lr,
            "alpha": lr / one_minus_power(beta1, t) if self.corrected else lr,
            "s": 1.0 / sqrt(one_minus_power(beta2, t)) if self.corrected else 1.0,
            "w1": ema_weight(beta1),
            "w2": 1.0 - beta2,
            "initial": choose(t == 1, self.initial, 0.0),
            "eps": self.eps,
            "wd": self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        g = descent(self, c, p, g)
        m = ema(m, g, self.betas[0], c.w1)
        v = v + c.initial
        square = g * g
        v = v - c.w2 * (xp.sign(v - square) * square)
        root = xp.sqrt(v) * c.s if self.corrected else xp.sqrt(v)
        return moved(self, c, p, c.alpha * (m / (root + c.eps))), m, v
