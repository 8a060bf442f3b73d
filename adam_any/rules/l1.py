"""An L1 penalty on the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..rule import Rule, operand
from ..wrapper import Wrapper, step_size


@dataclass(frozen=True)
class L1(Wrapper):
    r"""A rule for a sum of a smooth function and the penalty ``sum(weight * abs(p))``.

    The gradient is that of the smooth function alone. Parameters become exactly 0.

    Parameters
    ----------
    rule : rule
        What steps: one whose step size is known for each element, such as `Adam`.
    weight : float, callable, array or tree
        The weight of the penalty, 0 or more. An array has the leaf's shape; a tree is like the
        parameters. Of a complex leaf real and imaginary part are penalised.

    Raises
    ------
    ValueError
        For a rule whose step size is not known.

    Notes
    -----
    After each update the proximal operator of the penalty is applied in the rule's own metric
    [1]_. With Adam's step :math:`p - \eta\,\hat m / \psi` it is, in closed form, since both are
    separable,

    .. math:: p \leftarrow \operatorname{sign}(p)\,\max(|p| - \eta\,\lambda / \psi,\ 0),
              \qquad \psi = \sqrt{\hat v} + \epsilon

    proxmin and scarlet reach it by iteration.

    References
    ----------
    .. [1] P. Melchior, R. Joseph and F. Moolekamp, "Proximal Adam: robust adaptive update scheme
       for constrained optimization", 2019, arXiv:1910.10094.
    """

    rule: Rule
    weight: Any = operand(least=0.0)

    def check(self) -> None:
        """Raise ValueError where the rule has no step size for each element."""
        if step_size(self.rule) is None:
            raise ValueError(
                f"L1 needs the step size of each element, which {type(self.rule).__name__} does "
                "not have; hold a rule such as Adam, and put other wrappers around L1"
            )

    def coefficients(self, t: int) -> dict[str, Any]:
        """The weight."""
        return {"weight": self.weight}

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """One update of the rule, then soft thresholding."""
        p, *held = self.rule.update(xp, c.rule, p, g, *moments)
        threshold = self.step_size(xp, c, *held) * c.weight
        p = xp.sign(p) * xp.maximum(abs(p) - threshold, 0.0)
        return (p, *held)
