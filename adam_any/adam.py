"""Adam and AdamW: the two signatures over `Optimizer` and the rule `rules.Adam`."""

from __future__ import annotations

from typing import Any

from . import rules
from .nonfinite import policy
from .optimizer import Optimizer
from .rules import Schedule


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, Algorithm 1) on arrays of any library.

        m <- beta1 m + (1 - beta1) g            v <- beta2 v + (1 - beta2) g^2
        p <- p - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)

    params : an array, a Python float, or a nested dict, list, tuple or namedtuple of them.
    lr : the learning rate, or a callable of the number of updates that a leaf has already had.
    betas : decay rates of the two moments, each in [0, 1).
    eps : added outside the root, after the bias correction, as in the paper and in torch.
        Where it is 0 and a gradient has been 0 from the start, 0/0 is NaN.
    weight_decay : L2, added to the gradient as weight_decay * p.
    amsgrad : divide by the largest v so far (uncorrected), as torch has it.
    maximize : climb instead of descending.
    nonfinite : what to do about a gradient that has an infinity, a NaN, or a number whose square
        overflows the dtype that its leaf is computed in. "propagate" it into p, as others do;
        "raise" ValueError, naming the first such leaf, with nothing changed; or "skip" the whole
        step: parameters, moments and step counts stay, and `skipped` counts it. The latter two read
        each gradient once more, and wait once for each device.
    engine : None chooses the fastest for each leaf; "eager" forces the reference.

    Real and imaginary part of a complex array are updated as two real arrays. Half precision is
    computed in float32, with float32 moments. What is written, and the errors: see `Optimizer`.
    `nonfinite` and `skipped` belong to the optimizer and its copies, not to a saved state.

    >>> opt = Adam(params, lr=1e-2)
    >>> for _ in range(1000):
    ...     params = opt.step(gradient(params))
    """

    _decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        nonfinite: str = "propagate",
        engine: str | None = None,
    ) -> None:
        rule = rules.Adam(lr, betas, eps, weight_decay, self._decoupled, amsgrad, maximize)
        self._nonfinite = policy(nonfinite)
        super().__init__(params, rule, engine=engine)

    @property
    def skipped(self) -> int:
        """The number of steps left out because of `nonfinite="skip"`."""
        return self._skipped


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): p <- p - lr * weight_decay * p.

    The decay is added to the step, not to the gradient, and is 0.01 unless given. All else is
    `Adam`'s.
    """

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        nonfinite: str = "propagate",
        engine: str | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            nonfinite=nonfinite,
            engine=engine,
        )
