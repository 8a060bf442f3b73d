"""Adam and AdamW: two signatures over `Optimizer` and the rule `rules.Adam`."""

from __future__ import annotations

from typing import Any

from . import rules
from .optimizer import Optimizer
from .rule import Number


class Adam(Optimizer):
    r"""Adam [1]_ on arrays of any library.

    Parameters
    ----------
    params : array, float, or nested dict, list, tuple or namedtuple of them
        The parameters. Arrays that can be written are updated in place.
    lr : float or callable
        The learning rate. This and every other number may be a schedule: a callable of the number
        of updates that a leaf has already had.
    betas : tuple of two floats
        Decay rates of the two moments, each in [0, 1).
    eps : float
        Added outside the root, after the bias correction, as in the paper and in torch. Where it
        is 0 and a gradient has been 0 from the start, 0/0 is NaN.
    weight_decay : float
        L2, added to the gradient as ``weight_decay * p``.
    amsgrad : bool
        Divide by the largest v so far (uncorrected), as torch does.
    maximize : bool
        Climb instead of descending.
    nonfinite : {"propagate", "raise", "skip"}
        How to treat a gradient that is not finite, or whose square is not; see `Optimizer`.
    engine : None or "eager"
        None chooses the fastest engine for each leaf; "eager" forces the reference.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`, also for in-place semantics and for complex gradients.

    Notes
    -----
    .. math::

        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The gradient of a complex parameter points uphill, dL/dRe + i dL/dIm, as torch gives it;
    conjugate what `jax.grad` and HIPS autograd give, or use `interop.value_and_grad`.

    `nonfinite` and `skipped` belong to the optimizer and its copies, not to a saved state.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: A method for stochastic optimization", ICLR 2015,
       Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from adam_any import Adam
    >>> x, target = np.zeros(2), np.array([2.0, 3.0])
    >>> opt = Adam(x, lr=0.1)
    >>> for _ in range(500):
    ...     x = opt.step(2 * (x - target))
    >>> print(x.round(3))
    [2. 3.]
    """

    __slots__ = ()
    _decoupled = False

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        nonfinite: str = "propagate",
        engine: str | None = None,
    ) -> None:
        rule = rules.Adam(lr, betas, eps, weight_decay, self._decoupled, amsgrad, maximize)
        super().__init__(params, rule, nonfinite=nonfinite, engine=engine)


class AdamW(Adam):
    """Adam with decoupled weight decay [1]_.

    ``lr * weight_decay * p`` is added to the step, not to the gradient, and `weight_decay` is 0.01
    unless given. All else is as in `Adam`.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    __slots__ = ()
    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0.01,
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
