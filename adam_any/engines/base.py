"""What every engine is given, and what it promises.

An engine is a module with two functions and a class:

- `refusal(rule, leaf)` says in words why it cannot take a leaf, or returns None.
- `merit()` says in words what it does for those that it takes.
- `Plan(rule, leaves)` prepares for leaves of one backend what does not change between steps.
- `Plan.current` says whether what it has prepared still holds; if not, plans are made anew.
- `Plan.gather` checks every gradient and raises before anything is written; it changes nothing.
- `Plan.step` runs the rule. Leaves that are written in place are written here, with their moments;
  replaced ones come back as updates, which the optimizer assigns once every plan has succeeded.
- A plan that writes in place, or consumes its moments, says so: it is stepped after all others.
- Gradients are never written, and None among them leaves p and the moments as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..detect import Backend
from ..libraries import Library, row
from ..memory import Extent, Written
from ..rules import Coefficients, Rule


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
        """What its library does in its own way."""
        return row(self.backend.library)

    @property
    def extent(self) -> Extent | None:
        """Where it lies, if its library says."""
        return self.library.extent(self.array)


class Update(NamedTuple):
    """What a leaf becomes."""

    leaf: Leaf
    array: Any
    moments: tuple[Any, ...]


class Plan(Protocol):
    """The leaves of one backend, ready to be stepped."""

    #: All of one backend.
    leaves: Sequence[Leaf]

    def current(self) -> bool:
        """Whether the parameters still lie where they lay when it was made."""
        ...

    #: Whether a step overwrites or consumes what it starts from, so that it cannot be undone.
    in_place: bool

    def gather(self, grads: Sequence[Any], written: Written) -> Sequence[Any]:
        """The gradients of this plan's leaves, None for those to skip, from those of all leaves.

        An int stands for the address of one that is read where it lies.
        """
        ...

    def step(self, rule: Rule, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Update every leaf that has a gradient."""
        ...


class Engine(Protocol):
    """A module of this package."""

    def refusal(self, rule: Rule, leaf: Leaf) -> str | None:
        """Why the engine cannot take the leaf, or None."""
        ...

    def merit(self) -> str:
        """What it does for the leaves that it takes."""
        ...

    def Plan(self, rule: Rule, leaves: Sequence[Leaf]) -> Plan:  # noqa: N802 (a class there)
        """Prepare for these leaves."""
        ...
