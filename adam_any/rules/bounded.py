"""Bounds on the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Operand, Rule, operand
from ..wrapper import Wrapper


@dataclass(frozen=True)
class Bounded(Wrapper):
    """A rule whose parameters stay within bounds.

    Parameters
    ----------
    rule : rule
        What steps.
    lower, upper : float, callable, array, tree or None
        The bounds, None for no bound. An array has the leaf's shape; a tree is like the parameters.
        Of a complex leaf they bound real and imaginary part.
    hold : bool
        Whether a component of the gradient that pushes outwards at an active bound is taken as 0.
        So it does not enter the moments, and the parameter leaves the bound as soon as its gradient
        turns.

    Raises
    ------
    ValueError
        For a lower bound above the upper, or one that is NaN.

    Notes
    -----
    After every update the parameter has the bits of ``numpy.clip(p, lower, upper)``: it is never an
    ulp outside, and NaN stays NaN. A parameter that starts outside is moved in at its first step.
    A bound is rounded once to the dtype of the computation, and with a parameter of half precision
    again to that of the parameter.
    """

    rule: Rule
    lower: Any = operand(None)
    upper: Any = operand(None)
    hold: bool = False

    ordered: ClassVar[tuple[tuple[str, str], ...]] = (("lower", "upper"),)

    def coefficients(self, t: int) -> dict[str, Any]:
        """The bounds that there are."""
        bounds = {"lower": self.lower, "upper": self.upper}
        return {name: x for name, x in bounds.items() if x is not None}

    def gradient(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> Any:
        """The gradient without components that push outwards at an active bound."""
        if not self.hold:
            return g
        downhill = -g if not self.maximize else g
        if self.lower is not None:
            g = xp.where((p <= c.lower) & (downhill < 0), 0.0, g)
        if self.upper is not None:
            g = xp.where((p >= c.upper) & (downhill > 0), 0.0, g)
        return g

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """One update of the rule, and what is outside moved to the bound."""
        g = self.gradient(xp, c, p, g)
        p, *held = self.rule.update(xp, c.rule, p, g, *moments)
        # At a bound of the same value zeros may differ in sign: NumPy then takes the bound's where
        # that is an array, and else the parameter's.
        if self.lower is not None:
            below = p <= c.lower if isinstance(self.lower, Operand) else p < c.lower
            p = xp.where(below, c.lower, p)
        if self.upper is not None:
            above = p >= c.upper if isinstance(self.upper, Operand) else p > c.upper
            p = xp.where(above, c.upper, p)
        return (p, *held)
