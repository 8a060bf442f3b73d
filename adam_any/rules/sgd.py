"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._scalars import choose
from ._steps import descent, moved


@dataclass(frozen=True)
class SGD:
    r"""Gradient descent, with Polyak's [1]_ or Nesterov's momentum [2]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate.
    momentum : float
        The share of the last step that is kept; 0 needs no memory.
    dampening : float
        What is taken off the weight of the gradient in the momentum, after the first step.
    nesterov : bool
        Look ahead along the momentum.
    weight_decay : float
        Added to the gradient as ``weight_decay * p``.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    With momentum :math:`\mu` and dampening :math:`\tau`, which is 0 at the first step,

    .. math::

        m &\leftarrow \mu m + (1 - \tau) g \\
        p &\leftarrow p - \eta \, m \quad\text{or, with Nesterov,}\quad p - \eta \, (g + \mu m)

    This is torch's form, in which the learning rate stands outside of the momentum. optax has it
    too, without dampening. In Sutskever's and TensorFlow's the momentum holds steps, with the rate
    that each had.

    References
    ----------
    .. [1] B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    .. [2] I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and
       momentum in deep learning", ICML 2013.
    """

    lr: Number = number(1e-3)
    momentum: Number = number(0.0)
    dampening: Number = number(0.0)
    nesterov: bool = False
    weight_decay: Number = number(0.0)
    maximize: bool = False

    decoupled: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = ("lr",)

    @property
    def moments(self) -> tuple[str, ...]:
        """The momentum m, if there is any."""
        return ("m",) if self.momentum else ()

    def coefficients(self, t: int) -> dict[str, Any]:
        """The first gradient is not dampened: it is the momentum."""
        dampening: Any = self.dampening
        return {
            "lr": self.lr,
            "mu": self.momentum,
            "weight": choose(t == 1, 1.0, 1.0 - dampening),
            "wd": self.weight_decay,
        }

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any = None) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        g = descent(self, c, p, g)
        if not self.momentum:
            return (moved(self, c, p, c.lr * g),)
        m = c.mu * m + (c.weight * g if self.dampening else g)
        return moved(self, c, p, c.lr * (g + c.mu * m if self.nesterov else m)), m
