"""NAdam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import choose, expm1, sqrt
from ._steps import descent, moved

#: Terms of a power series at 1/2: what is left is less than half a unit in the last place.
_TERMS = 52
#: In place of a momentum that does not grow, for which the geometric series has no sum.
_SLOWEST = 1e-30


@dataclass(frozen=True)
class NAdam:
    r"""Adam with Nesterov's momentum [1]_, of which there is more from step to step.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    betas : tuple of two floats
        Decay rates of the two moments, each in [0, 1).
    eps : float
        Added outside the root, after the bias correction.
    momentum_decay : float
        How fast the momentum grows from half of the first beta to all of it.
    weight_decay : float
        Added to the gradient as ``weight_decay * p`` (L2), or decoupled from it.
    decoupled : bool
        Decay the parameter directly.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    With the momentum :math:`\mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)` of step :math:`t`, and the
    moments m and v of Adam,

    .. math::

        p \leftarrow p - \eta \, \frac{\dfrac{1 - \mu_t}{1 - \prod_{i \le t} \mu_i} \, g
            + \dfrac{\mu_{t+1}}{1 - \prod_{i \le t + 1} \mu_i} \, m}
            {\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    This is torch's, which keeps the product in float32; in Keras :math:`\psi` is 1. optax has a
    constant momentum, :math:`\mu_t = \beta_1`. The product is computed from t alone, so where a
    schedule gives the beta it counts as if it had always had its present value, as in Adam's bias
    correction.

    References
    ----------
    .. [1] T. Dozat, "Incorporating Nesterov momentum into Adam", 2016, Algorithm 2 with the warming
       momentum of its section on schedules.
    """

    lr: Number = number(2e-3)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-8)
    momentum_decay: Number = number(4e-3)
    weight_decay: Number = number(0.0)
    decoupled: bool = False
    maximize: bool = False

    moments: ClassVar[tuple[str, ...]] = ("m", "v")
    rates: ClassVar[tuple[str, ...]] = ("alpha", "ahead", "lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The step sizes of the gradient and of the momentum ahead, both corrected."""
        lr: Any = self.lr
        psi: Any = self.momentum_decay
        beta1, beta2 = self.betas
        mu, ahead = (beta1 * (1.0 - 0.5 * 0.96 ** (i * psi)) for i in (t, t + 1))
        product = _product(beta1, psi, t)
        return {
            "lr": lr,
            "alpha": lr * (1.0 - mu) / (1.0 - product),
            "ahead": lr * ahead / (1.0 - product * ahead),
            "s": 1.0 / sqrt(one_minus_power(beta2, t)),
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "eps": self.eps,
            "wd": self.weight_decay,
            "decay": lr * self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        beta1, beta2 = self.betas
        g = descent(self, c, p, g)
        m = ema(m, g, beta1, c.w1)
        v = ema(v, g * g, beta2, c.w2)
        u = (c.alpha * g + c.ahead * m) / (xp.sqrt(v) * c.s + c.eps)
        return moved(self, c, p, u), m, v


def _product(beta: Any, psi: Any, t: Any) -> Any:
    """The product of the momenta of steps 1 to t, without a loop over them.

    It is beta**t times the product of 1 - q**i / 2 with q = 0.96**psi. The logarithm of that is a
    series over k: of the geometric series of q**k, divided by k 2**k.
    """
    power = beta**t
    if isinstance(power, float) and power < 1e-17:
        return 0.0  # 1 less the product is 1
    rate = choose(psi > _SLOWEST, psi, _SLOWEST) * math.log(0.96)
    logarithm = 0.0
    for k in range(1, _TERMS + 1):
        less = expm1(k * rate)
        logarithm = logarithm + 0.5**k / k * (1.0 + less) * (expm1(k * rate * t) / less)
    return power * (1.0 + expm1(-logarithm))
