"""RMSprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight
from ._steps import descent, moved


@dataclass(frozen=True)
class RMSprop:
    r"""The gradient divided by its root mean square [1]_, or standard deviation [2]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    rho : float
        The decay rate of the averages, in [0, 1).
    eps : float
        Added outside the root.
    momentum : float
        The share of the last step that is kept.
    centered : bool
        Divide by the standard deviation.
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        v &\leftarrow \rho v + (1 - \rho) g^2, \quad m \leftarrow \rho m + (1 - \rho) g \\
        b &\leftarrow \mu b + g / (\sqrt{v - m^2} + \epsilon) \\
        p &\leftarrow p - \eta \, b

    where m is 0 unless centred. Where rounding makes :math:`v - m^2` negative it counts as 0, and
    in torch gives NaN. Keras and TensorFlow add epsilon inside the root, and so does optax unless
    told otherwise.

    References
    ----------
    .. [1] T. Tieleman and G. Hinton, "Lecture 6.5: RMSProp", Neural networks for machine learning,
       Coursera, 2012.
    .. [2] A. Graves, "Generating sequences with recurrent neural networks", 2013, arXiv:1308.0850,
       equations 38 to 41.
    """

    lr: Number = number(1e-2)
    rho: Number = number(0.99, below=1.0)
    eps: Number = number(1e-8)
    momentum: Number = number(0.0)
    centered: bool = False
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = ("lr",)

    @property
    def moments(self) -> tuple[str, ...]:
        """The mean square v; the mean m if centred; the step b with momentum."""
        return ("v", *("m",) * self.centered, *("b",) * bool(self.momentum))

    def coefficients(self, t: int) -> dict[str, Any]:
        """The weight of the averages, and the numbers as they are."""
        return {
            "lr": self.lr,
            "w": ema_weight(self.rho),
            "eps": self.eps,
            "mu": self.momentum,
            "wd": self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, v: Any, *others: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        g = descent(self, c, p, g)
        v = square = ema(v, g * g, self.rho, c.w)
        after = [v]
        if self.centered:
            m = ema(others[0], g, self.rho, c.w)
            square = xp.maximum(v - m * m, 0.0)
            after.append(m)
        u = g / (xp.sqrt(square) + c.eps)
        if self.momentum:
            u = c.mu * others[-1] + u
            after.append(u)
        return moved(self, c, p, c.lr * u), *after
