"""The beginning and the end of an update: what is the same in every rule with weight decay.

A rule that has it has the fields `maximize` and `weight_decay`, and says by `decoupled`, which is a
field or a constant of its class, what that is added to. Its coefficients have `wd` or `decay`.
"""

from __future__ import annotations

from typing import Any


def descent(rule: Any, c: Any, p: Any, g: Any) -> Any:
    """The gradient to descend: negated where the rule climbs, with weight decay as L2 penalty."""
    if rule.maximize:
        g = -g
    if rule.weight_decay and not rule.decoupled:
        g = g + c.wd * p
    return g


def moved(rule: Any, c: Any, p: Any, step: Any) -> Any:
    """The parameter after a step, and after weight decay that is decoupled from the gradient."""
    return p - (step + c.decay * p) if rule.weight_decay and rule.decoupled else p - step
