"""Rprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, number
from ._scalars import choose


@dataclass(frozen=True)
class Rprop:
    r"""Steps that grow while the sign of the gradient stays, and shrink where it turns [1]_.

    For gradients of the whole problem: noise in them turns signs.

    Parameters
    ----------
    lr : float or callable
        The length of the first step.
    etas : tuple of two floats
        The factors of a step that shrinks and of one that grows.
    limits : tuple of two floats
        The shortest and the longest step.
    maximize : bool
        Climb instead of descending.

    Notes
    -----
    With the gradient :math:`h` of the step before,

    .. math::

        \Delta &\leftarrow \mathrm{clip}(\Delta \cdot \{\eta^+ \text{ if } gh > 0,\;
            \eta^- \text{ if } gh < 0,\; 1 \text{ if } gh = 0\},\; \Delta_{\min}, \Delta_{\max}) \\
        h &\leftarrow 0 \text{ if } gh < 0 \text{ else } g \\
        p &\leftarrow p - \Delta \, \mathrm{sign}(h)

    This is iRprop-, without the first paper's return to the parameter before [2]_, as in torch,
    which loses the sign of a product gh that is too small for its dtype; here signs are multiplied.
    optax makes each step one call later, so none in the first.

    References
    ----------
    .. [1] M. Riedmiller and H. Braun, "A direct adaptive method for faster backpropagation
       learning: the RPROP algorithm", ICNN 1993.
    .. [2] C. Igel and M. Huesken, "Improving the Rprop learning algorithm", NC 2000.
    """

    lr: Number = number(1e-2)
    etas: tuple[Number, Number] = number((0.5, 1.2))
    limits: tuple[Number, Number] = number((1e-6, 50.0))
    maximize: bool = False

    moments: ClassVar[tuple[str, ...]] = ("size", "sign")
    rates: ClassVar[tuple[str, ...]] = ("lr",)

    def coefficients(self, t: int) -> dict[str, Any]:
        """The learning rate counts once: it is added to the length 0 before the first step."""
        shrink, grow = self.etas
        least, most = self.limits
        lr = choose(t == 1, self.lr, 0.0)
        return {"lr": lr, "shrink": shrink, "grow": grow, "least": least, "most": most}

    def update(self, xp: Any, c: Any, p: Any, g: Any, size: Any, sign: Any) -> tuple[Any, ...]:
        """One step on arrays of real numbers."""
        now = xp.sign(-g if self.maximize else g)
        agreement = now * sign
        size = size + c.lr
        size = xp.where(agreement < 0, c.shrink * size, size)
        size = xp.where(agreement > 0, c.grow * size, size)
        size = xp.minimum(xp.maximum(size, c.least), c.most)
        sign = xp.where(agreement < 0, 0.0, now)
        return p - size * sign, size, sign
