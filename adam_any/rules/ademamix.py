"""AdEMAMix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import choose, expm1, log, sqrt
from ._steps import descent, moved


@dataclass(frozen=True)
class AdEMAMix:
    r"""Adam with a second, slow average of gradients [1]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    betas : tuple of three floats
        Decay rates of the fast average, of the squares and of the slow average, each in [0, 1).
    alpha : float
        The share of the slow average; a step may be 1 + alpha times as long as Adam's.
    warmup : float
        The steps in which `alpha` grows from 0, and the third beta from the first.
    eps : float
        Added outside the root, after the bias correction.
    weight_decay : float
        Decoupled: ``lr * weight_decay * p`` is part of the step.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        m_1 &\leftarrow \beta_1 m_1 + (1 - \beta_1) g \\
        m_2 &\leftarrow \beta_3 m_2 + (1 - \beta_3) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \left( \frac{m_1 / (1 - \beta_1^t) + \alpha m_2}
            {\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda p \right)

    In the warm-up of T steps, alpha grows linearly and the half-life of the slow average, too:
    :math:`1 / \log \beta_3(t) = (1 - t/T) / \log \beta_1 + (t/T) / \log \beta_3`. The paper takes
    all steps of a training for it. optax has the same numbers, and leaves the warm-up to callables.

    References
    ----------
    .. [1] M. Pagliardini, P. Ablin and D. Grangier, "The AdEMAMix optimizer: Better, faster,
       older", 2024, arXiv:2409.03137, Algorithm 1.
    """

    lr: Number = number(1e-3)
    betas: tuple[Number, Number, Number] = number((0.9, 0.999, 0.9999), below=1.0)
    alpha: Number = number(5.0)
    warmup: Number = number(0.0)
    eps: Number = number(1e-8)
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = True
    moments: ClassVar[tuple[str, ...]] = ("m1", "m2", "v")
    rates: ClassVar[tuple[str, ...]] = ("fast", "slow", "lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The step sizes of both averages, and the warm-up of the slow one."""
        lr: Any = self.lr
        steps: Any = self.warmup
        beta3: Any
        beta1, beta2, beta3 = self.betas
        warming = t < steps
        part = choose(warming, t / choose(warming, steps, 1.0), 1.0)
        w3 = choose(warming, _between(beta1, beta3, part), 1.0 - beta3)
        return {
            "lr": lr,
            "fast": lr / one_minus_power(beta1, t),
            "slow": lr * part * self.alpha,
            "s": 1.0 / sqrt(one_minus_power(beta2, t)),
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "w3": w3,
            "eps": self.eps,
            "decay": lr * self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m1: Any, m2: Any, v: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        beta1, beta2, _ = self.betas
        g = descent(self, c, p, g)
        m1 = ema(m1, g, beta1, c.w1)
        m2 = m2 + c.w3 * (g - m2)
        v = ema(v, g * g, beta2, c.w2)
        u = (c.fast * m1 + c.slow * m2) / (xp.sqrt(v) * c.s + c.eps)
        return moved(self, c, p, u), m1, m2, v


def _between(first: Any, last: Any, part: Any) -> Any:
    """The weight of a new gradient where the half-life is between those of two betas."""
    return -expm1(1.0 / ((1.0 - part) / log(first) + part / log(last)))
