"""The state as a dict: moments and step counts, by path, with the rule that they belong to.

Parameters are the user's, and not in it: its key `params` is False. Everything is copied on the way
out and on the way in, and everything is checked before anything changes.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .. import detect
from .. import rule as rules
from ..check import shape_of
from ..leaf import Leaf
from ..rule import Rule
from ..words import named, shown
from .messages import acceptable, equal, same_names

#: In the first one there were no parameters, and no key for them.
FORMAT = 2

#: The keys of a checkpoint that are about the whole of it, and about the rule.
HEAD = ("format", "params", "rule", "options", "hyperparameters")

#: The largest step count that is loaded: up to it float64, in which coefficients are computed,
#: holds every count. At a million steps a second it takes 285 years.
MOST_STEPS = 2**53


class Restored(NamedTuple):
    """The state of one leaf in a checkpoint, and its parameter, if there is one."""

    leaf: Leaf
    steps: int
    moments: tuple[Any, ...]
    array: Any = None


def to_dict(rule: Rule, leaves: Iterable[Leaf]) -> dict[str, Any]:
    """The state as a dict of plain values and arrays, each copied on its device."""
    state = {}
    for leaf in leaves:
        copies = [leaf.library.copy(moment) for moment in leaf.moments]
        named = dict(zip(rule.moments, copies, strict=True))
        state[leaf.path] = {"step": leaf.steps, **named}
    return {**head(rule, params=False), "state": state}


def from_dict(
    rule: Rule, leaves: Sequence[Leaf], d: Any, hyperparameters: bool = True
) -> tuple[Rule, list[Restored]]:
    """The rule and the leaves' new state, copied out of `d`; ValueError where `d` does not fit.

    Without `hyperparameters` the rule keeps its own.
    """
    if not isinstance(d, Mapping):
        raise ValueError(f"the state is a {type(d).__name__}; pass what state_dict() returned")
    given = current(d)
    state = given.pop("state", None)
    new = restored_rule(rule, given, hyperparameters)
    equal("params", given["params"], False)
    same_names("the state", state, [leaf.path for leaf in leaves])
    return new, [_restore(rule, leaf, state[leaf.path]) for leaf in leaves]


def head(rule: Rule, params: bool) -> dict[str, Any]:
    """A checkpoint but for its arrays and counts, in plain values; schedules are stored as None.

    `params` says whether it has parameters.
    """
    hyperparameters = {
        name: tuple(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
        for name, value in rules.hyperparameters(rule).items()
    }
    values = FORMAT, params, rule_name(rule), rules.options(rule), hyperparameters
    return dict(zip(HEAD, values, strict=True))


def _plain(number: Any) -> Any:
    return None if callable(number) else number


def current(d: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of either format in the present one, in a new dict."""
    older = type(d.get("format")) is int and d["format"] == 1 and "params" not in d
    return {**d, "format": FORMAT, "params": False} if older else {**d}


def restored_rule(rule: Rule, given: Mapping[str, Any], hyperparameters: bool = True) -> Rule:
    """The rule with the hyperparameters of a checkpoint's head, which must be of its kind.

    Without `hyperparameters` it keeps its own.
    """
    equal("keys", sorted(map(str, given)), sorted(HEAD))
    equal("format", given["format"], FORMAT)
    equal("params", type(given["params"]), bool)
    equal("rule", given["rule"], rule_name(rule))
    equal("options", given["options"], rules.options(rule))
    return _with(rule, given["hyperparameters"]) if hyperparameters else rule


def rule_name(rule: Rule) -> str:
    """The name of a rule in a checkpoint: its class's, in lower case."""
    return type(rule).__name__.lower()


def _with(rule: Rule, values: Any) -> Rule:
    mine = rules.hyperparameters(rule)
    same_names("hyperparameters", values, list(mine))
    new = {}
    for name, old in mine.items():
        value = values[name]
        value = tuple(value) if isinstance(value, list) else value
        many = len(old) if isinstance(old, tuple) else 0
        if many and isinstance(value, tuple) and len(value) == many:
            value = tuple(map(_unless_scheduled, value, old))
        elif not many:
            value = old if name == "lr" and value is None else _unless_scheduled(value, old)
        if not _alike(value, old):
            wanted = f"a tuple of {many} numbers" if many else "a number"
            raise ValueError(f"{name} is {shown(value)} in the state; it must be {wanted}")
        new[name] = value
    replaced: Rule = dataclasses.replace(rule, **new)  # type: ignore[type-var]
    return replaced


def _unless_scheduled(value: Any, mine: Any) -> Any:
    """A number of a checkpoint; where there is a schedule here, it stays as constructed."""
    return mine if callable(mine) else value


def _alike(value: Any, mine: Any) -> bool:
    """Return whether values are as many as mine, and each a number of a float, or my schedule."""
    if callable(mine):
        return value is mine
    if isinstance(value, tuple) and isinstance(mine, tuple):
        return len(value) == len(mine) and all(map(_alike, value, mine))
    if isinstance(mine, tuple) or not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _restore(rule: Rule, leaf: Leaf, entry: Any) -> Restored:
    same_names(named(leaf.path), entry, ["step", *rule.moments])
    steps = _count(leaf.path, entry["step"])
    moments = tuple(
        _moment(leaf, name, entry[name], like)
        for name, like in zip(rule.moments, leaf.moments, strict=True)
    )
    return Restored(leaf, steps, moments)


def counts(leaves: Sequence[Leaf], steps: Any) -> list[int]:
    """The step count of each leaf, from counts by path."""
    same_names("steps", steps, [leaf.path for leaf in leaves])
    return [_count(leaf.path, steps[leaf.path]) for leaf in leaves]


def _count(path: str, step: Any) -> int:
    """A step count: an int, or an array of one element, of whatever dtype, that holds one."""
    value = step[0] if shape_of(step) == (1,) else step
    try:
        count = int(value)
        whole = bool(count == value) and 0 <= count <= MOST_STEPS and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(
            f"{named(path)}: step is {shown(step)}; it must be a whole number from 0 to 2**53"
        )
    return count


def _moment(leaf: Leaf, name: str, value: Any, like: Any) -> Any:
    """A copy of a moment of a checkpoint, where the leaf's is; ValueError for one that is odd."""
    dtype, shape = leaf.backend.compute, shape_of(like)
    library = detect.library(value)
    if library is None or detect.is_tracer(value):
        kind = type(value).__name__
        raise ValueError(f"{named(leaf.path)}: {name} is {kind}; it must be {dtype} of {shape}")
    acceptable(leaf.path, library, value, name)
    have = library.dtype(value), shape_of(value)
    if have != (dtype, shape):
        raise ValueError(
            f"{named(leaf.path)}: {name} is {have[0]} of {have[1]}; it must be {dtype} of {shape}"
        )
    mine = detect.library(like)
    near = library is mine and library.device(value) == library.device(like)
    value = library.reals(value)  # without torch's record of how it was computed
    # NumPy's copy would be read-only where the value is; copying through the host is cheap here.
    if near and library.name != "numpy":
        return library.copy(value)
    return leaf.library.from_host(library.to_host(value), like)
