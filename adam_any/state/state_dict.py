"""The state as a dict: moments and step counts, by path, with the rule that they belong to.

Parameters are the user's, and not in it: its key `params` is False. Everything is copied on the way
out and on the way in, and everything is checked before anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import detect
from ..check import shape_of
from ..leaf import Leaf
from ..rule import Rule
from ..words import named, shown
from . import rules_state
from .messages import acceptable, equal, same_names

if TYPE_CHECKING:
    from ..contents import Contents

#: In the first one there were no parameters, and no key for them.
FORMAT = 2

#: The keys of a checkpoint that are about the whole of it; those about the rules are in `rules`.
HEAD = ("format", "params")

#: The largest step count that is loaded: up to it float64, in which coefficients are computed,
#: holds every count. At a million steps a second it takes 285 years.
MOST_STEPS = 2**53


class Restored(NamedTuple):
    """The state of one leaf in a checkpoint, and its parameter, if there is one."""

    leaf: Leaf
    steps: int
    moments: tuple[Any, ...]
    array: Any = None


def to_dict(contents: Contents) -> dict[str, Any]:
    """The state as a dict of plain values and arrays, each copied on its device."""
    state = {}
    for leaf in contents.leaves:
        library = leaf.library
        copies = [library.whole(leaf.array, library.array(library.copy(x))) for x in leaf.moments]
        named = dict(zip(contents.kind(leaf).rule.moments, copies, strict=True))
        state[leaf.path] = {"step": leaf.steps, **named}
    return {**head(contents.rule, params=False), "state": state}


def from_dict(
    contents: Contents, d: Any, hyperparameters: bool = True
) -> tuple[Any, list[Restored]]:
    """The rules and the leaves' new state, copied out of `d`; ValueError where `d` does not fit.

    Without `hyperparameters` the rules keep their own.
    """
    if not isinstance(d, Mapping):
        raise ValueError(f"the state is a {type(d).__name__}; pass what state_dict() returned")
    given, leaves = current(d), contents.leaves
    state = given.pop("state", None)
    new = restored_rule(contents.rule, given, hyperparameters)
    equal("params", given["params"], False)
    same_names("the state", state, [leaf.path for leaf in leaves])
    return new, [_restore(contents.kind(leaf).rule, leaf, state[leaf.path]) for leaf in leaves]


def head(rule: Any, params: bool) -> dict[str, Any]:
    """A checkpoint but for its arrays and counts, in plain values.

    `params` says whether it has parameters.
    """
    return {"format": FORMAT, "params": params, **rules_state.plain(rule)}


def current(d: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of either format in the present one, in a new dict."""
    older = type(d.get("format")) is int and d["format"] == 1 and "params" not in d
    return {**d, "format": FORMAT, "params": False} if older else {**d}


def restored_rule(rule: Any, given: Mapping[str, Any], hyperparameters: bool = True) -> Any:
    """The rules with the hyperparameters of a checkpoint's head, which must be of their kind.

    Without `hyperparameters` they keep their own.
    """
    wanted = rules_state.plain(rule)
    equal("keys", sorted(map(str, given)), sorted([*HEAD, *wanted]))
    equal("format", given["format"], FORMAT)
    equal("params", type(given["params"]), bool)
    return rules_state.restored(rule, given, hyperparameters)


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
    dtype, shape = leaf.backend.compute, leaf.shape + (2,) * leaf.dtype.complex
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
    mine, like = leaf.library, leaf.library.whole(leaf.array, like)
    near = library is detect.library(like) and library.device(value) == library.device(like)
    # NumPy's copy would be read-only where the value is; copying through the host is cheap here.
    if near and library.name != "numpy":
        new = library.copy(library.reals(mine.beside(leaf.array, value)))
    else:
        new = mine.from_host(library.to_host(value), like)
    return mine.part(new)
