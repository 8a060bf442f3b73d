"""ADOPT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight
from ._scalars import choose
from ._steps import descent, moved


@dataclass(frozen=True)
class ADOPT:
    r"""Adam that divides by the root of the *last* second moment [1]_, for any second beta.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    betas : tuple of two floats
        Decay rates of the two moments, each in [0, 1).
    eps : float
        The least that a gradient is divided by.
    weight_decay : float
        Added to the gradient as ``weight_decay * p`` (L2), or decoupled from it.
    decoupled : bool
        Decay the parameter directly, after the first step.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    The first step sets :math:`v = g^2` and nothing else. Step :math:`t` is

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) \, \mathrm{clip}\left(
            \frac{g}{\max(\sqrt{v}, \epsilon)}, \pm (t - 1)^{1/4} \right) \\
        p &\leftarrow p - \eta \, m \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2

    optax has the same numbers.

    References
    ----------
    .. [1] S. Taniguchi et al., "ADOPT: Modified Adam can converge with any beta2 with the optimal
       rate", NeurIPS 2024, arXiv:2411.02853, Algorithm 2 and the clipping that it recommends.
    """

    lr: Number = number(1e-3)
    betas: tuple[Number, Number] = number((0.9, 0.9999), below=1.0)
    eps: Number = number(1e-6)
    weight_decay: Number = number(0.0)
    decoupled: bool = False
    maximize: bool = False

    moments: ClassVar[tuple[str, ...]] = ("m", "v")
    rates: ClassVar[tuple[str, ...]] = ("lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The first second moment has all the weight, and the limit of the first step is 0."""
        lr: Any = self.lr
        beta1, beta2 = self.betas
        limit = (t - 1) ** 0.25
        return {
            "lr": lr,
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2, first=t == 1),
            "low": -limit,
            "high": limit,
            "eps": self.eps,
            "wd": self.weight_decay,
            "decay": choose(t == 1, 0.0, lr * self.weight_decay),
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        beta1, beta2 = self.betas
        g = descent(self, c, p, g)
        u = g / xp.maximum(xp.sqrt(v), c.eps)
        m = ema(m, xp.minimum(xp.maximum(u, c.low), c.high), beta1, c.w1)
        return moved(self, c, p, c.lr * m), m, ema(v, g * g, beta2, c.w2)
