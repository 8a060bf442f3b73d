"""The contents of an optimizer: its rules, its leaves, its plans, and the change under way."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from operator import is_
from typing import Any

from . import agreement, check, coefficients, engines, groups
from . import rule as rules
from .coefficients import Coefficients
from .engines.protocol import Plan
from .groups import Kind
from .journal import Assignment, Change, Step, Turn
from .leaf import Leaf, start
from .memory import Written
from .short_way import ShortWay, short_way
from .sums import FINITE, Sums, on_host, sums_of
from .tree import Tree
from .words import named

#: How many steps alike are made before the short way is looked for, which takes as long as twenty.
ALIKE = 3


class Contents:
    """The state of an optimizer, which is replaced as a whole, by one assignment.

    Raises ValueError for leaves that share memory, rules that do not fit them, or a number that a
    compute dtype cannot hold.
    """

    __slots__ = (
        *("_again", "_alike", "_change", "_number", "_plans", "_sums"),
        *("kinds", "leaves", "rule", "torn", "written"),
    )

    def __init__(
        self, rule: Any, leaves: Sequence[Leaf], values: Sequence[tuple[Leaf, Any]] = ()
    ) -> None:
        """Leaves with their state; `settle` writes `values` into those that can be written.

        `rule` is one, or a mapping of rules.
        """
        #: As it was given, with every number a float.
        self.rule = rule
        self.kinds, places = groups.assign(rule, leaves)
        self.leaves = list(leaves)
        for leaf, (kind, operands) in zip(leaves, places, strict=True):
            leaf.kind, leaf.operands = kind, operands
        self.written = _written(leaves)
        #: Whether a step was interrupted in its middle: parameters and moments do not fit together.
        self.torn = False
        self._change: Change | None = Assignment(values) if values else None
        self._plans: list[Plan] | None = None
        self._again: ShortWay | None = None
        #: How many steps in a row might have gone the short way, while there is none.
        self._alike = 0
        self._number = 0
        #: Whether a rule needs sums over its leaves.
        self._sums = any(kind.traced.terms(False).names for kind in self.kinds)
        _check_numbers(self.kinds, leaves)
        _check_apart(self.written, leaves)

    def kind(self, leaf: Leaf) -> Kind:
        """The kind of a leaf: all that it shares with others of its rule."""
        return self.kinds[leaf.kind]

    def begin(self, leaf: Leaf) -> tuple[Any, ...]:
        """The moments of a leaf before its first step."""
        return start(self.kind(leaf).traced.rule, leaf.backend.compute, leaf.array)

    def with_rule(self, rule: Any) -> Contents:
        """The same leaves, with rules of the same classes, options and moments.

        Plans serve every learning rate.
        """
        kinds, places = groups.assign(rule, self.leaves)
        _check_numbers(kinds, self.leaves)
        new = copy.copy(self)
        new.rule, new.kinds = rule, kinds
        new._forget_short_way()
        mine = [(leaf.kind, leaf.operands) for leaf in self.leaves]
        if _same(mine, places) and _traced_alike(self.kinds, kinds):
            new.kinds = [
                kind._replace(traced=old.traced)
                for kind, old in zip(kinds, self.kinds, strict=True)
            ]
            return new
        new.leaves = [
            dataclasses.replace(leaf, kind=kind, operands=operands)
            for leaf, (kind, operands) in zip(self.leaves, places, strict=True)
        ]
        _check_apart(self.written, new.leaves)
        new._forget_plans()
        return new

    def with_state(self, states: Iterable[tuple[Leaf, int, tuple[Any, ...]]]) -> Contents:
        """The same leaves with other step counts and moments."""
        new = copy.copy(self)
        new._forget_plans()
        new.leaves = [
            dataclasses.replace(leaf, steps=steps, moments=moments)
            for leaf, steps, moments in states
        ]
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
                x = leaf.library.beside(leaf.array, x)
                if x is not leaf.array:
                    extent = leaf.library.extent(x)
                    if extent is not None and self.written.spoils(extent, None):
                        x = leaf.library.copy(x)
                    values.append((new, x))
            leaves.append(new)
        contents = copy.copy(self)
        contents._change = Assignment(values)
        if not all(map(is_, leaves, self.leaves)):  # else the plans hold, too
            contents.leaves, contents.written = leaves, _written(leaves)
            contents._forget_plans()
        return contents

    def current_plans(self, engine: str | None) -> list[Plan]:
        """The plans, made anew if there are none or a parameter has changed under its own name.

        It has after `model.half()`, for example.
        """
        plans = self._plans
        if plans is not None and all([plan.current() for plan in plans]):
            return plans
        self._forget_plans()
        self.leaves = [_with_array(leaf, leaf.array) for leaf in self.leaves]
        self.written = _written(self.leaves)
        stepped = [leaf for leaf in self.leaves if not self.kind(leaf).frozen]
        self._plans = engines.plans(self.kinds, stepped, engine)
        return self._plans

    def copy(self) -> Contents:
        """The same state in memory of its own; moments that an interruption lost begin anew."""
        leaves = []
        for leaf in self.leaves:
            copied = leaf.library.copy
            moments = self.begin(leaf) if self.torn else leaf.moments
            leaves.append(
                dataclasses.replace(
                    leaf, array=copied(leaf.array), moments=tuple(map(copied, moments))
                )
            )
        new = Contents(self.rule, leaves)
        new.torn = self.torn
        return new

    def turns(
        self, plan: Plan, gathered: Sequence[Any], grads: Sequence[Any], sums: Sums
    ) -> list[Turn]:
        """One call of the plan for each set of coefficients; almost always there is one."""
        calls: dict[Any, list[Leaf]] = {}
        leaves = plan.leaves
        if not self._sums and len(self.kinds) == 1:
            counts = {leaf.steps for leaf in leaves if grads[leaf.index] is not None}
            if len(counts) < 2:
                compute = leaves[0].backend.compute
                return [
                    Turn(plan, self.coefficients(0, count, compute), gathered) for count in counts
                ]
        for leaf in leaves:
            if grads[leaf.index] is not None:
                key = leaf.kind, leaf.steps, sums.scales(leaf.index)
                calls.setdefault(key, []).append(leaf)
        turns = []
        for (kind, count, scales), leaves in calls.items():
            mine: Sequence[Any] = gathered
            if len(calls) > 1:
                these = {leaf.index for leaf in leaves}
                pairs = zip(plan.leaves, gathered, strict=True)
                mine = [g if leaf.index in these else None for leaf, g in pairs]
            c = self._known(sums, kind, count, leaves[0].backend.compute)
            turns.append(Turn(plan, coefficients.bound(c, dict(scales)), mine))
        return turns

    def asks(self, finite: bool) -> bool:
        """Return whether a step must look at whole gradients first."""
        return finite or self._sums

    def sums(
        self, plans: Sequence[Plan], gathered: Sequence[Any], grads: Sequence[Any], finite: bool
    ) -> tuple[Sums, Leaf | None]:
        """The coefficients that rules make of sums over their leaves.

        With `finite` also the first leaf whose gradient is not.
        """
        found: dict[int, Any] = {}
        sums = Sums()
        for plan, mine in zip(plans, gathered, strict=True):
            present = (leaf for leaf in plan.leaves if grads[leaf.index] is not None)
            calls = dict.fromkeys((leaf.kind, leaf.steps) for leaf in present)
            if plan.adds_inside and not finite and self._apart(plan, calls):
                continue
            for kind, count in calls:
                terms = self.kinds[kind].traced.terms(finite)
                if not terms.names:
                    continue
                these = [
                    g if (leaf.kind, leaf.steps) == (kind, count) else None
                    for leaf, g in zip(plan.leaves, mine, strict=True)
                ]
                c = Coefficients()  # the test for finite numbers needs none, and asks no schedule
                if self.kinds[kind].traced.terms(False).names:
                    c = self._known(sums, kind, count, plan.leaves[0].backend.compute)
                for leaf, values in zip(plan.leaves, plan.add(finite, c, these), strict=True):
                    if values is not None:
                        found[leaf.index] = sums_of(terms.names, values)
        agreement.reach(self.leaves, self._sum_names(finite), found)
        if finite:
            for leaf in self.leaves:
                if leaf.index in found and getattr(found[leaf.index], FINITE) != 0:
                    return sums, leaf
        if self._sums:
            self._set_scales(sums, found)
        return sums, None

    def abstain(self, finite: bool) -> None:
        """Tell other processes, which wait for sums, that gradients are refused here."""
        if self.asks(finite):
            agreement.abstain(self.leaves, self._sum_names(finite))

    def _sum_names(self, finite: bool) -> list[tuple[str, ...]]:
        """The names of the sums of each leaf."""
        kinds = [() if kind.frozen else kind.traced.terms(finite).names for kind in self.kinds]
        return [kinds[leaf.kind] for leaf in self.leaves]

    def _apart(self, plan: Plan, calls: Mapping[tuple[int, int], None]) -> bool:
        """Return whether a plan has one call, and its sums are of its own leaves alone."""
        keys = {self.kinds[kind].key for kind, _ in calls}
        mine = {leaf.index for leaf in plan.leaves}
        return len(calls) == 1 and all(
            leaf.index in mine for leaf in self.leaves if self.kind(leaf).key in keys
        )

    def _known(self, sums: Sums, kind: int, count: int, compute: str) -> Coefficients:
        """Coefficients, which a schedule is asked for once in a step."""
        key = kind, count, compute
        if key not in sums.known:
            sums.known[key] = self.coefficients(*key)
        return sums.known[key]

    def _set_scales(self, sums: Sums, found: Mapping[int, Any]) -> None:
        shared = dict[Any, dict[str, float]]()
        for leaf in self.leaves:
            if leaf.index not in found:
                continue
            kind, compute = self.kind(leaf), leaf.backend.compute
            terms, mine = kind.traced.terms(False), (leaf.kind, leaf.steps, compute)
            c = self._known(sums, *mine)
            if mine not in shared:
                group = [
                    found[x.index]
                    for x in self.leaves
                    if x.index in found and self.kind(x).key == kind.key
                ]
                shared[mine] = on_host(terms.group_scales, c, group, compute)
            own = on_host(terms.leaf_scales, c, found[leaf.index], compute)
            sums.set(leaf.index, shared[mine] | own)

    def coefficients(self, kind: int, count: int, compute: str) -> Coefficients:
        """The coefficients of the next update of a leaf that has had `count`."""
        return coefficients.rounded(self.kinds[kind].at(count), count + 1, compute)

    def step(self, turns: Sequence[Turn], grads: Sequence[Any]) -> None:
        """Make all calls, and count the step of each leaf that has a gradient."""
        frozen = [kind.frozen for kind in self.kinds]
        counted = [
            leaf for leaf in self.leaves if grads[leaf.index] is not None and not frozen[leaf.kind]
        ]
        step = Step(self._number + 1, turns, counted)
        self._number += len(turns)
        self._change = step
        try:
            step.run()
        finally:
            self.settle()

    def step_again(self, grads: Any) -> bool:
        """Make a step like the one before it, by the short way.

        False where it must go the long way: then nothing has changed, and no change is under way.
        """
        again = self._again
        if again is None:
            self.settle()
            return False
        if self._change is not again or again.interrupted:
            self.settle()
            if self.torn or not again.begin():
                return False
            self._change = again
        number = self._number + 1
        self._number += again.calls
        try:
            if again.step(number, grads):
                return True
        except BaseException:  # a schedule's, or an interruption
            self.settle()
            raise
        self.settle()
        return False

    def _forget_plans(self) -> None:
        self._plans = None
        self._forget_short_way()

    def _forget_short_way(self) -> None:
        self._again, self._alike = None, 0

    def count(self) -> None:
        """Write down in the leaves how many steps they have had."""
        if self._again is not None and self._change is self._again:
            self._again.count()

    def find_short_way(self, tree: Tree, grads: Sequence[Any], finite: bool) -> None:
        """Note that a step like this might have gone the short way; look for it after a few."""
        plans = self._plans
        if plans is None or self._alike == ALIKE:
            return
        if all(grads[leaf.index] is not None for plan in plans for leaf in plan.leaves):
            self._alike += 1
            if self._alike == ALIKE:
                self._again = short_way(tree, self.kinds, plans, finite)

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


def _check_apart(written: Written, leaves: Iterable[Leaf]) -> None:
    """Raise ValueError for an array field in memory that a step writes."""
    for leaf in leaves:
        for path, x in leaf.operands.items():
            at = leaf.library.extent(x)
            if at is not None and written.spoils(at, None):
                raise ValueError(
                    f"{named(leaf.path)}: {path} shares memory with a parameter, which every step "
                    "writes; pass a copy"
                )


def _check_numbers(kinds: Sequence[Kind], leaves: Iterable[Leaf]) -> None:
    """Raise ValueError for a number that the compute dtype of a leaf cannot hold."""
    seen = set()
    for leaf in leaves:
        pair = leaf.kind, leaf.backend.compute
        if pair not in seen:
            seen.add(pair)
            try:
                rules.representable(kinds[leaf.kind].rule, leaf.backend.compute)
            except ValueError as error:
                raise ValueError(f"{named(leaf.path)}: {error}") from None


def _same(mine: Sequence[tuple[int, dict[str, Any]]], places: Sequence[groups.Place]) -> bool:
    """Return whether leaves keep their kinds and the memory of their operands."""
    return all(
        kind == place.kind
        and operands.keys() == place.operands.keys()
        and all(operands[path] is x for path, x in place.operands.items())
        for (kind, operands), place in zip(mine, places, strict=True)
    )


def _traced_alike(old: Sequence[Kind], new: Sequence[Kind]) -> bool:
    return len(old) == len(new) and all(
        a.traced.rule == b.traced.rule and a.key == b.key for a, b in zip(old, new, strict=True)
    )
