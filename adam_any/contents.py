"""The contents of an optimizer: its rule, its leaves, and the plans that step them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import check, engines
from . import rule as rules
from .engines.protocol import Plan
from .leaf import Leaf
from .memory import Written
from .rule import Coefficients, Rule

#: One call of a plan: the plan, the coefficients, what it gathered, and which of its leaves.
Turn = tuple[Plan, Coefficients, Any, list[int] | None]


class Contents:
    """What an optimizer works on: replaced as a whole, by one assignment.

    Raises ValueError for leaves that share memory, or a number that a compute dtype cannot hold.
    """

    __slots__ = ("_at", "_plans", "leaves", "rule", "torn", "written")

    def __init__(self, rule: Rule, leaves: list[Leaf]) -> None:
        self.leaves = leaves
        self.written = _written(leaves)
        self.torn = False
        self._plans: list[Plan] | None = None
        self.set_rule(rule)

    def set_rule(self, rule: Rule) -> None:
        """Take a rule that differs in its learning rate."""
        for compute in ("float32", "float64"):
            leaf = next((x for x in self.leaves if x.backend.compute == compute), None)
            if leaf is not None:
                try:
                    rules.representable(rule, compute)
                except ValueError as error:
                    raise ValueError(f"{leaf.path!r}: {error}") from None
        self.rule = rule
        self._at: Callable[[int], Rule] = rules.at(rule)

    def with_arrays(self, arrays: Sequence[Any]) -> Contents:
        """The same moments and counts, with other parameters, by index."""
        new = Contents(self.rule, [_replaced(leaf, arrays[leaf.index]) for leaf in self.leaves])
        new.torn = self.torn
        return new

    def current_plans(self, engine: str | None) -> list[Plan]:
        """The plans; made anew if there are none, or a parameter has changed under its own name, as
        after `model.half()`."""
        if self._plans is None or not all(plan.current() for plan in self._plans):
            self._plans = None
            self.leaves = [_replaced(leaf, leaf.array) for leaf in self.leaves]  # checks everything
            self.written = _written(self.leaves)
            self._plans = engines.plans(self.rule, self.leaves, engine)
        return self._plans

    def turns(self, plan: Plan, gathered: Any, grads: Sequence[Any]) -> list[Turn]:
        """One call of the plan for each step count among its leaves; almost always there is one."""
        counts = {leaf.steps for leaf in plan.leaves if grads[leaf.index] is not None}
        turns: list[Turn] = []
        for count in sorted(counts):
            c = rules.rounded(self._at(count), count + 1, plan.leaves[0].backend.compute)
            which = None
            if len(counts) > 1:
                which = [k for k, leaf in enumerate(plan.leaves) if leaf.steps == count]
            turns.append((plan, c, gathered, which))
        return turns


def leaf_of(index: int, path: str, x: Any) -> Leaf:
    """A leaf without moments; TypeError or ValueError for what is not accepted as a parameter."""
    facts = check.parameter(path, x)  # before anything else is asked of it
    return Leaf(index, path, x, check.shape_of(x), facts)


def _replaced(leaf: Leaf, x: Any) -> Leaf:
    """The leaf with another array, checked."""
    facts = check.replacement(leaf.path, leaf.backend, leaf.shape, x)
    x = float(x) if facts.library == "python" else x
    return dataclasses.replace(leaf, array=x, backend=facts)


def _written(leaves: Iterable[Leaf]) -> Written:
    located = ((leaf.path, leaf.extent, leaf.backend.writable) for leaf in leaves)
    return Written([(path, at, written) for path, at, written in located if at is not None])
