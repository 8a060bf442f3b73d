"""RAdam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import choose, log, sqrt
from ._steps import descent, moved

#: The variance of the second moment is finite, and known well enough, above this length.
_LEAST = 5.0


@dataclass(frozen=True)
class RAdam:
    r"""Adam whose first steps are shortened by the variance of its second moment [1]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    betas : tuple of two floats
        Decay rates of the two moments, each in [0, 1).
    eps : float
        Added to the uncorrected root, as torch does; the paper has none.
    weight_decay : float
        Added to the gradient as ``weight_decay * p`` (L2), or decoupled from it.
    decoupled : bool
        Decay the parameter directly.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    With the moments m and v of Adam, and the length of the average

    .. math::

        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \quad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t},

    the step is that of momentum while :math:`\rho_t \le 5`,

    .. math::

        p \leftarrow p - \eta \, \frac{m}{1 - \beta_1^t},

    and then Adam's, times

    .. math::

        r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\,\rho_\infty}
            {(\rho_\infty - 4)(\rho_\infty - 2)\,\rho_t}}.

    Both are Adam's program: in the first the root has the factor 0, and epsilon is 1. The paper has
    a threshold of 4; torch's and optax's is 5. optax adds epsilon after the correction. In the
    first steps :math:`\rho_t` is a small difference of large numbers, and taken from a series.

    References
    ----------
    .. [1] L. Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020,
       arXiv:1908.03265, Algorithm 2.
    """

    lr: Number = number(1e-3)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-8)
    weight_decay: Number = number(0.0)
    decoupled: bool = False
    maximize: bool = False

    moments: ClassVar[tuple[str, ...]] = ("m", "v")
    rates: ClassVar[tuple[str, ...]] = ("alpha", "lr", "decay")

    def coefficients(self, t: int) -> dict[str, Any]:
        """Adam's, with the rectification in `alpha`; those of momentum while it has no value."""
        lr: Any = self.lr
        beta1: Any
        beta2: Any
        beta1, beta2 = self.betas
        correction = one_minus_power(beta2, t)
        longest = 2.0 / (1.0 - beta2) - 1.0
        length = _length(beta2, t, longest - 2.0 * t * (1.0 - correction) / correction)
        rectified = length > _LEAST
        root = 1.0 / sqrt(correction)
        return {
            "lr": lr,
            "alpha": lr / one_minus_power(beta1, t) * _rectification(length, longest),
            "s": choose(rectified, root, 0.0),
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "eps": choose(rectified, self.eps * root, 1.0),
            "wd": self.weight_decay,
            "decay": lr * self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        beta1, beta2 = self.betas
        g = descent(self, c, p, g)
        m = ema(m, g, beta1, c.w1)
        v = ema(v, g * g, beta2, c.w2)
        return moved(self, c, p, c.alpha * (m / (xp.sqrt(v) * c.s + c.eps))), m, v


def _length(beta: Any, t: Any, late: Any) -> Any:
    """The length of the average: in the first steps by a series in t log(beta), then `late`."""
    rate = -log(beta)
    early = t * rate < 0.1
    x = choose(early, t * rate, 0.1)
    return choose(early, t - (_series(x) - _series(rate)) / rate, late)


def _series(x: Any) -> Any:
    """2 (1 - x / 2 - x / (exp(x) - 1)) with its sign turned: no digit of a small one is lost."""
    square = x * x
    return square * (1 / 6 - square * (1 / 360 - square * (1 / 15120 - square / 604800)))


def _rectification(length: Any, longest: Any) -> Any:
    """The factor r of a step; 1 where it has no value."""
    known = length > _LEAST
    # Both lengths are finite, and their roots real, also where the result is not used.
    length, longest = (choose(known, x, _LEAST) for x in (length, longest))
    ratio = (length - 4.0) * (length - 2.0) * longest
    return choose(known, sqrt(ratio / ((longest - 4.0) * (longest - 2.0) * length)), 1.0)
