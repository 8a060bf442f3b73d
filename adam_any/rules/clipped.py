"""Limits on the gradient: of each element, and of its norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..rule import Operand, Rule, number, operand
from ..wrapper import Wrapper
from ._norms import limiting, total


@dataclass(frozen=True)
class Clipped(Wrapper):
    r"""A rule that gets a gradient of limited size.

    The limits are applied in the order of the parameters here, each to what the last has left.

    Parameters
    ----------
    rule : rule
        What steps.
    value : float, callable, array, tree or None
        Each element is moved into [-value, value].
    leaf_norm : float, callable or None
        The largest Euclidean norm of the gradient of one leaf; a larger one is scaled down to it.
    norm : float, callable or None
        The same for the norm over all leaves that share this rule: all leaves of the optimizer, or
        those of one key where rules are given by path.

    Notes
    -----
    A norm takes one more read of the gradient, and on a device one wait. It is computed in float64
    from squares in the compute dtype, in an order that depends on shape, dtype and memory order
    alone. A gradient is scaled by ``norm / ||g||`` where that is below 1, as in [1]_, and not
    touched otherwise. Where the norm is not finite it is scaled by 0: elements that are not finite
    become NaN, and the others count as 0; see `nonfinite` of `Optimizer` for a better way.

    torch adds 1e-6 to the norm, and so scales by slightly less.

    References
    ----------
    .. [1] R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
       networks", ICML 2013, Algorithm 1.
    """

    rule: Rule
    value: Any = operand(None, least=0.0)
    leaf_norm: Any = number(None, positive=True)
    norm: Any = number(None, positive=True)

    @property
    def sums(self) -> tuple[str, ...]:
        """The sum that it needs of each leaf."""
        return () if self.norm is None and self.leaf_norm is None else ("square",)

    def terms(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """The squares of the gradient's elements."""
        g = self._by_value(xp, c, g)
        return (g * g,)

    def leaf_scales(self, xp: Any, c: Any, leaf: Any) -> dict[str, Any]:
        """The factor that limits the norm of a leaf."""
        if self.leaf_norm is None:
            return {}
        return {"leaf_scale": limiting(xp, xp.sqrt(leaf.square), c.leaf_norm)}

    def group_scales(self, xp: Any, c: Any, group: Any) -> dict[str, Any]:
        """The factor that limits the norm over all leaves."""
        if self.norm is None:
            return {}
        squares = [x.square for x in group]
        if self.leaf_norm is not None:
            factors = [self.leaf_scales(xp, c, x)["leaf_scale"] for x in group]
            squares = [factor * factor * x for factor, x in zip(factors, squares, strict=True)]
        return {"scale": limiting(xp, xp.sqrt(total(xp, squares)), c.norm)}

    def coefficients(self, t: int) -> dict[str, Any]:
        """The limits that there are."""
        limits = {"value": self.value, "leaf_norm": self.leaf_norm, "norm": self.norm}
        found = {name: x for name, x in limits.items() if x is not None}
        if self.value is not None and not isinstance(self.value, Operand):
            found["least"] = -self.value
        return found

    def gradient(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> Any:
        """The limited gradient."""
        g = self._by_value(xp, c, g)
        if self.leaf_norm is not None:
            g = g * c.leaf_scale
        return g if self.norm is None else g * c.scale

    def _by_value(self, xp: Any, c: Any, g: Any) -> Any:
        if self.value is None:
            return g
        least = -c.value if isinstance(self.value, Operand) else c.least
        g = xp.where(g < least, least, g)
        return xp.where(g > c.value, c.value, g)

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """One update of the rule with the limited gradient."""
        g = self.gradient(xp, c, p, g)
        new: tuple[Any, ...] = self.rule.update(xp, c.rule, p, g, *moments)
        return new
