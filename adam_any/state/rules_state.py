"""Rules in a checkpoint, as plain values, and what is taken from there.

A rule is its name, options and hyperparameters, and under `held` the rule that it holds; rules by
path are under `groups`. Fields that a rule names in `newer` have their default where an older
checkpoint lacks them. A schedule of `schedules` is plain values, too; any other is None, and
stays as constructed. Arrays are not saved: an optimizer must be constructed with them, and a
checkpoint says where it had one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import rule as rules
from .. import schedules
from ..rule import held, is_number, range_of
from ..words import shown
from .messages import equal, same_names

#: What stands for an array field.
ARRAY = "array"


def plain(spec: Any) -> dict[str, Any]:
    """Rules as plain values."""
    if isinstance(spec, Mapping):
        return {"groups": {key: None if x is None else _plain(x) for key, x in spec.items()}}
    return _plain(spec)


def _plain(rule: Any) -> dict[str, Any]:
    fields = {field.name: field for field, _ in rules.items(rule)}
    found = {
        "rule": name(rule),
        "options": rules.options(rule),
        "hyperparameters": {
            key: ARRAY
            if rules.is_spread(fields[key], value)
            else tuple(map(_number, value))
            if isinstance(value, tuple)
            else _number(value)
            for key, value in rules.hyperparameters(rule).items()
        },
    }
    inner = held(rule)
    return found if inner is None else {**found, "held": _plain(inner)}


def _number(x: Any) -> Any:
    return schedules.to_plain(x) if callable(x) else x


def name(rule: Any) -> str:
    """The name of a rule in a checkpoint: its class's, in lower case."""
    return type(rule).__name__.lower()


def restored(spec: Any, given: Mapping[str, Any], hyperparameters: bool) -> Any:
    """The rules with the hyperparameters of a checkpoint, or with their own.

    Raises ValueError where the checkpoint is of others.
    """
    if not isinstance(spec, Mapping):
        return _restored("", spec, given, hyperparameters)
    groups = given["groups"]
    same_names("the rules in the state", groups, list(spec))
    new = {}
    for key, rule in spec.items():
        if (rule is None) != (groups[key] is None):
            raise ValueError(f"rule {key!r} is frozen here or in the state, but not in both")
        if rule is not None:
            keys = sorted(_plain(rule))
            equal(f"rule {key!r}: keys", sorted(map(str, groups[key])), keys)
            rule = _restored(f"rule {key!r}: ", rule, groups[key], hyperparameters)
        new[key] = rule
    return new


def _restored(at: str, rule: Any, given: Mapping[str, Any], hyperparameters: bool) -> Any:
    equal(f"{at}rule", given["rule"], name(rule))
    options, values = _completed(rule, given["options"], given["hyperparameters"])
    equal(f"{at}options", options, rules.options(rule))
    new: dict[str, Any] = {}
    if hyperparameters:
        mine = rules.hyperparameters(rule)
        same_names(f"{at}hyperparameters", values, list(mine))
        fields = {field.name: field for field, _ in rules.items(rule)}
        new = {key: _value(at, fields[key], mine[key], values[key]) for key in mine}
    inner = held(rule)
    if inner is not None:
        held_state = given.get("held")
        if not isinstance(held_state, Mapping):
            raise ValueError(f"{at}held is {shown(held_state)} in the state; it must be a dict")
        equal(f"{at}keys", sorted(map(str, held_state)), sorted(_plain(inner)))
        new["rule"] = _restored(at, inner, held_state, hyperparameters)
    return rules.replaced(rule, new)


def _completed(rule: Any, options: Any, values: Any) -> tuple[Any, Any]:
    """Options and hyperparameters, with those that are newer than a checkpoint that has none."""
    names = getattr(rule, "newer", ())
    if not (isinstance(options, Mapping) and isinstance(values, Mapping)):
        return options, values
    if any(name in options or name in values for name in names):
        return options, values
    newer = {field.name: field.default for field, _ in rules.items(rule) if field.name in names}
    mine = rules.options(rule)
    return (
        {**options, **{name: x for name, x in newer.items() if name in mine}},
        {**values, **{name: x for name, x in newer.items() if name not in mine}},
    )


def _value(at: str, field: Any, mine: Any, value: Any) -> Any:
    """A field as the checkpoint has it; my own schedule or array where it has none."""
    value = tuple(value) if isinstance(value, list) else value
    spread = rules.is_spread(field, mine)
    if spread or value == ARRAY:
        if spread and value == ARRAY:
            return mine
        there, here = ("an array", "none") if value == ARRAY else ("none", "an array")
        raise ValueError(
            f"{at}{field.name} is {there} in the state, and {here} here; construct the optimizer "
            "with the same kind of field, since a state does not hold arrays"
        )
    if isinstance(mine, tuple):
        if isinstance(value, tuple) and len(value) == len(mine):
            return tuple(_one(at, field, x, y) for x, y in zip(mine, value, strict=True))
        wanted = f"a tuple of {len(mine)} numbers"
    elif isinstance(value, tuple):
        wanted = "a number"
    else:
        return _one(at, field, mine, value)
    raise ValueError(f"{at}{field.name} is {shown(value)} in the state; it must be {wanted}")


def _one(at: str, field: Any, mine: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        try:
            return schedules.from_plain(value)
        except ValueError as error:
            raise ValueError(f"{at}{field.name} in the state: {error}") from None
    if callable(mine) or (value is None and (mine is None or field.name == "lr")):
        return mine
    if is_number(value) and range_of(field).admits(value):
        return int(value) if range_of(field).whole else float(value)
    raise ValueError(f"{at}{field.name} is {shown(value)} in the state; it must be a number")
