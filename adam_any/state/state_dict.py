"""The state as a dict: moments and step counts, by path, with the rule that they belong to.

Parameters are the user's, and not in it. Everything is copied on the way out and on the way in, and
everything is checked before anything changes.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .. import rule as rules
from ..check import shape_of
from ..detect import backend, load
from ..leaf import Leaf
from ..rule import Rule
from ..words import named

FORMAT = 1

#: The keys of a checkpoint that are about the rule.
HEAD = ("format", "rule", "options", "hyperparameters")


class Restored(NamedTuple):
    """The state of one leaf in a checkpoint."""

    leaf: Leaf
    steps: int
    moments: tuple[Any, ...]


def to_dict(rule: Rule, leaves: Iterable[Leaf]) -> dict[str, Any]:
    """The state as a dict of plain values and arrays, each copied on its device."""
    state = {}
    for leaf in leaves:
        copies = [leaf.library.copy(moment) for moment in leaf.moments]
        named = dict(zip(rule.moments, copies, strict=True))
        state[leaf.path] = {"step": leaf.steps, **named}
    return {**head(rule), "state": state}


def from_dict(rule: Rule, leaves: Sequence[Leaf], d: Any) -> tuple[Rule, list[Restored]]:
    """The rule and the leaves' new state, copied out of `d`; ValueError where `d` does not fit."""
    if not isinstance(d, Mapping):
        raise ValueError(f"the state is a {type(d).__name__}; pass what state_dict() returned")
    _equal("keys", sorted(map(str, d)), sorted([*HEAD, "state"]))
    new = restored_rule(rule, {name: d[name] for name in HEAD})
    same_names("the state", d["state"], [leaf.path for leaf in leaves])
    return new, [_restore(rule, leaf, d["state"][leaf.path]) for leaf in leaves]


def head(rule: Rule) -> dict[str, Any]:
    """The part of a checkpoint about the rule, in plain values; schedules are stored as None."""
    hyperparameters = {
        name: None if callable(value) else value
        for name, value in rules.hyperparameters(rule).items()
    }
    return dict(
        zip(HEAD, (FORMAT, rule_name(rule), rules.options(rule), hyperparameters), strict=True)
    )


def restored_rule(rule: Rule, given: Mapping[str, Any]) -> Rule:
    """The rule with the hyperparameters of a checkpoint's head, which must be of its kind."""
    _equal("keys", sorted(given), sorted(HEAD))
    _equal("format", given["format"], FORMAT)
    _equal("rule", given["rule"], rule_name(rule))
    _equal("options", given["options"], rules.options(rule))
    return _with(rule, given["hyperparameters"])


def rule_name(rule: Rule) -> str:
    """The name of a rule in a checkpoint: its class's, in lower case."""
    return type(rule).__name__.lower()


def _with(rule: Rule, values: Any) -> Rule:
    mine = rules.hyperparameters(rule)
    same_names("hyperparameters", values, list(mine))
    new = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    if "lr" in mine and (new["lr"] is None or callable(mine["lr"])):
        del new["lr"]  # a schedule cannot be saved, and stays as constructed
    for name, value in new.items():
        if not _alike(value, mine[name]):
            many = len(mine[name]) if isinstance(mine[name], tuple) else 0
            wanted = f"a tuple of {many} numbers" if many else "a number"
            raise ValueError(f"{name} is {value!r} in the state; it must be {wanted}")
    replaced: Rule = dataclasses.replace(rule, **new)  # type: ignore[type-var]
    return replaced


def _alike(value: Any, mine: Any) -> bool:
    """Whether both are numbers that a float can hold, or tuples of as many of them."""
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
        whole = bool(count == value) and 0 <= count < 2**63 and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"{named(path)}: step is {step!r}; it must be a whole number, 0 or more")
    return count


def _moment(leaf: Leaf, name: str, value: Any, like: Any) -> Any:
    facts = backend(value)
    want = leaf.backend.compute, shape_of(like)
    if facts is None or (facts.dtype, shape_of(value)) != want:
        have = type(value).__name__ if facts is None else f"{facts.dtype} of {shape_of(value)}"
        raise ValueError(f"{named(leaf.path)}: {name} is {have}; it must be {want[0]} of {want[1]}")
    mine = backend(like)
    near = mine is not None and (facts.library, facts.device) == (mine.library, mine.device)
    # NumPy's copy would be read-only where the value is; copying through the host is cheap here.
    if near and facts.library != "numpy":
        return leaf.library.copy(value)
    return leaf.library.from_host(load(facts.library).to_host(value), like)


def _equal(what: str, have: Any, want: Any) -> None:
    if have != want:
        raise ValueError(f"{what} is {have!r} in the state; this optimizer needs {want!r}")


def same_names(where: str, given: Any, wanted: list[str]) -> None:
    """Raise ValueError unless `given` is a mapping with just the names that are wanted."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: it is a {type(given).__name__}; it must be a dict")
    known = set(wanted)
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in known]
    if missing or extra:
        raise ValueError(f"{where}: missing {missing}, not known {extra}; the names must be equal")
