"""The numbers of one step: schedules evaluated, coefficients computed and rounded.

Those of a wrapper are a namespace, in which another, named `rule`, has those of the rule that it
holds: so `c.rule.alpha` is a coefficient, and `rule.alpha` is its path.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

from .detect import is_tracer
from .dtypes import DTYPES, name_of
from .rule import (
    Field,
    Operand,
    Range,
    Rule,
    Schedule,
    Varying,
    check_order,
    declares_number,
    held,
    items,
    mapped,
    numbers,
    range_of,
    replaced,
)
from .words import shown

#: The classes of what is rounded; bools and operands are not.
_NUMBERS = frozenset((float, int, Varying))


class Coefficients(SimpleNamespace):
    """Coefficients by name."""


# Schedules ----------------------------------------------------------------------------------------


def at(rule: Rule) -> Callable[[Any], Rule]:
    """A function of the number of updates so far, which gives the rule with schedules evaluated."""
    if not any(map(callable, numbers(rule))):
        return lambda count: rule
    return partial(_evaluated, rule)


def _evaluated(rule: Rule, count: Any) -> Rule:
    new = {
        field.name: _at_count(field, value, count)
        for field, value in items(rule)
        if declares_number(field, value) and _has_schedule(value)
    }
    inner = held(rule)
    if inner is not None:
        new["rule"] = _evaluated(inner, held_count(rule, count))
    found = replaced(rule, new)
    check_order(found)
    return found


def held_count(rule: Rule, count: Any) -> Any:
    """The number of updates that the rule in a wrapper has had when the wrapper has had `count`."""
    own = getattr(rule, "held_count", None)
    return count if own is None else own(count)


def evaluate(schedule: Schedule, count: Any, name: str, allowed: Range) -> Any:
    """The value of a schedule after `count` updates: a number, or a 0-d array as optax's return.

    Under a trace it is a tracer, whose value cannot be checked. Raises ValueError for a number that
    is not allowed.
    """
    value: Any = schedule(count)
    if is_tracer(value):
        return value
    if getattr(value, "shape", None) == () and name_of(value.dtype) != "bool":
        value = value.item() if hasattr(value, "item") else float(value)
    if not allowed.admits(value):
        raise ValueError(f"{name}({count}) is {shown(value)}; it must be {allowed.describe(1)}")
    return Varying(value)


def _has_schedule(value: Any) -> bool:
    return any(map(callable, value)) if isinstance(value, tuple) else callable(value)


def _at_count(field: Field, value: Any, count: Any) -> Any:
    """The value of a field after `count` updates."""
    allowed = range_of(field)

    def one(x: Any, name: str) -> Any:
        return evaluate(x, count, name, allowed) if callable(x) else x

    if isinstance(value, tuple):
        return tuple(one(x, f"{field.name}[{i}]") for i, x in enumerate(value))
    return one(value, field.name)


# Coefficients -------------------------------------------------------------------------------------


def rounded(rule: Rule, t: int, compute: str) -> Coefficients:
    """The coefficients of update `t` as Python floats, each rounded once to the compute dtype.

    Bools and operands stay. Schedules have been evaluated. Raises ValueError for a number that is
    not finite there.
    """
    c = _rounded(rule.coefficients(t), rule, t, compute)
    inner = held(rule)
    if inner is not None:
        c.rule = rounded(inner, held_count(rule, t - 1) + 1, compute)
    return c


def _rounded(values: Mapping[str, Any], rule: Rule, t: int, compute: str) -> Coefficients:
    c = Coefficients()
    if not _NUMBERS.issuperset(map(type, values.values())):
        special = {name: x for name, x in values.items() if isinstance(x, bool | Operand)}
        values = {name: x for name, x in values.items() if name not in special}
        c.__dict__.update(special)
    try:
        there = array(DTYPES[compute].struct, values.values())
    except (TypeError, OverflowError):  # one is not a number, or too large for a float
        there = array("d", [math.inf])
    if not math.isfinite(sum(there)):
        for name, value in values.items():
            if not _is_finite(value, compute):
                raise ValueError(
                    f"coefficient {name!r} is {shown(value)} at update {t} of {shown(rule)}; it "
                    f"must be a finite {compute}"
                )
    c.__dict__.update(zip(values, there, strict=True))
    return c


def _is_finite(value: Any, compute: str) -> bool:
    try:
        return math.isfinite(value) and math.isfinite(DTYPES[compute].round(float(value)))
    except (TypeError, OverflowError):
        return False


def sample(rule: Rule, t: int = 1) -> dict[str, Any]:
    """The coefficients of an update by path, with some number where there is a schedule.

    Their names are the same at every step, and so is which are bools, and which operands.
    """
    return by_path(mapped(rule, lambda name, x: Varying(0.5) if callable(x) else x), t)


def by_path(rule: Rule, t: Any) -> dict[str, Any]:
    """The coefficients of an update as the rule gives them, by path; `t` may be a tracer."""
    found, prefix = dict[str, Any](), ""
    level: Any = rule
    while level is not None:
        own: Any = level.coefficients(t)
        found |= {prefix + name: x for name, x in own.items()}
        t, level, prefix = held_count(level, t - 1) + 1, held(level), f"{prefix}rule."
    return found


def nested(values: Mapping[str, Any]) -> Coefficients:
    """Coefficients from their values by path."""
    c = Coefficients()
    for path, value in values.items():
        *outer, name = path.split(".")
        at = c
        for part in outer:
            at = at.__dict__.setdefault(part, Coefficients())
        setattr(at, name, value)
    return c


def empty(rule: Rule) -> Coefficients:
    """The coefficients of a rule and those that it holds, without the numbers."""
    inner = held(rule)
    return Coefficients() if inner is None else Coefficients(rule=empty(inner))


def bound(c: Coefficients, values: Mapping[str, Any]) -> Coefficients:
    """The coefficients with other values for some, by path."""
    if not values:
        return c
    new = Coefficients(**c.__dict__)
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            value = bound(getattr(new, name), {rest: value})
        setattr(new, name, value)
    return new
