"""Steps for those elements alone that have a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..coefficients import sample
from ..rule import Rule, is_number
from ..wrapper import Wrapper, corrected, decays
from ._averages import ema, ema_weight


@dataclass(frozen=True)
class Masked(Wrapper):
    r"""A rule that leaves an element alone whose gradient is exactly 0.

    Its parameter and moments stay, and so does its own count of steps: where only a part of a
    volume is lit at a time, each voxel is corrected for the number of times that it was. Real and
    imaginary part of a complex number are two elements.

    Parameters
    ----------
    rule : rule
        What steps: one whose bias corrections are known, such as `Adam`, or that has none.

    Raises
    ------
    ValueError
        For a rule whose coefficients change with the number of steps in a way that is not known.

    Notes
    -----
    An element's correction :math:`1 - \beta^n` is the moving average of ones over the :math:`n`
    steps that it had; so it is kept as such, in the moments `ones0` and `ones1` of `Adam`. That is
    well conditioned: :math:`\beta^n` itself, in float32, would be off by 1e-5 in the first step.
    Dr.Jit masks the moments but not the count; torch's SparseAdam has one count for all elements.
    """

    rule: Rule

    step_size = None  # type: ignore[assignment]  # of an element that was never lit there is none

    def check(self) -> None:
        """Raise ValueError for a rule whose corrections are not known."""
        if decays(self.rule):
            return
        if _numbers(self.rule, 1) != _numbers(self.rule, 2):
            raise ValueError(
                f"Masked cannot count for each element with {type(self.rule).__name__}, whose "
                "coefficients change with the step; give it `decays` and `corrected`, as Adam has"
            )

    @property
    def own(self) -> tuple[str, ...]:  # type: ignore[override]
        """A moving average of ones for each decay rate."""
        return tuple(f"ones{i}" for i in range(len(decays(self.rule))))

    def coefficients(self, t: int) -> dict[str, Any]:
        """The weights of the averages."""
        return {f"weight{i}": ema_weight(beta) for i, beta in enumerate(decays(self.rule))}

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """One update of the rule, kept where the gradient is not 0."""
        betas = decays(self.rule)
        ones = tuple(
            ema(old, 1.0, beta, getattr(c, f"weight{i}"))
            for i, (old, beta) in enumerate(zip(moments, betas, strict=False))
        )
        inner = corrected(self.rule, xp, c.rule, *ones)
        new, *held = self.rule.update(xp, inner, p, g, *moments[len(betas) :])
        lit = g != 0.0
        pairs = zip((new, *ones, *held), (p, *moments), strict=True)
        return tuple(xp.where(lit, after, before) for after, before in pairs)


def _numbers(rule: Rule, t: int) -> dict[str, float]:
    return {name: x for name, x in sample(rule, t).items() if is_number(x)}
