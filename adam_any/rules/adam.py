"""Adam, with AdamW, AdamC and AMSGrad as options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ..wrapper import Changed
from ._averages import ema, ema_weight, one_minus_power
from ._scalars import choose, sqrt
from ._steps import descent, moved


@dataclass(frozen=True)
class Adam:
    r"""Adam [1]_, AdamW [2]_, AMSGrad [3]_ and AdamC [4]_.

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
    eps_hat : bool
        Add epsilon to the uncorrected root, as scikit-learn, Keras and TensorFlow do: the paper's
        epsilon hat, in the more efficient order of section 2.
    lr_max : float
        The largest learning rate of the schedule. Decoupled decay is then AdamC's,
        ``lr**2 / lr_max * weight_decay``, which keeps the norm of weights that are normalised from
        growing as the rate falls; 0 leaves it as AdamW's.

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
       Algorithm 1 and section 2.
    .. [2] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    .. [3] S. J. Reddi, S. Kale and S. Kumar, "On the convergence of Adam and beyond", ICLR 2018.
    .. [4] A. Defazio, "Why gradients rapidly increase near the end of training", 2025,
       arXiv:2506.02285.
    """

    lr: Number = number(1e-3)
    betas: tuple[Number, Number] = number((0.9, 0.999), below=1.0)
    eps: Number = number(1e-8)
    weight_decay: Number = number(0.0)
    decoupled: bool = False
    amsgrad: bool = False
    maximize: bool = False
    eps_hat: bool = False
    lr_max: Number = number(0.0)

    #: The coefficients that are proportional to the learning rate.
    rates: ClassVar[tuple[str, ...]] = ("alpha", "lr", "decay")
    #: The fields that older checkpoints lack.
    newer: ClassVar[tuple[str, ...]] = ("eps_hat", "lr_max")

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments m and v; vmax with AMSGrad."""
        return ("m", "v", "vmax") if self.amsgrad else ("m", "v")

    def coefficients(self, t: int) -> dict[str, Any]:
        """The bias corrections, folded into a step size `alpha` and a scale `s` of sqrt(v)."""
        lr: Any = self.lr
        beta1, beta2 = self.betas
        s = 1.0 / sqrt(one_minus_power(beta2, t))
        largest: Any = self.lr_max
        known = largest > 0
        share = 1.0 if known is False else choose(known, lr / choose(known, largest, 1.0), 1.0)
        return {
            **({"plain_eps": self.eps} if self.eps_hat else {}),
            "lr": lr,
            "alpha": lr / one_minus_power(beta1, t),
            "s": s,
            "w1": ema_weight(beta1),
            "w2": ema_weight(beta2),
            "eps": self.eps * s if self.eps_hat else self.eps,
            "wd": self.weight_decay,
            "decay": share * lr * self.weight_decay,
        }

    def update(
        self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any, vmax: Any = None
    ) -> tuple[Any, ...]:
        """One step on arrays of real numbers, in the paper's letters."""
        beta1, beta2 = self.betas
        g = descent(self, c, p, g)
        m = ema(m, g, beta1, c.w1)
        v = ema(v, g * g, beta2, c.w2)
        if self.amsgrad:
            vmax = xp.maximum(vmax, v)
        u = m / self._root(xp, c, vmax if self.amsgrad else v)
        p = moved(self, c, p, c.alpha * u)
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
        s = 1.0 / xp.sqrt(ones2)
        eps = c.plain_eps * s if self.eps_hat else c.eps
        return Changed(c, alpha=c.lr / ones1, s=s, eps=eps)
