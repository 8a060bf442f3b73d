"""The protocol of a rule: its fields, what they may be, and the rule that a wrapper holds.

A rule is a frozen dataclass. Its fields are hyperparameters (numbers, or tuples of numbers),
options (bools, strings, None), and for a wrapper the field `rule`, the rule that it holds. Any
number may be a schedule: a callable of the number of updates that a leaf has already had. A
schedule is evaluated before `coefficients` is called, so `self.lr` is a number there. A field that
declares itself an `operand` may also be an array, with one number for each element of a leaf.

`update` sees options only: numbers and arrays reach it through the coefficients. What it may use,
so that every engine can run it: `+ - * /`, negation, `abs`, comparisons, and `xp.sqrt`,
`xp.maximum`, `xp.minimum`, `xp.sign`, `xp.where`. The parentheses are normative: with one rounding
each, they decide the bits. All scalar arithmetic happens in `coefficients`, on the host in float64,
and is rounded once to the compute dtype (`coefficients.rounded`); so no engine can disagree.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple, NoReturn, Protocol

from . import words
from .dtypes import DTYPES

Schedule = Callable[[int], float]
Number = float | Schedule
Field = dataclasses.Field[Any]


class Rule(Protocol):
    """The mathematics of an optimizer; a frozen dataclass that has these.

    It may have `start(self, xp, p) -> tuple of moments`, for moments that do not start at zero;
    `ordered`, pairs of fields of which the first must not exceed the second; and `check(self)`,
    which raises ValueError for fields that do not fit together. What else wrappers may ask of a
    rule is in `wrapper`.
    """

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of the state arrays, in order."""
        ...

    def coefficients(self, t: int) -> Mapping[str, Any]:
        """The scalars of update `t`, which is 1 at the first: numbers, and bools for `xp.where`.

        A field that is an array is returned as it is.
        """
        ...

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """The new parameter and the new moments, in order; `c.name` is a coefficient."""
        ...


@dataclasses.dataclass(frozen=True)
class Operand:
    """Stands in a rule for an array field, by its path such as `rule.lower`: each leaf has one."""

    path: str


class Range(NamedTuple):
    """The numbers that a field may have: finite ones in [least, below), or any but NaN.

    `positive` leaves out 0, and `whole` all but integers. An `operand` may also be None, an array
    or a tree.
    """

    least: float = -math.inf
    below: float = math.inf
    positive: bool = False
    whole: bool = False
    operand: bool = False

    def admits(self, value: Any) -> bool:
        """Return whether a value is such a number."""
        if not is_number(value):
            return False
        try:
            number = float(value)
        except OverflowError:  # an int or a fraction that is too large for a float
            return False
        if self == ANY:
            return not math.isnan(number)
        if self.whole and not (isinstance(value, Integral) or number.is_integer()):
            return False
        inside = self.least <= number < self.below and math.isfinite(number)
        return inside and not (self.positive and number == 0)

    def describe(self, count: int) -> str:
        """The range in words, for one number or a tuple of several."""
        several = {1: "a", 2: "two", 3: "three"}.get(count, str(count)) + " "
        kind = "number" if count == 1 else "numbers"
        if self.whole:
            return f"a whole number, {self.least:g} or more"
        if self.below < math.inf:
            return f"{several}{kind} in [{self.least:g}, {self.below:g})"
        if self == ANY:
            return f"{several}{kind} that a float can hold"
        if self.positive:
            return f"{several}finite {kind} above 0"
        least = "" if math.isinf(self.least) else f", {self.least:g} or more"
        array = ", or an array or a tree of them" if self.operand else ""
        return f"{several}finite {kind}{least}{array}"


#: What a field may have that declares nothing.
ANY = Range()


def number(
    default: Any, *, least: float = 0.0, below: float = math.inf, positive: bool = False
) -> Any:
    """A field of a rule: a number in [least, below), or with a tuple as default several of them.

    A learning rate is 0 or more in any case. With None as default it may be None.
    """
    return _field(default, Range(least, below, positive))


def count(default: Any = dataclasses.MISSING, *, least: int = 1) -> Any:
    """A field of a rule: a whole number, `least` or more, which is never a schedule."""
    return _field(default, Range(least, whole=True))


def operand(default: Any = dataclasses.MISSING, *, least: float = -math.inf) -> Any:
    """A field of a rule: a number, `least` or more; or one for each element of a leaf.

    So it may also be an array of the leaf's shape, or a tree of numbers and arrays like the
    parameters. With None as default it may be None.
    """
    return _field(default, Range(least, operand=True))


def _field(default: Any, allowed: Range) -> Any:
    return dataclasses.field(default=default, metadata={"range": allowed})


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


def held(rule: Any) -> Rule | None:
    """The rule that a wrapper holds; None for any other."""
    inner = getattr(rule, "rule", None)
    return inner if hasattr(inner, "update") else None


def chain(rule: Any) -> Iterator[tuple[str, Any]]:
    """The rule and those in it, outermost first, each with the beginning of its fields' paths."""
    prefix = ""
    while rule is not None:
        yield prefix, rule
        rule, prefix = held(rule), f"{prefix}rule."


def innermost(rule: Any) -> Any:
    """The rule in all wrappers."""
    *_, (_, last) = chain(rule)
    return last


def fields(rule: Any) -> dict[str, Any]:
    """All fields of a rule, by name."""
    return {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}


def hyperparameters(rule: Rule) -> dict[str, Any]:
    """The fields of a rule that are numbers, tuples of numbers, schedules or operands."""
    return {field.name: value for field, value in items(rule) if declares_number(field, value)}


def options(rule: Rule) -> dict[str, Any]:
    """The fields of a rule that are neither hyperparameters nor a rule that it holds."""
    inner = held(rule)
    return {
        field.name: value
        for field, value in items(rule)
        if not declares_number(field, value) and (inner is None or value is not inner)
    }


def numbers(rule: Rule) -> list[Any]:
    """The numbers in all fields of a rule, those of tuples one by one, and of the rule it holds."""
    return [
        x
        for _, level in chain(rule)
        for value in hyperparameters(level).values()
        for x in (value if isinstance(value, tuple) else (value,))
    ]


def items(rule: Any) -> Iterator[tuple[Field, Any]]:
    """Each field of a rule, with its value."""
    return ((field, getattr(rule, field.name)) for field in dataclasses.fields(rule))


def declares_number(field: Field, value: Any) -> bool:
    """Return whether a field with this value is a hyperparameter."""
    if isinstance(field.default, bool):
        return False
    declared = "range" in field.metadata or field.name == "lr"
    return declared or _is_numeric(field.default) or _is_numeric(value)


def range_of(field: Field) -> Range:
    """The numbers that a field may have."""
    least = 0.0 if field.name == "lr" else -math.inf
    declared: Range = field.metadata.get("range", Range(least))
    return declared


def is_number(value: Any) -> bool:
    """Return whether a value is one real number; a bool is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_spread(field: Field, value: Any) -> bool:
    """Return whether an operand field has an array or a tree, and so may differ among leaves."""
    single = value is None or callable(value) or is_number(value) or isinstance(value, Operand)
    return range_of(field).operand and not single


def _is_numeric(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_numeric, value))
    return is_number(value)


def replaced(rule: Rule, values: dict[str, Any]) -> Rule:
    """The rule with other values of some fields."""
    if not values:
        return rule
    new = copy.copy(rule)
    for name, value in values.items():
        object.__setattr__(new, name, value)  # not replace(), which may validate a placeholder
    return new


def mapped(rule: Rule, f: Callable[[str, Any], Any]) -> Rule:
    """The rule with a function of name and value applied to every number and schedule in it.

    Fields that are None or arrays stay.
    """

    def one(name: str, x: Any) -> Any:
        return x if x is None or isinstance(x, Operand) else f(name, x)

    new = {
        name: tuple(one(name, x) for x in value) if isinstance(value, tuple) else one(name, value)
        for name, value in hyperparameters(rule).items()
    }
    inner = held(rule)
    return replaced(rule, new if inner is None else {**new, "rule": mapped(inner, f)})


def static(rule: Rule) -> Rule:
    """The rule as `update` may know it: without its learning rate and the values of schedules.

    So what is compiled for a rule, or sent to a worker, serves every learning rate.
    """
    return mapped(rule, lambda name, x: Varying if name == "lr" or callable(x) else x)


def shown(rule: Any) -> str:
    """A rule in a word, with the rules that it holds: `Bounded(Adam)`."""
    inner = held(rule)
    name = type(rule).__name__
    return name if inner is None else f"{name}({shown(inner)})"


class _Array:
    """Stands for an array or tree where a rule is shown."""

    def __repr__(self) -> str:
        return "<array>"


def without_arrays(rule: Any) -> Any:
    """The rule with a word in place of each array, which may be large, to be shown."""
    if rule is None:
        return None
    new: dict[str, Any] = {
        field.name: _Array() for field, value in items(rule) if is_spread(field, value)
    }
    inner = held(rule)
    return replaced(rule, new if inner is None else {**new, "rule": without_arrays(inner)})


# Validation ---------------------------------------------------------------------------------------


def validated(rule: Any) -> Any:
    """The rule with every number a float; TypeError or ValueError where it cannot be used.

    Arrays and trees in its fields are looked at when leaves are known.
    """
    if not dataclasses.is_dataclass(rule) or isinstance(rule, type):
        raise TypeError(
            f"rule is {words.shown(rule)}; it must be an instance of a frozen dataclass"
        )
    name = type(rule).__name__
    if not rule.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"the rule {name} is not frozen; declare it with @dataclass(frozen=True)")
    for needed in ("moments", "coefficients", "update"):
        if needed == "moments" and _lacks_rule(rule):
            have = words.shown(getattr(rule, "rule", None))
            raise TypeError(
                f"the wrapper {name} holds {have}; it must hold a rule, as in "
                f"{name}(rules.Adam(), ...)"
            )
        if not hasattr(rule, needed):
            raise TypeError(f"the rule {name} has no {needed}; a rule needs all that rule.Rule has")
    new: dict[str, Any] = {}
    for field, value in items(rule):
        if declares_number(field, value):
            new[field.name] = _numbers(field, value)
        elif isinstance(field.default, bool) and not isinstance(value, bool):
            raise ValueError(f"{field.name} is {words.shown(value)}; it must be True or False")
    inner = held(rule)
    if inner is not None:
        new["rule"] = validated(inner)
    found = replaced(rule, new)  # type: ignore[arg-type]
    check_order(found)
    if hasattr(found, "check"):
        found.check()
    return found


def _lacks_rule(rule: Any) -> bool:
    """Return whether a wrapper holds what is not a rule."""
    return any(field.name == "rule" for field in dataclasses.fields(rule)) and held(rule) is None


def _numbers(field: Field, value: Any) -> Any:
    """The value of a field as a float, a schedule, or a tuple of these; or an operand, unseen."""
    allowed = range_of(field)
    if (value is None and field.default is None) or is_spread(field, value):
        return value
    like = field.default if "range" in field.metadata else value
    count = len(like) if isinstance(like, tuple) else 1
    given = tuple(value) if isinstance(value, tuple | list) else (value,)
    valid = (
        isinstance(value, tuple | list) == isinstance(like, tuple | list) and len(given) == count
    )
    if not valid or not all(
        (callable(x) and not allowed.whole) or allowed.admits(x) for x in given
    ):
        convert = ""
        for i, x in enumerate(given):
            if getattr(x, "shape", None) == ():
                name = f"{field.name}[{i}]" if isinstance(value, tuple | list) else field.name
                convert = f"; pass float({name})"
        raise ValueError(
            f"{field.name} is {words.shown(value)}; it must be {allowed.describe(count)}{convert}"
        )
    kind = int if allowed.whole else float
    new = tuple(x if callable(x) else kind(x) for x in given)
    return new if isinstance(like, tuple | list) else new[0]


def check_order(rule: Any) -> None:
    """Raise ValueError where a number is above another that it must not exceed.

    A rule names such pairs of fields in `ordered`.
    """
    for low, high in getattr(rule, "ordered", ()):
        below, above = getattr(rule, low), getattr(rule, high)
        if is_number(below) and is_number(above) and below > above:
            raise ValueError(f"{low} is {below:g}, above {high}, which is {above:g}; exchange them")


def representable(rule: Rule, compute: str) -> None:
    """Raise ValueError if a scalar hyperparameter becomes 0 or infinite in the compute dtype."""
    for _, level in chain(rule):
        for name, value in hyperparameters(level).items():
            if not is_number(value) or value == 0:
                continue
            there = DTYPES[compute].round(value)
            if there == 0 or math.isinf(there):
                raise ValueError(
                    f"{name} = {value!r} is {there} in {compute}, in which this leaf is computed; "
                    "choose a value that it can hold, or a wider dtype"
                )
