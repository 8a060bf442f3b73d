"""A learning rate for each element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..rule import Operand, Rule, innermost, operand
from ..wrapper import Wrapper, scaled


@dataclass(frozen=True)
class Scaled(Wrapper):
    """A rule with a learning rate, and so a decoupled decay, of its own for each element.

    Parameters
    ----------
    rule : rule
        What steps: one that names its `rates`, as all rules here do.
    by : float, callable, array or tree
        The factor, 0 or more. An array has the leaf's shape; a tree is like the parameters. One
        that is real scales both parts of a complex number.

    Raises
    ------
    ValueError
        For a rule that does not say which of its coefficients are rates.

    Notes
    -----
    The coefficients are multiplied, not the step, so a factor of 1 leaves the bits as they are.
    """

    rule: Rule
    by: Any = operand(least=0.0)

    def check(self) -> None:
        """Raise ValueError for a rule that does not name its rates."""
        inner = innermost(self.rule)
        if not hasattr(inner, "rates"):
            raise ValueError(
                f"Scaled does not know which coefficients of {type(inner).__name__} are "
                "proportional to the learning rate; name them in its class: rates = ('lr',)"
            )

    def coefficients(self, t: int) -> dict[str, Any]:
        """The factor."""
        return {"by": self.by}

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """One update of the rule at its own rate for each element."""
        by = c.by if isinstance(self.by, Operand) else xp.where(p == p, c.by, p)
        inner = scaled(self.rule, c.rule, by)
        new: tuple[Any, ...] = self.rule.update(xp, inner, p, g, *moments)
        return new
