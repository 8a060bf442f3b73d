"""An average of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..rule import Number, Rule, number
from ..wrapper import Wrapper
from ._scalars import choose


@dataclass(frozen=True)
class Averaged(Wrapper):
    r"""A rule with an average of its parameters beside them, in the moment `average`.

    ``opt.moment("average")`` is a tree like the parameters.

    Parameters
    ----------
    rule : rule
        What steps.
    decay : float or callable
        How much of the average stays at each update, in [0, 1). With the schedule
        ``lambda n: n / (n + 1)`` it is the mean of all iterates, as Polyak has it [1]_.

    Notes
    -----
    It is the parameter after the first update, and then

    .. math:: \bar p \leftarrow \bar p + (1 - \beta) (p - \bar p)

    torch's `swa_utils.AveragedModel` begins alike; optax's `ema` begins with 0, and corrects.

    References
    ----------
    .. [1] B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging",
       SIAM J. Control Optim. 30, 838 (1992).
    """

    rule: Rule
    decay: Number = number(0.999, below=1.0)

    own: ClassVar[tuple[str, ...]] = ("average",)

    def coefficients(self, t: int) -> dict[str, Any]:
        """The weight of the new parameter: 1 at the first update."""
        decay: Any = self.decay
        return {"weight": choose(t == 1, 1.0, 1.0 - decay)}

    def update(
        self, xp: Any, c: Any, p: Any, g: Any, average: Any, *moments: Any
    ) -> tuple[Any, ...]:
        """One update of the rule, then of the average."""
        p, *held = self.rule.update(xp, c.rule, p, g, *moments)
        return (p, average + c.weight * (p - average), *held)
