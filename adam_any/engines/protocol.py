"""The protocol of an engine: its arguments, and its promises.

An engine is a module with three functions and a class:

- `refusal(traced, leaf)` says in words why it cannot take a leaf, or returns None.
- `summary(leaf)` describes in words how it runs a leaf that it takes.
- `key(traced, leaf)` is equal for leaves of one backend that may share a plan.
- `Plan(traced, leaves)` prepares for leaves of one backend what does not change between steps.
- `Plan.current` says whether what it has prepared still holds; if not, plans are made anew.
- `Plan.gather` checks every gradient and raises before anything is written; it changes nothing.
- `Plan.add` adds terms over each leaf, for rules that ask for sums.
- `Plan.step` runs the rule. Leaves that are written in place are written here, with their moments;
  replaced ones come back as updates, which the optimizer assigns once every plan has succeeded.
- `Plan.finish` is asked about a step that was interrupted.
- A plan that writes in place, or consumes its moments, says so: it is stepped after all others.
- `QuickPlan.look` and `launch` are the two halves of a step like the one before (`short_way`).
- Gradients are never written, and None among them leaves p and the moments as they are.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from ..coefficients import Coefficients
from ..leaf import Leaf, Update
from ..memory import Written
from .kernels.program import Traced


class Unfinished(Enum):
    """The progress of an interrupted call of a plan."""

    UNTOUCHED = "nothing has been written"
    HALF = "a part has been written"


def unfinished(number: int, begun: int, done: int) -> Unfinished | None:
    """The progress of a launch, from the numbers of those that begun and were done last.

    None if it is done.
    """
    if done == number:
        return None
    return Unfinished.HALF if begun == number else Unfinished.UNTOUCHED


class Plan(Protocol):
    """The leaves of one backend, ready to be stepped."""

    #: All of one backend.
    leaves: Sequence[Leaf]

    def current(self) -> bool:
        """Return whether the parameters are where they were when it was made, and mean the same."""
        ...

    #: Whether a step overwrites or consumes what it starts from, so that it cannot be undone.
    in_place: bool

    #: Whether it adds the terms of its leaves itself, in a step, where no others are in the sums.
    adds_inside: bool

    def gather(self, grads: Sequence[Any], written: Written) -> Sequence[Any]:
        """For each leaf of the plan, None or what `step` needs of its gradient.

        That is the engine's own: nobody else may look into it.
        """
        ...

    def add(
        self, finite: bool, c: Coefficients, grads: Sequence[Any]
    ) -> list[Sequence[float] | None]:
        """For each leaf of which something was gathered the sums of `Traced.terms(finite)`."""
        ...

    def step(self, number: int, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Update every leaf of which something was gathered. No two calls have the same number."""
        ...

    def finish(self, number: int) -> list[Update] | Unfinished:
        """The updates of the call of this number, if it is done or can be completed now.

        Otherwise its progress.
        """
        ...


class Takes(NamedTuple):
    """The scalars that a launch takes: coefficients, by path, and behind them constants."""

    paths: Sequence[str]
    constants: Sequence[float] = ()


class QuickPlan(Plan, Protocol):
    """A plan that can do a step like the one before it the short way."""

    takes: Takes

    def look(self, grads: Sequence[Any]) -> Sequence[Any] | None:
        """For each leaf of the plan what `launch` needs of its gradient, from those of all leaves.

        None for a doubt: a parameter is not what it was, or a gradient cannot be read in place.
        """
        ...

    def launch(
        self, number: int, scalars: Sequence[float], gradients: Sequence[Any]
    ) -> list[Update]:
        """Update every leaf of which something was found, 0 being nothing; it does not fail.

        The scalars are not rounded yet, and small enough to be.
        """
        ...


class Engine(Protocol):
    """A module of this package."""

    def refusal(self, traced: Traced, leaf: Leaf) -> str | None:
        """The reason why the engine cannot take the leaf, or None."""
        ...

    def summary(self, leaf: Leaf) -> str:
        """A line for `explain()` about how the engine runs a leaf."""
        ...

    def key(self, traced: Traced, leaf: Leaf) -> Hashable:
        """A key that is equal for leaves of one backend that may be in one plan."""
        ...

    def Plan(self, traced: Traced, leaves: Sequence[Leaf]) -> Plan:  # noqa: N802 (a class there)
        """Prepare for these leaves."""
        ...
