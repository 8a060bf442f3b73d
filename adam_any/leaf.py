"""One parameter, its moments and its count: the record that everything else is about."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from . import detect
from .detect import Backend
from .dtypes import DType
from .libraries import Library
from .memory import Extent
from .rule import Rule


@dataclass(slots=True)
class Leaf:
    """One parameter and its state. `index` is its place among all leaves of the tree."""

    index: int
    path: str
    array: Any
    shape: tuple[int, ...]
    backend: Backend
    moments: tuple[Any, ...] = ()
    steps: int = 0

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
        """The number of real numbers of the parameter, and of each moment."""
        return math.prod(self.shape) * (2 if self.dtype.complex else 1)

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
    own = getattr(rule, "start", None)
    if own is None:
        return tuple(library.zeros(p, compute) for _ in rule.moments)
    with library.on(p):
        moments = own(library.namespace(p), library.computable(p, compute))
        return tuple(library.copy(library.array(moment)) for moment in moments)


class Update(NamedTuple):
    """New contents of a leaf that is replaced."""

    leaf: Leaf
    array: Any
    moments: tuple[Any, ...]
