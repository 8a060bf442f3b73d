"""The rule of each leaf: keys matched with paths.

Where an optimizer takes a rule it also takes a mapping from paths to rules. An exact path wins;
else exactly one glob must match, to which `*` alone yields; None freezes. A leaf without a match,
one with two, and a key that matches nothing are refused.

Leaves whose rules are equal, when array fields have been given out to them (`operands`), have one
`Kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple

from . import rule as rules
from .coefficients import at
from .engines.kernels.program import Traced
from .leaf import Leaf
from .operands import spread
from .rule import Rule, chain, held, innermost, replaced
from .words import few, named, shown

#: One rule for all leaves, or rules by path.
Spec = Rule | Mapping[str, Rule | None]

#: The key of the only group where there is one rule.
ALL = "*"


@dataclass(frozen=True)
class Frozen:
    """The rule of a leaf that is never stepped."""

    moments: ClassVar[tuple[str, ...]] = ()

    def coefficients(self, t: int) -> dict[str, float]:
        """No coefficients."""
        return {}

    def update(self, xp: Any, c: Any, p: Any, g: Any) -> tuple[Any, ...]:
        """The parameter as it is."""
        return (p,)


class Kind(NamedTuple):
    """The properties that the leaves of one group and rule have in common."""

    key: str
    rule: Rule
    #: The rule as plans are made of it, whatever its learning rate.
    traced: Traced
    #: The rule with schedules evaluated, after so many updates.
    at: Callable[[int], Rule]
    #: Whether its leaves are never stepped.
    frozen: bool


def kind_of(rule: Any, key: str = ALL) -> Kind:
    """A kind of its own for a valid rule."""
    return Kind(key, rule, Traced(rule), at(rule), isinstance(rule, Frozen))


class Place(NamedTuple):
    """The kind of a leaf, by its index, and the leaf's operands by the paths of their fields."""

    kind: int
    operands: dict[str, Any]


def validated(spec: Any) -> Any:
    """The rule, or the rules by key, each valid; TypeError or ValueError where one is not."""
    if not isinstance(spec, Mapping):
        return rules.validated(spec)
    if not spec:
        raise ValueError("the mapping of rules is empty; give every parameter a rule, or None")
    new = {}
    for key, rule in spec.items():
        if not isinstance(key, str):
            raise TypeError(f"a key of the rules is {shown(key)}; it must be a path or a glob")
        try:
            new[key] = None if rule is None else rules.validated(rule)
        except (TypeError, ValueError) as error:
            raise type(error)(f"rule {key!r}: {error}") from None
    return new


def by_key(spec: Any) -> dict[str, Any]:
    """The rules by key."""
    return dict(spec) if isinstance(spec, Mapping) else {ALL: spec}


def moments(spec: Any) -> list[str]:
    """The names of all moments of rules, each once."""
    rules_ = (rule for rule in by_key(spec).values() if rule is not None)
    return list(dict.fromkeys(name for rule in rules_ for name in rule.moments))


def keys_of(spec: Any, paths: Sequence[str]) -> list[str]:
    """The key of each path."""
    if not isinstance(spec, Mapping):
        return [ALL] * len(paths)
    found = [_key(spec, path) for path in paths]
    unused = [key for key in spec if key not in set(found)]
    if unused:
        raise ValueError(
            f"the rules have keys that match no parameter: {few(unused)}; the paths are "
            f"{few(list(paths))}"
        )
    return found


def _key(spec: Mapping[str, Any], path: str) -> str:
    if path in spec:
        return path
    matches = [key for key in spec if key != ALL and fnmatchcase(path, key)]
    if len(matches) > 1:
        raise ValueError(
            f"{named(path)}: the rules {few(matches)} match it; give it a key of its own"
        )
    if not matches and ALL not in spec:
        raise ValueError(
            f"{named(path)}: no rule matches it; the keys are {few(list(spec))}; add its path with "
            "a rule, or None to freeze it, or '*' for all others"
        )
    return matches[0] if matches else ALL


def assign(
    spec: Any, leaves: Sequence[Leaf], *, look: bool = True
) -> tuple[list[Kind], list[Place]]:
    """The kinds, and the place of each leaf; ValueError or TypeError for what does not fit.

    Where `look`, arrays are looked at for numbers that may not be there.
    """
    keys = keys_of(spec, [leaf.path for leaf in leaves])
    kinds: list[Kind] = []
    places: dict[int, Place] = {}
    for key, rule in by_key(spec).items():
        group = [leaf for leaf, mine in zip(leaves, keys, strict=True) if mine == key]
        made: list[tuple[Rule, int]] = []
        for leaf, (own, operands) in zip(group, spread(rule or Frozen(), group, look), strict=True):
            index = next((i for other, i in made if other is own or other == own), None)
            if index is None:
                index = len(kinds)
                kinds.append(kind_of(own, key))
                made.append((own, index))
            places[leaf.index] = Place(index, operands)
    return kinds, [places[leaf.index] for leaf in leaves]


# Changes -----------------------------------------------------------------------------------------


def check_alike(old: Any, new: Any) -> None:
    """Raise ValueError unless rules have the same keys, classes and options as those before."""
    mine, theirs = by_key(old), by_key(new)
    if mine.keys() != theirs.keys() or isinstance(old, Mapping) != isinstance(new, Mapping):
        raise ValueError(f"the rules have the keys {few(list(theirs))}, not {few(list(mine))}")
    for key, rule in mine.items():
        levels = [list(chain(x)) for x in (rule, theirs[key])]
        shapes = [[(type(x), rules.options(x)) for _, x in level] for level in levels]
        if shapes[0] != shapes[1]:
            at = f"rule {key!r}: " if isinstance(old, Mapping) else ""
            have, want = (shown(rules.without_arrays(x)) for x in (theirs[key], rule))
            raise ValueError(
                f"{at}the new rule is {have}; its classes and options must be those of {want}: "
                "only numbers, schedules and arrays can be set"
            )


def rate(spec: Any) -> Any:
    """The learning rate of a rule; of several, where they differ, by key."""
    if not isinstance(spec, Mapping):
        return innermost(spec).lr
    rates = {key: innermost(x).lr for key, x in spec.items() if x is not None}
    first, *others = rates.values()
    return rates if any(x != first for x in others) else first


def with_rate(spec: Any, lr: Any) -> Any:
    """The rules with another learning rate, for all of them or by key."""
    if not isinstance(spec, Mapping):
        return _with_rate(spec, lr)
    rates = lr if isinstance(lr, Mapping) else {key: lr for key, x in spec.items() if x is not None}
    if unknown := [key for key in rates if spec.get(key) is None]:
        raise ValueError(f"lr has the keys {few(unknown)}, which have no rule")
    return {key: _with_rate(x, rates[key]) if key in rates else x for key, x in spec.items()}


def _with_rate(rule: Any, lr: Any) -> Any:
    inner = held(rule)
    if inner is not None:
        return replaced(rule, {"rule": _with_rate(inner, lr)})
    getattr(rule, "lr")  # noqa: B009 (a rule may have none)
    return replaced(rule, {"lr": lr})
