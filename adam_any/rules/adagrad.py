"""Adagrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._scalars import choose
from ._steps import descent, moved


@dataclass(frozen=True)
class Adagrad:
    r"""The gradient divided by the root of the sum of all its squares [1]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    lr_decay : float
        Divide the learning rate by ``1 + lr_decay * (t - 1)``.
    initial : float
        The sum of squares before the first step.
    eps : float
        Added outside the root.
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    .. math::

        v \leftarrow v + g^2, \quad p \leftarrow p - \eta \, \frac{g}{\sqrt{v} + \epsilon}

    The numbers are torch's. optax starts the sum at 0.1, adds epsilon inside the root, and makes no
    step where the sum is 0; Keras does the first two.

    References
    ----------
    .. [1] J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods for online learning and
       stochastic optimization", JMLR 2011, Figure 1 (diagonal).
    """

    lr: Number = number(1e-2)
    lr_decay: Number = number(0.0)
    initial: Number = number(0.0)
    eps: Number = number(1e-10)
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = False
    moments: ClassVar[tuple[str, ...]] = ("v",)
    rates: ClassVar[tuple[str, ...]] = ("alpha", "lr")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The learning rate of this step."""
        lr: Any = self.lr
        slowing: Any = self.lr_decay
        return {
            "lr": lr,
            "alpha": lr / (1.0 + (t - 1) * slowing),
            "initial": choose(t == 1, self.initial, 0.0),
            "eps": self.eps,
            "wd": self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, v: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        g = descent(self, c, p, g)
        if self.initial:
            v = v + c.initial
        v = v + g * g
        return moved(self, c, p, c.alpha * (g / (xp.sqrt(v) + c.eps))), v
