"""One parameter, its moments and its count: the record that everything else is about."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from . import detect
from .detect import Backend
from .dtypes import DType, name_of
from .libraries import Library
from .memory import Extent
from .rule import Rule, chain
from .words import a
from .wrapper import Wrapper, started


@dataclass(slots=True)
class Leaf:
    """One parameter and its state."""

    #: Its place among all leaves of the tree.
    index: int
    path: str
    array: Any
    shape: tuple[int, ...]
    backend: Backend
    moments: tuple[Any, ...] = ()
    steps: int = 0
    #: Its rule, by the index of its kind.
    kind: int = 0
    #: The array fields of its rule, by their paths: like moments, but never written.
    operands: dict[str, Any] = field(default_factory=dict)

    @property
    def library(self) -> Library:
        """All that is known of its library."""
        return detect.load(self.backend.library)

    @property
    def dtype(self) -> DType:
        """All that is known of its dtype."""
        return self.backend.facts

    @property
    def extent(self) -> Extent | None:
        """Its memory, if its library says."""
        return self.library.extent(self.array)

    @property
    def reals(self) -> int:
        """The number of real numbers of the parameter, and of each moment, that are held here."""
        return self.library.elements(self.array) * (2 if self.dtype.complex else 1)

    def copy(self, rule: Rule, lost: bool) -> Leaf:
        """The same state in memory of its own; where moments are lost, those of the start."""
        copied = self.library.copy
        moments = start(rule, self.backend.compute, self.array) if lost else self.moments
        return dataclasses.replace(
            self, array=copied(self.array), moments=tuple(map(copied, moments))
        )


def start(rule: Rule, compute: str, p: Any) -> tuple[Any, ...]:
    """The moments of a parameter before its first step: the rule's own, or else zeros."""
    library = cast(Library, detect.library(p))
    if all(_starts_at_zero(level) for _, level in chain(rule)):
        return tuple(library.zeros(p, compute) for _ in rule.moments)
    with library.on(p):
        like = library.computable(p, compute)
        moments = started(rule, library.namespace(p), like)
        _check_start(rule, like, moments)
        return tuple(library.copy(library.array(moment)) for moment in moments)


def _starts_at_zero(rule: Any) -> bool:
    """Return whether a rule leaves the start of its own moments to us."""
    if isinstance(rule, Wrapper):
        return type(rule).begin is Wrapper.begin and type(rule).start is Wrapper.start
    return not hasattr(rule, "start")


def _check_start(rule: Rule, like: Any, moments: Any) -> None:
    """Raise ValueError unless a rule starts with its moments, each like its parameter."""
    name, names = type(rule).__name__, rule.moments
    number = len(moments) if isinstance(moments, tuple) else None
    if number != len(names):
        have = a(type(moments)) if number is None else f"a tuple of {number}"
        raise ValueError(
            f"the rule {name} returns {have} from start; it must return a tuple of {len(names)}: "
            f"{', '.join(names)}"
        )
    want = like.shape, name_of(like.dtype), detect.library(like)
    for moment, x in zip(names, moments, strict=True):
        array = hasattr(x, "shape") and hasattr(x, "dtype")
        if not array or (x.shape, name_of(x.dtype), detect.library(x)) != want:
            have = f"{name_of(x.dtype)} of {x.shape}" if array else a(type(x))
            raise ValueError(
                f"the rule {name} returns {have} as {moment} from start; it must be an array like "
                f"the one given, {want[1]} of {want[0]}"
            )


class Update(NamedTuple):
    """New contents of a leaf that is replaced."""

    leaf: Leaf
    array: Any
    moments: tuple[Any, ...]
