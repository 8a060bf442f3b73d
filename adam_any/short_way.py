"""The short way of a step like the one before it.

Most steps differ from the one before in their numbers alone: the containers, classes, dtypes,
shapes and places are the same, and every leaf has a gradient. Such a step looks at each gradient,
computes the scalars, and calls the kernels. It builds no objects beyond what the tree needs, so one
leaf of a few elements takes 2 us and not 13.

Whatever is not like the step before goes the long way, which is the only one that refuses
anything: here a doubt means "not this way", and nothing has changed. Step counts are kept here
until somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, cast

from .coefficients import Coefficients, empty, rounded
from .engines.kernels.program import Program
from .engines.protocol import Plan, QuickPlan, Unfinished
from .groups import Kind
from .leaf import Leaf, Update
from .scalars import Scalars, traced
from .tree import Tree


class Turn(NamedTuple):
    """One call of a plan, for its leaves of one kind and count."""

    plan: QuickPlan
    #: The place of the plan among all.
    place: int
    leaves: list[Leaf]
    #: For each leaf of the plan whether it is one of these; None if all are.
    chosen: list[bool] | None
    scalars: Scalars
    kind: Kind


#: The sums of a rule that asks for none.
_NONE: Sequence[float] = ()


class ShortWay:
    """Steps all leaves of some plans again, and is the record of such a step (`journal`)."""

    __slots__ = (
        *("_flat", "_launches", "_looks", "_number", "_progress", "_results", "_scalars"),
        *("_adds", "_finite", "_split", "_turns", "calls"),
    )

    def __init__(
        self, flat: Callable[[Any], Sequence[Any] | None], turns: list[Turn], finite: bool
    ) -> None:
        """With `finite` gradients are tested for finite numbers."""
        self._flat, self._turns, self.calls = flat, turns, len(turns)
        plans = list(dict.fromkeys(turn.plan for turn in turns))
        self._looks = [plan.look for plan in plans]
        self._finite = finite
        #: The test for finite numbers of each plan, where that is asked for.
        self._adds = [partial(plan.add, True, Coefficients()) for plan in plans if finite]
        self._scalars = [turn.scalars for turn in turns]
        self._launches = [(turn.plan.launch, turn.place, turn.chosen) for turn in turns]
        #: The places of plans that make several calls, each for some of their leaves.
        self._split = {turn.place for turn in turns if turn.chosen is not None}
        self._results: list[list[Update] | None] = []
        #: The number of the step that was begun last.
        self._number = 0
        #: The number of the step that is accounted for; how many were made since the leaves were
        #: counted; and what they had then, by turn. It is replaced as a whole, so that an
        #: interruption sees the one or the other.
        self._progress: tuple[int, int, tuple[int, ...]] = 0, 0, ()

    def begin(self) -> bool:
        """Start from the counts of the leaves; False where those of one turn differ."""
        counts = tuple(turn.leaves[0].steps for turn in self._turns)
        pairs = zip(self._turns, counts, strict=True)
        if any(leaf.steps != count for turn, count in pairs for leaf in turn.leaves):
            return False
        self._progress = self._number, 0, counts
        return True

    @property
    def interrupted(self) -> bool:
        """True where a step was begun and is not accounted for."""
        return self._number != self._progress[0]

    def step(self, number: int, grads: Any) -> bool:
        """Make one step, whose calls have numbers from this one on, if it is like the one before.

        If it is not, nothing has changed.
        """
        mine = self._flat(grads)
        if mine is None:
            return False
        found = []
        for place, look in enumerate(self._looks):
            gradients = look(mine)
            if gradients is None:
                return False
            found.append(list(gradients) if place in self._split else gradients)
        for add, gradients in zip(self._adds, found):  # noqa: B905 (as many, or none)
            if self._sums(add, gradients, 0) is None:
                return False
        _, made, counts = self._progress
        values = []
        try:
            for scalars, count in zip(self._scalars, counts):  # noqa: B905 (as many)
                values.append(scalars(count + made, _NONE))
        except (ArithmeticError, ValueError):
            return False
        results: list[list[Update] | None] = [None] * self.calls
        self._results = results
        self._number = number
        for k, (launch, place, chosen) in enumerate(self._launches):
            gradients = found[place]
            if chosen is not None:
                pairs = zip(gradients, chosen, strict=True)
                gradients = [g if mine else None for g, mine in pairs]
            results[k] = launch(number + k, values[k], gradients)
        for updates in results:
            for leaf, new, moments in updates or ():
                leaf.array, leaf.moments = new, moments
        self._progress = number, made + 1, counts
        return True

    def _sums(
        self, add: Callable[[Any], Any], gradients: Sequence[Any], width: int
    ) -> Sequence[float] | None:
        """The first sums of each leaf, in a row; None where a gradient is not finite."""
        flat: list[float] = []
        for sums in add(gradients):
            if sums is None or (self._finite and sums[-1] != 0):
                return None
            flat += sums[:width]
        return flat

    def settle(self) -> bool:
        """Account for the step that was begun last, and count the leaves.

        False where only a part of it could be made.
        """
        self.count()
        number, made, counts = self._progress
        if number != self._number:
            pairs = list(zip(self._turns, self._results, strict=True))
            states = [
                turn.plan.finish(self._number + k) if updates is None else updates
                for k, (turn, updates) in enumerate(pairs)
            ]
            if not all(isinstance(state, list) for state in states):
                return not any(
                    turn.plan.in_place and state is not Unfinished.UNTOUCHED
                    for (turn, _), state in zip(pairs, states, strict=True)
                )
            for updates in states:
                for leaf, new, moments in updates:  # type: ignore[union-attr]
                    leaf.array, leaf.moments = new, moments
            self._progress = self._number, made + 1, counts
            self.count()
        return True

    def count(self) -> None:
        """Write down in the leaves how many steps they have had."""
        _, made, counts = self._progress
        for turn, count in zip(self._turns, counts, strict=True):
            for leaf in turn.leaves:
                leaf.steps = count + made


class OneTurn(ShortWay):
    """The same for a single call, which is most often enough: without a loop, a fifth faster."""

    __slots__ = ("_add", "_launch", "_look", "_of_count", "_width")

    def __init__(
        self, flat: Callable[[Any], Sequence[Any] | None], turns: list[Turn], finite: bool
    ) -> None:
        super().__init__(flat, turns, finite)
        (turn,) = turns
        self._look, self._launch = turn.plan.look, turn.plan.launch
        self._of_count = turn.scalars
        self._width = len(turn.kind.traced.terms(False).names)
        asks, c = finite or self._width, empty(turn.kind.rule)
        self._add = partial(turn.plan.add, finite, c) if asks else None

    def step(self, number: int, grads: Any) -> bool:
        """Make one step, whose call has this number, if it is like the one before it."""
        mine = self._flat(grads)
        if mine is None:
            return False
        found = self._look(mine)
        if found is None:
            return False
        sums = _NONE if self._add is None else self._sums(self._add, found, self._width)
        if sums is None:
            return False
        _, made, counts = self._progress
        try:
            scalars = self._of_count(counts[0] + made, sums)
        except (ArithmeticError, ValueError):
            return False
        results: list[list[Update] | None] = [None]
        self._results = results
        self._number = number
        results[0] = updates = self._launch(number, scalars, found)
        if updates:
            for leaf, new, moments in updates:
                leaf.array, leaf.moments = new, moments
        self._progress = number, made + 1, counts
        return True


def short_way(
    tree: Tree, kinds: Sequence[Kind], plans: Sequence[Plan], finite: bool
) -> ShortWay | None:
    """The short way of a step of all leaves of these plans, or None where there is none.

    With `finite` gradients are tested for finite numbers.
    """
    if not plans or not all(hasattr(plan, "look") for plan in plans):
        return None
    summed = any(kind.traced.terms(False).names for kind in kinds)
    if (finite or summed) and any(leaf.library.spread for plan in plans for leaf in plan.leaves):
        return None  # all processes must come to the same answer
    turns = []
    for place, plan in enumerate(cast("Sequence[QuickPlan]", plans)):
        groups: dict[tuple[int, int], list[Leaf]] = {}
        for leaf in plan.leaves:
            groups.setdefault((leaf.kind, leaf.steps), []).append(leaf)
        for (k, _), leaves in groups.items():
            mine = {leaf.index for leaf in leaves}
            chosen = [leaf.index in mine for leaf in plan.leaves] if len(groups) > 1 else None
            scalars = _scalars(kinds[k], plan, leaves)
            if scalars is None:
                return None
            turns.append(Turn(plan, place, leaves, chosen, scalars, kinds[k]))
    if len(turns) > 1:
        return None if summed else ShortWay(tree.quick(), turns, finite)
    return OneTurn(tree.quick(), turns, finite)


def _scalars(kind: Kind, plan: QuickPlan, leaves: Sequence[Leaf]) -> Scalars | None:
    """The scalars of a launch for leaves of a kind; None where sums are in the way."""
    compute, takes = leaves[0].backend.compute, plan.takes
    found = traced(kind.rule, compute, takes, len(leaves))
    if kind.traced.terms(False).names:
        program = kind.traced.summing(False)
        alone = isinstance(program, Program) and not program.coefficients
        return found if alone and not plan.adds_inside else None
    if found is not None:
        return found
    getters = [attrgetter(path) for path in takes.paths]

    def asked(count: int, sums: Sequence[float]) -> Sequence[float]:
        c = rounded(kind.at(count), count + 1, compute)
        return [*(get(c) for get in getters), *takes.constants]

    return asked
