"""The contents of an optimizer: its rule, its leaves, its plans, and the change under way."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from operator import is_
from typing import Any

from . import check, engines
from . import rule as rules
from .engines.kernels.program import Traced
from .engines.protocol import Plan
from .journal import Assignment, Change, Step, Turn
from .leaf import Leaf
from .memory import Written
from .rule import Rule
from .words import named


class Contents:
    """The state of an optimizer, which is replaced as a whole, by one assignment.

    Raises ValueError for leaves that share memory, or a number that a compute dtype cannot hold.
    """

    __slots__ = (
        "_at",
        "_change",
        "_number",
        "_plans",
        "leaves",
        "rule",
        "torn",
        "traced",
        "written",
    )

    def __init__(
        self, rule: Rule, leaves: list[Leaf], values: Sequence[tuple[Leaf, Any]] = ()
    ) -> None:
        """Leaves with their state; `settle` writes `values` into those that can be written."""
        self.leaves = leaves
        self.written = _written(leaves)
        #: The rule as plans are made of it, whatever its learning rate.
        self.traced = Traced(rule)
        #: Whether a step was interrupted in its middle: parameters and moments do not fit together.
        self.torn = False
        self._change: Change | None = Assignment(values) if values else None
        self._plans: list[Plan] | None = None
        self._number = 0
        self._set_rule(rule)

    def _set_rule(self, rule: Rule) -> None:
        self.rule = rule
        self._at: Callable[[int], Rule] = rules.at(rule)
        for compute in ("float32", "float64"):
            leaf = next((x for x in self.leaves if x.backend.compute == compute), None)
            if leaf is not None:
                try:
                    rules.representable(rule, compute)
                except ValueError as error:
                    raise ValueError(f"{named(leaf.path)}: {error}") from None

    def with_rate(self, rule: Rule) -> Contents:
        """The same leaves, with a rule that differs in its learning rate: plans serve every one."""
        new = copy.copy(self)
        new._set_rule(rule)
        return new

    def with_arrays(self, arrays: Sequence[Any]) -> Contents:
        """The same moments and counts, with other parameters, by index.

        Arrays that can be written keep their place: `settle` writes the new numbers there.
        """
        leaves, values = [], []
        for leaf in self.leaves:
            x = arrays[leaf.index]
            own = _with_array(leaf, leaf.array)
            new = _with_array(own, x)
            if own.backend.writable:
                new = leaf if own.backend == leaf.backend else own
                if x is not leaf.array:
                    extent = leaf.library.extent(x)
                    if extent is not None and self.written.spoils(extent, None):
                        x = leaf.library.copy(x)
                    values.append((new, x))
            leaves.append(new)
        if all(map(is_, leaves, self.leaves)):  # so the plans hold, too
            contents = copy.copy(self)
            contents._change = Assignment(values)
            return contents
        contents = Contents(self.rule, leaves, values)
        contents.torn, contents._number = self.torn, self._number
        return contents

    def current_plans(self, engine: str | None) -> list[Plan]:
        """The plans, made anew if there are none or a parameter has changed under its own name.

        It has after `model.half()`, for example.
        """
        plans = self._plans
        if plans is not None and all([plan.current() for plan in plans]):
            return plans
        self._plans = None
        self.leaves = [_with_array(leaf, leaf.array) for leaf in self.leaves]
        self.written = _written(self.leaves)
        self._plans = engines.plans(self.traced, self.leaves, engine)
        return self._plans

    def copy(self) -> Contents:
        """The same state in memory of its own; moments that an interruption lost begin anew."""
        new = Contents(self.rule, [leaf.copy(self.rule, self.torn) for leaf in self.leaves])
        new.torn = self.torn
        return new

    def turns(self, plan: Plan, gathered: Sequence[Any], grads: Sequence[Any]) -> list[Turn]:
        """One call of the plan for each step count among its leaves; almost always there is one."""
        counts = {leaf.steps for leaf in plan.leaves if grads[leaf.index] is not None}
        turns = []
        for count in sorted(counts):
            c = rules.rounded(self._at(count), count + 1, plan.leaves[0].backend.compute)
            mine = gathered
            if len(counts) > 1:
                pairs = zip(plan.leaves, gathered, strict=True)
                mine = [g if leaf.steps == count else None for leaf, g in pairs]
            turns.append(Turn(plan, c, mine))
        return turns

    def step(self, turns: Sequence[Turn], grads: Sequence[Any]) -> None:
        """Make all calls, and count the step of each leaf that has a gradient."""
        counted = [leaf for leaf in self.leaves if grads[leaf.index] is not None]
        step = Step(self._number + 1, turns, counted)
        self._number += len(turns)
        self._change = step
        try:
            step.run()
        finally:
            self.settle()

    def settle(self) -> None:
        """Complete the change under way, if there is one, or drop it."""
        try:
            self._settle()
        finally:
            self._settle()  # where an interruption came in between

    def _settle(self) -> None:
        if self._change is not None:
            if not self._change.settle():
                self.torn = True
            self._change = None


def leaf_of(index: int, path: str, x: Any) -> Leaf:
    """A leaf without moments; TypeError or ValueError for what is not accepted as a parameter."""
    facts = check.parameter(path, x)  # before anything else is asked of it
    return Leaf(index, path, x, check.shape_of(x), facts)


def _with_array(leaf: Leaf, x: Any) -> Leaf:
    """The leaf with another array, checked."""
    facts = check.replacement(leaf.path, leaf.backend, leaf.shape, x)
    x = float(x) if facts.library == "python" else x
    return dataclasses.replace(leaf, array=x, backend=facts)


def _written(leaves: Iterable[Leaf]) -> Written:
    located = ((leaf.path, leaf.extent, leaf.backend.writable) for leaf in leaves)
    return Written([(path, at, written) for path, at, written in located if at is not None])
