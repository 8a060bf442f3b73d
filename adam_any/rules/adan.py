"""Adan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import choose, sqrt
from ._steps import descent, moved


@dataclass(frozen=True)
class Adan:
    r"""Nesterov's momentum by differences of gradients [1]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    betas : tuple of three floats
        Decay rates of the averages of gradients, of their differences, and of squares, each in
        [0, 1). The paper writes 1 less these.
    eps : float
        Added outside the root, after the bias correction.
    weight_decay : float
        Decoupled: ``lr * weight_decay * p`` is part of the step.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    With the difference :math:`d` of the gradient from the last one, which is 0 at the first step,
    and hats for the bias corrections of the authors' code,

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) d \\
        n &\leftarrow \beta_3 n + (1 - \beta_3) (g + \beta_2 d)^2 \\
        p &\leftarrow p - \eta \left(
            \frac{\hat m + \beta_2 \hat v}{\sqrt{\hat n} + \epsilon} + \lambda p \right)

    The paper starts at :math:`m = g`, :math:`n = g^2` in place of the corrections, and divides by
    :math:`1 + \eta\lambda` for the decay. optax has :math:`1 - \beta_2` where the factor
    :math:`\beta_2` stands, 0.08 for 0.92: the paper's letter, of which it has the complement.

    References
    ----------
    .. [1] X. Xie et al., "Adan: Adaptive Nesterov momentum algorithm for faster optimizing deep
       models", 2022, arXiv:2208.06677, Algorithm 1.
    """

    lr: Number = number(1e-3)
    betas: tuple[Number, Number, Number] = number((0.98, 0.92, 0.99), below=1.0)
    eps: Number = number(1e-8)
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = True
    moments: ClassVar[tuple[str, ...]] = ("m", "v", "n", "last")
    rates: ClassVar[tuple[str, ...]] = ("alpha", "ahead", "lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The step sizes of both averages, corrected; the weight of the first difference is 0."""
        lr: Any = self.lr
        beta1, beta2, beta3 = self.betas
        return {
            "lr": lr,
            "alpha": lr / one_minus_power(beta1, t),
            "ahead": lr * beta2 / one_minus_power(beta2, t),
            "s": 1.0 / sqrt(one_minus_power(beta3, t)),
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "w3": ema_weight(beta3),
            "beta2": beta2,
            "later": choose(t == 1, 0.0, 1.0),
            "eps": self.eps,
            "decay": lr * self.weight_decay,
        }

    def update(
        self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any, n: Any, last: Any
    ) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        beta1, beta2, beta3 = self.betas
        g = descent(self, c, p, g)
        d = c.later * (g - last)
        m = ema(m, g, beta1, c.w1)
        v = ema(v, d, beta2, c.w2)
        ahead = g + c.beta2 * d
        n = ema(n, ahead * ahead, beta3, c.w3)
        u = (c.alpha * m + c.ahead * v) / (xp.sqrt(n) * c.s + c.eps)
        return moved(self, c, p, u), m, v, n, g
