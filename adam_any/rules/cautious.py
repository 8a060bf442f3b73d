"""Steps along the gradient alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..rule import Rule
from ..wrapper import Wrapper


@dataclass(frozen=True)
class Cautious(Wrapper):
    """A rule that does not step where its step goes against the present gradient [1]_.

    Parameters
    ----------
    rule : rule
        What steps. Its moments are updated everywhere.

    Notes
    -----
    Decay is a part of the step that is looked at. The paper's Algorithm 1 also multiplies the step
    by the inverse of the fraction of elements that are stepped; that takes a second pass over the
    moments, and is left out, as the paper's theory allows: choose a larger learning rate. timm
    divides by the mean of the mask, kozistr's pytorch_optimizer by its sum plus one.

    References
    ----------
    .. [1] K. Liang, L. Chen, B. Liu and Q. Liu, "Cautious optimizers: improving training with one
       line of code", 2024, arXiv:2411.16085.
    """

    rule: Rule

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """One update of the rule, kept where it follows the gradient."""
        new, *held = self.rule.update(xp, c.rule, p, g, *moments)
        downhill = -g if self.maximize else g
        follows = ((new < p) & (downhill > 0)) | ((new > p) & (downhill < 0))
        # A number that is not finite is not hidden.
        return (xp.where(follows | (new != new), new, p), *held)
