"""The protocol of a rule: its fields, schedules, validation, and the rounding of coefficients.

A rule is a frozen dataclass. Its fields are hyperparameters (numbers, or tuples of numbers) and
options (everything else). Any number may be a schedule: a callable of the number of updates that a
leaf has already had. A schedule is evaluated before `coefficients` is called, so `self.lr` is a
number there. `update` sees options only: scalars reach it through the coefficients.

What `update` may use, so that every engine can run it: `+ - * /`, negation, `abs`, comparisons, and
`xp.sqrt`, `xp.maximum`, `xp.minimum`, `xp.sign`, `xp.where`. The parentheses are normative: with
one rounding each, they decide the bits. All scalar arithmetic happens in `coefficients`, on the
host in float64, and is rounded once to the compute dtype by `rounded`; so no engine can disagree
about it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from array import array
from collections.abc import Callable, Iterator
from numbers import Real
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn, Protocol

from .detect import is_tracer
from .dtypes import DTYPES, name_of
from .words import shown

Schedule = Callable[[int], float]
Number = float | Schedule
Coefficients = SimpleNamespace
Field = dataclasses.Field[Any]


class Rule(Protocol):
    """The mathematics of an optimizer; a frozen dataclass that has these.

    It may have `start(self, xp, p) -> tuple of moments`, for moments that do not start at zero.
    """

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of the state arrays, in order."""
        ...

    def coefficients(self, t: int) -> dict[str, float]:
        """The scalars of update `t`, which is 1 at the first."""
        ...

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """The new parameter and the new moments, in order; `c.name` is a coefficient."""
        ...


class Range(NamedTuple):
    """The numbers that a field may have: finite ones in [least, below), or any but NaN."""

    least: float = -math.inf
    below: float = math.inf

    def admits(self, value: Any) -> bool:
        """Return whether a value is such a number."""
        if not _is_number(value):
            return False
        try:
            value = float(value)
        except OverflowError:  # an int or a fraction that is too large for a float
            return False
        if self == ANY:
            return not math.isnan(value)
        return self.least <= value < self.below and math.isfinite(value)

    def describe(self, count: int) -> str:
        """The range in words, for one number or a tuple of several."""
        several = {1: "a", 2: "two", 3: "three"}.get(count, str(count)) + " "
        kind = "number" if count == 1 else "numbers"
        if self.below < math.inf:
            return f"{several}{kind} in [{self.least:g}, {self.below:g})"
        if self == ANY:
            return f"{several}{kind} that a float can hold"
        return f"{several}finite {kind}, {self.least:g} or more"


#: What a field may have that declares nothing.
ANY = Range()


def number(default: Any, *, least: float = 0.0, below: float = math.inf) -> Any:
    """A field of a rule: a number in [least, below), or with a tuple as default several of them.

    A learning rate is 0 or more in any case.
    """
    return dataclasses.field(default=default, metadata={"range": Range(least, below)})


NOT_KNOWN = "has no value in update; let coefficients return it"


class _NotKnown(type):
    """The class of a class that takes the place of a number, and does not compute as one."""

    def _refuse(cls, *others: Any) -> NoReturn:
        raise TypeError(f"a learning rate or a schedule {NOT_KNOWN}")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __neg__ = __pow__ = __rpow__ = _refuse


class Varying(float, metaclass=_NotKnown):
    """A number that a schedule gave.

    The class itself takes its place where `update` looks, since the number is not known there.
    """


# Fields -------------------------------------------------------------------------------------------


def fields(rule: Any) -> dict[str, Any]:
    """All fields of a rule, by name."""
    return {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}


def hyperparameters(rule: Rule) -> dict[str, Any]:
    """The fields of a rule that are numbers, tuples of numbers, or schedules."""
    return {field.name: value for field, value in _items(rule) if _declares_number(field, value)}


def options(rule: Rule) -> dict[str, Any]:
    """The fields of a rule that are not hyperparameters."""
    return {
        field.name: value for field, value in _items(rule) if not _declares_number(field, value)
    }


def numbers(rule: Rule) -> list[Any]:
    """The numbers in all fields of a rule, those of tuples one by one."""
    return [
        x
        for value in hyperparameters(rule).values()
        for x in (value if isinstance(value, tuple) else (value,))
    ]


def _items(rule: Any) -> Iterator[tuple[Field, Any]]:
    return ((field, getattr(rule, field.name)) for field in dataclasses.fields(rule))


def _declares_number(field: Field, value: Any) -> bool:
    if isinstance(field.default, bool):
        return False
    declared = "range" in field.metadata or field.name == "lr"
    return declared or _is_numeric(field.default) or _is_numeric(value)


def _range(field: Field) -> Range:
    least = 0.0 if field.name == "lr" else -math.inf
    declared: Range = field.metadata.get("range", Range(least))
    return declared


def _is_numeric(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_numeric, value))
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# Validation ---------------------------------------------------------------------------------------


def validated(rule: Rule) -> Rule:
    """The rule with every number a float; TypeError or ValueError where it cannot be used."""
    if not dataclasses.is_dataclass(rule) or isinstance(rule, type):
        raise TypeError(f"rule is {shown(rule)}; it must be an instance of a frozen dataclass")
    name = type(rule).__name__
    if not rule.__dataclass_params__.frozen:
        raise TypeError(f"the rule {name} is not frozen; declare it with @dataclass(frozen=True)")
    for needed in ("moments", "coefficients", "update"):
        if not hasattr(rule, needed):
            raise TypeError(f"the rule {name} has no {needed}; a rule needs all that rule.Rule has")
    new: dict[str, Any] = {}
    for field, value in _items(rule):
        if _declares_number(field, value):
            new[field.name] = _numbers(field, value)
        elif isinstance(field.default, bool) and not isinstance(value, bool):
            raise ValueError(f"{field.name} is {shown(value)}; it must be True or False")
    return replaced(rule, new)


def _numbers(field: Field, value: Any) -> Any:
    """The value of a field as a float, a schedule, or a tuple of these."""
    allowed = _range(field)
    like = field.default if "range" in field.metadata else value
    count = len(like) if isinstance(like, tuple) else 1
    given = tuple(value) if isinstance(value, tuple | list) else (value,)
    valid = (
        isinstance(value, tuple | list) == isinstance(like, tuple | list) and len(given) == count
    )
    if not valid or not all(callable(x) or allowed.admits(x) for x in given):
        convert = ""
        for i, x in enumerate(given):
            if getattr(x, "shape", None) == ():
                name = f"{field.name}[{i}]" if isinstance(value, tuple | list) else field.name
                convert = f"; pass float({name})"
        raise ValueError(
            f"{field.name} is {shown(value)}; it must be {allowed.describe(count)}{convert}"
        )
    new = tuple(x if callable(x) else float(x) for x in given)
    return new if isinstance(like, tuple | list) else new[0]


def representable(rule: Rule, compute: str) -> None:
    """Raise ValueError if a scalar hyperparameter becomes 0 or infinite in the compute dtype."""
    for name, value in hyperparameters(rule).items():
        if callable(value) or isinstance(value, tuple) or value == 0:
            continue
        there = DTYPES[compute].round(value)
        if there == 0 or math.isinf(there):
            raise ValueError(
                f"{name} = {value!r} is {there} in {compute}, in which this leaf is computed; "
                "choose a value that it can hold, or a wider dtype"
            )


# Schedules ----------------------------------------------------------------------------------------


def at(rule: Rule) -> Callable[[Any], Rule]:
    """A function of the number of updates so far, which gives the rule with schedules evaluated."""
    scheduled = [
        (field, value)
        for field, value in _items(rule)
        if _declares_number(field, value) and _has_schedule(value)
    ]
    if not scheduled:
        return lambda count: rule

    def evaluated(count: Any) -> Rule:
        return replaced(rule, {f.name: _at_count(f, value, count) for f, value in scheduled})

    return evaluated


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


def static(rule: Rule) -> Rule:
    """The rule as `update` may know it: without its learning rate and the values of schedules.

    So what is compiled for a rule, or sent to a worker, serves every learning rate.
    """
    return mapped(rule, lambda name, x: Varying if name == "lr" or callable(x) else x)


def some_coefficients(rule: Rule) -> dict[str, float]:
    """The coefficients of the first update, with some number where there is a schedule.

    Their names are the same at every step.
    """
    return mapped(rule, lambda name, x: Varying(0.5) if callable(x) else x).coefficients(1)


def _has_schedule(value: Any) -> bool:
    return any(map(callable, value)) if isinstance(value, tuple) else callable(value)


def _at_count(field: Field, value: Any, count: Any) -> Any:
    """The value of a field after `count` updates."""
    allowed = _range(field)

    def one(x: Any, name: str) -> Any:
        return evaluate(x, count, name, allowed) if callable(x) else x

    if isinstance(value, tuple):
        return tuple(one(x, f"{field.name}[{i}]") for i, x in enumerate(value))
    return one(value, field.name)


def mapped(rule: Rule, f: Callable[[str, Any], Any]) -> Rule:
    """The rule with a function of name and value applied to every number and schedule."""
    return replaced(
        rule,
        {
            name: tuple(f(name, x) for x in value) if isinstance(value, tuple) else f(name, value)
            for name, value in hyperparameters(rule).items()
        },
    )


def replaced(rule: Rule, values: dict[str, Any]) -> Rule:
    """The rule with other values of some fields."""
    new = copy.copy(rule)
    for name, value in values.items():
        object.__setattr__(new, name, value)  # not replace(), which may validate a placeholder
    return new


# Coefficients -------------------------------------------------------------------------------------


def rounded(rule: Rule, t: int, compute: str) -> Coefficients:
    """The coefficients of update `t` as Python floats, each rounded once to the compute dtype.

    Schedules have been evaluated. Raises ValueError for one that is not a finite number there.
    """
    values = rule.coefficients(t)
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
    c = Coefficients()
    c.__dict__.update(zip(values, there, strict=True))
    return c


def _is_finite(value: Any, compute: str) -> bool:
    try:
        return math.isfinite(value) and math.isfinite(DTYPES[compute].round(float(value)))
    except (TypeError, OverflowError):
        return False
