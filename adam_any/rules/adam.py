"""Adam, with AdamW and AMSGrad as options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ..wrapper import Changed
from ._averages import ema, ema_weight, one_minus_power, sqrt


@dataclass(frozen=True)
class Adam:
    r"""Adam [1]_, AdamW [2]_ and AMSGrad [3]_.

    Parameters
    ----------
    lr : float or callable
        The learning rate. This and every other number may be a schedule: a callable of the number
        of updates that a leaf has already had.
    betas : tuple of two floats
        Decay rates of the two moments, each in [0, 1).
    eps : float
        Added outside the root, after the bias correction. Where it is 0 and a gradient has been 0
        from the start, 0/0 is NaN.
    weight_decay : float
        Added to the gradient as ``weight_decay * p`` (L2), or decoupled from it.
    decoupled : bool
        Decay the parameter directly, as AdamW does.
    amsgrad : bool
        Divide by the largest uncorrected second moment so far, as torch does.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    With the gradient :math:`g` of step :math:`t`,

    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    A gradient whose square overflows the compute dtype makes v infinite, and p NaN one step later.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: A method for stochastic optimization", ICLR 2015,
       Algorithm 1.
    .. [2] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    .. [3] S. J. Reddi, S. Kale and S. Kumar, "On the convergence of Adam and beyond", ICLR 2018.
    """

    lr: Number = number(1e-3)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-8)
    weight_decay: Number = number(0.0)
    decoupled: bool = False
    amsgrad: bool = False
    maximize: bool = False

    #: The coefficients that are proportional to the learning rate.
    rates: ClassVar[tuple[str, ...]] = ("lr", "alpha", "decay")

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments m and v; vmax with AMSGrad."""
        return ("m", "v", "vmax") if self.amsgrad else ("m", "v")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The bias corrections, folded into a step size `alpha` and a scale `s` of sqrt(v)."""
        lr: Any = self.lr
        beta1, beta2 = self.betas
        return {
            "lr": lr,
            "alpha": lr / one_minus_power(beta1, t),
            "s": 1.0 / sqrt(one_minus_power(beta2, t)),
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "eps": self.eps,
            "wd": self.weight_decay,
            "decay": lr * self.weight_decay,
        }

    def update(
        self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any, vmax: Any = None
    ) -> tuple[Any, ...]:
        """One step on arrays of real numbers, in the paper's letters."""
        beta1, beta2 = self.betas
        if self.maximize:
            g = -g
        if self.weight_decay and not self.decoupled:
            g = g + c.wd * p
        m = ema(m, g, beta1, c.w1)
        v = ema(v, g * g, beta2, c.w2)
        if self.amsgrad:
            vmax = xp.maximum(vmax, v)
        u = m / self._root(xp, c, vmax if self.amsgrad else v)
        if self.weight_decay and self.decoupled:
            p = p - (c.alpha * u + c.decay * p)
        else:
            p = p - c.alpha * u
        return (p, m, v, vmax) if self.amsgrad else (p, m, v)

    def _root(self, xp: Any, c: Any, v: Any) -> Any:
        return xp.sqrt(v) * c.s + c.eps

    def step_size(self, xp: Any, c: Any, *moments: Any) -> Any:
        """By what the corrected first moment is multiplied, element by element."""
        return c.lr / self._root(xp, c, moments[-1])

    @property
    def decays(self) -> tuple[Any, ...]:
        """The decay rates whose powers are in the bias corrections."""
        return self.betas

    def corrected(self, xp: Any, c: Any, ones1: Any, ones2: Any) -> Any:
        """The coefficients with these in place of ``1 - beta**t``."""
        return Changed(c, alpha=c.lr / ones1, s=1.0 / xp.sqrt(ones2))
