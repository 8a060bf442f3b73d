"""Steps with the sum of several gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Rule, count
from ..wrapper import Wrapper


@dataclass(frozen=True)
class Accumulated(Wrapper):
    """A rule that steps once for every few gradients, with their sum.

    Parameters
    ----------
    rule : rule
        What steps. Its schedules and corrections count its own updates.
    steps : int
        The number of gradients that are added, in the moment `sum`. Divide them by it for their
        mean.

    Notes
    -----
    torch's accumulation in ``.grad`` is a sum, too; optax's `MultiSteps` and keras take the mean.
    """

    rule: Rule
    steps: int = count()

    own: ClassVar[tuple[str, ...]] = ("sum",)
    step_size = None  # type: ignore[assignment]  # most of the time there is no step

    def held_count(self, calls: Any) -> Any:
        """The number of updates that the rule has had after so many calls."""
        return calls // self.steps

    def coefficients(self, t: int) -> dict[str, Any]:
        """Two conditions: the gradient is the first of a sum, or the last."""
        return {"first": (t - 1) % self.steps == 0, "last": t % self.steps == 0}

    def gradient(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> Any:
        """The sum so far."""
        return xp.where(c.first, g, moments[0] + g)

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """One more gradient; and after the last of a sum one update of the rule."""
        g = self.gradient(xp, c, p, g, *moments)
        _, *old = moments
        p_new, *new = self.rule.update(xp, c.rule, p, g, *old)
        pairs = zip((p_new, *new), (p, *old), strict=True)
        p, *new = (xp.where(c.last, after, before) for after, before in pairs)
        return (p, g, *new)
