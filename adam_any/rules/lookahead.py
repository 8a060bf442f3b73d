"""Slow weights that follow the rule's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, Rule, count, number
from ..wrapper import Wrapper


@dataclass(frozen=True)
class Lookahead(Wrapper):
    r"""A rule that goes back, every few updates, to a point between where it was and is [1]_.

    Parameters
    ----------
    rule : rule
        What steps.
    steps : int
        The number of updates after which it goes back; 5 or 10 in the paper.
    blend : float or callable
        How far the slow weights, in the moment `slow`, then move towards the parameters, from 0
        to 1.

    Notes
    -----
    The slow weights begin where the parameters do. After every `steps` updates

    .. math:: s \leftarrow s + \alpha (p - s), \qquad p \leftarrow s

    Between these `slow` is the better point at which to evaluate. The moments of the rule stay, as
    in the paper's experiments.

    References
    ----------
    .. [1] M. R. Zhang, J. Lucas, G. Hinton and J. Ba, "Lookahead optimizer: k steps forward, 1 step
       back", NeurIPS 2019, Algorithm 1.
    """

    rule: Rule
    steps: int = count(5)
    blend: Number = number(0.5)

    own: ClassVar[tuple[str, ...]] = ("slow",)
    step_size = None  # type: ignore[assignment]  # it is another one where it goes back

    def check(self) -> None:
        """Raise ValueError for a blend above 1."""
        if isinstance(self.blend, float) and self.blend > 1:
            raise ValueError(f"blend is {self.blend:g}; it must be a number from 0 to 1")

    def begin(self, xp: Any, p: Any) -> tuple[Any, ...]:
        """The parameter."""
        return (p,)

    def coefficients(self, t: int) -> dict[str, Any]:
        """The condition of going back now, and how far."""
        return {"back": t % self.steps == 0, "blend": self.blend}

    def update(self, xp: Any, c: Any, p: Any, g: Any, slow: Any, *moments: Any) -> tuple[Any, ...]:
        """One update of the rule, then of the slow weights."""
        p, *held = self.rule.update(xp, c.rule, p, g, *moments)
        slow = xp.where(c.back, slow + c.blend * (p - slow), slow)
        return (xp.where(c.back, slow, p), slow, *held)
