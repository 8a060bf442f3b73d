"""Adadelta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._averages import ema, ema_weight
from ._steps import descent, moved


@dataclass(frozen=True)
class Adadelta:
    r"""The gradient in the units of the parameter [1]_: no learning rate need be chosen.

    Parameters
    ----------
    lr : float or callable
        A factor of the step; the paper has none.
    rho : float
        The decay rate of both averages, in [0, 1).
    eps : float
        Added inside both roots. It sets the size of the first steps.
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        u &= \sqrt{d + \epsilon} \, / \sqrt{v + \epsilon} \; g \\
        d &\leftarrow \rho d + (1 - \rho) u^2 \\
        p &\leftarrow p - \eta \, u

    The numbers are torch's; the paper's experiments have a rho of 0.95. optax and Keras have the
    same formula. Keras multiplies by a learning rate of 0.001 unless told otherwise.

    References
    ----------
    .. [1] M. D. Zeiler, "ADADELTA: An adaptive learning rate method", 2012, arXiv:1212.5701,
       Algorithm 1.
    """

    lr: Number = number(1.0)
    rho: Number = number(0.9, below=1.0)
    eps: Number = number(1e-6)
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = False
    moments: ClassVar[tuple[str, ...]] = ("v", "d")
    rates: ClassVar[tuple[str, ...]] = ("lr",)

    def coefficients(self, t: int) -> dict[str, Any]:
        """The weight of both averages, and the numbers as they are."""
        return {
            "lr": self.lr,
            "w": ema_weight(self.rho),
            "eps": self.eps,
            "wd": self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, v: Any, d: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        g = descent(self, c, p, g)
        v = ema(v, g * g, self.rho, c.w)
        u = xp.sqrt(d + c.eps) / xp.sqrt(v + c.eps) * g
        return moved(self, c, p, c.lr * u), v, ema(d, u * u, self.rho, c.w)
