"""Schedule-free AdamW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import choose, sqrt
from ._steps import descent


@dataclass(frozen=True)
class ScheduleFree:
    r"""AdamW without a schedule: the average of its iterates takes the place of one [1]_.

    The parameters are the points y at which gradients are taken. The points x to use in the end,
    and to evaluate meanwhile, lie behind them: with ``z = opt.moment("z")``,

        x = (y - (1 - beta1) * z) / beta1

    Parameters
    ----------
    lr : float or callable
        The learning rate, larger than AdamW's. Where it changes, other than by `warmup`, all
        iterates still have the same weight in the average.
    betas : tuple of two floats
        The share of the average in y, which must not be 0, and the decay rate of the second moment.
    eps : float
        Added outside the root, after the bias correction.
    warmup : float
        The steps in which the learning rate grows linearly to `lr`.
    weight_decay : float
        Decoupled: ``lr * weight_decay * y`` is part of the step.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    z and x start as y. With a learning rate :math:`\eta_t` that is :math:`\eta \min(1, t/T)` in a
    warm-up of T steps, and :math:`c = \eta_t^2 / \sum_{i \le t} \eta_i^2`, which is 1/t without,

    .. math::

        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        z &\leftarrow z - \eta_t \left(
            \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda y \right) \\
        x &\leftarrow (1 - c) x + c z \\
        y &\leftarrow (1 - \beta_1) z + \beta_1 x

    The authors' code and optax remember the sum, so that there a schedule for the learning rate has
    its weights. In half precision x, which moves by 1/t of the way to z, comes to rest too early.

    References
    ----------
    .. [1] A. Defazio et al., "The road less scheduled", NeurIPS 2024, arXiv:2405.15682,
       Algorithm 1.
    """

    lr: Number = number(2.5e-3)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-8)
    warmup: Number = number(0.0)
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = True
    moments: ClassVar[tuple[str, ...]] = ("z", "v")
    rates: ClassVar[tuple[str, ...]] = ("alpha", "lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The learning rate of this step, and the weight of its iterate in the average."""
        lr: Any = self.lr
        beta1: Any
        beta1, beta2 = self.betas
        steps: Any = self.warmup
        steps = choose(steps > 1, steps, 1.0)
        rise = choose(t < steps, t / steps, 1.0)
        n = rise * steps
        # The sum of the squares of 1 to n, and of n as often as the warm-up is over.
        weight = n * n / (n * (n + 1.0) * (2.0 * n + 1.0) / 6.0 + n * n * (t - n))
        return {
            "lr": lr,
            "alpha": lr * rise,
            "weight": weight,
            "share": 1.0 - beta1 * (1.0 - weight),
            "s": 1.0 / sqrt(one_minus_power(beta2, t)),
            "w2": ema_weight(beta2),
            "first": choose(t == 1, 1.0, 0.0),
            "eps": self.eps,
            "decay": lr * rise * self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, z: Any, v: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers: y and z, from which x follows."""
        g = descent(self, c, p, g)
        z = z + c.first * (p - z)
        v = ema(v, g * g, self.betas[1], c.w2)
        step = c.alpha * (g / (xp.sqrt(v) * c.s + c.eps))
        if self.weight_decay:
            step = step + c.decay * p
        return (p + c.weight * (z - p)) - c.share * step, z - step, v
