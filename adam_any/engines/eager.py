"""The reference engine: applies the rule directly, to arrays of any array-API library.

- One leaf after another is computed, then all are written; where that would take much memory, each
  is written before the next is computed, and the temporaries are those of one leaf.
- Arithmetic in the compute dtype (float32 for half precision), moments kept in it.
- A complex leaf is computed as pairs of real numbers, in a last axis of two.
- Overflow and 0/0 give infinities and NaNs, as everywhere in IEEE 754, and no warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from .. import check, detect
from ..dtypes import DTYPES
from ..leaf import Leaf, Update
from ..libraries import Library
from ..memory import Written
from ..rule import Coefficients, Rule
from .kernels.program import Traced
from .protocol import Unfinished

#: Bytes of new parameters and moments that are kept together until all have been computed.
ROOM = 1 << 27


def refusal(traced: Traced, leaf: Leaf) -> str | None:
    """None: it takes every leaf."""
    return None


def summary() -> str:
    """A line for `explain()`."""
    return "the rule applied directly"


class Plan:
    """The leaves of one backend."""

    def __init__(self, traced: Traced, leaves: Sequence[Leaf]) -> None:
        self.leaves = leaves
        self.in_place = leaves[0].backend.writable
        self._rule, self._compute = traced.rule, leaves[0].backend.compute
        self._state: _State | None = None

    def current(self) -> bool:
        """Return whether every parameter still has the facts and the shape that it had."""
        return all(
            detect.backend(leaf.array) == leaf.backend and check.shape_of(leaf.array) == leaf.shape
            for leaf in self.leaves
        )

    def gather(self, grads: Sequence[Any], written: Written) -> list[Any]:
        """The gradients, checked; those that the step itself would overwrite are copied."""
        gathered = []
        first = self.leaves[0]
        check.uncaptured(first.path, first.library.capturing(first.array))
        for leaf in self.leaves:
            g = grads[leaf.index]
            if g is not None:
                check.gradient(leaf.path, leaf.backend, leaf.shape, g)
                extent = leaf.library.extent(g)
                if extent is not None and written.spoils(extent, leaf.extent):
                    g = leaf.library.copy(g)
            gathered.append(g)
        return gathered

    def step(self, number: int, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Run the rule on each leaf.

        Leaves that can be written are, when all have been computed; where that would take much
        memory, each before the next is computed.
        """
        pairs = zip(self.leaves, grads, strict=True)
        present = [(leaf, g) for leaf, g in pairs if g is not None]
        if self.in_place:
            return self._write(number, c, present)
        library, run = self.leaves[0].library, partial(replaced, self._rule, c, self._compute)
        new = library.computed([library.each(run, x.array, g, *x.moments) for x, g in present])
        return [
            Update(leaf, p, tuple(moments))
            for (leaf, _), (p, *moments) in zip(present, new, strict=True)
        ]

    def _write(
        self, number: int, c: Coefficients, present: Sequence[tuple[Leaf, Any]]
    ) -> list[Update]:
        sizes = [leaf.reals * DTYPES[self._compute].size for leaf, _ in present]
        together = sum(sizes) * (1 + len(self._rule.moments)) <= ROOM
        self._state = state = _State(number, len(present))
        for leaf, g in present:
            new = update(self._rule, c, self._compute, leaf.array, g, leaf.moments)
            state.computed.append((leaf, *new))
            if not together:
                state.write()
        state.write()
        return state.updates

    def finish(self, number: int) -> list[Update] | Unfinished:
        """Write again what was computed, if that was all."""
        state = self._state
        if state is None or state.number != number or not state.updates + state.computed:
            return Unfinished.UNTOUCHED
        if len(state.updates) + len(state.computed) < state.leaves:
            return Unfinished.HALF if state.begun else Unfinished.UNTOUCHED
        state.write()
        return state.updates


class _State:
    """One call of a plan that writes in place: what has been computed, and what written."""

    def __init__(self, number: int, leaves: int) -> None:
        self.number, self.leaves = number, leaves
        self.computed: list[tuple[Leaf, Any, tuple[Any, ...]]] = []
        self.updates: list[Update] = []
        self.begun = False

    def write(self) -> None:
        """Write what has been computed; again after an interruption, which does no harm."""
        self.begun = self.begun or bool(self.computed)
        for leaf, new, _ in self.computed:
            leaf.library.write(leaf.array, new)
        done = [Update(leaf, leaf.array, moments) for leaf, _, moments in self.computed]
        self.updates, self.computed = [*self.updates, *done], []


@np.errstate(all="ignore")
def update(
    rule: Rule, c: Coefficients, compute: str, p: Any, g: Any, moments: Sequence[Any]
) -> tuple[Any, tuple[Any, ...]]:
    """The rule on one array: its new numbers in the compute dtype, and its new moments."""
    library = cast(Library, detect.library(p))
    xp = library.namespace(p)
    with library.on(p):
        p, g = library.computable(p, compute), library.computable(g, compute)
        alone = library.scalars and not p.shape
        if alone:
            p, g, *moments = (x.reshape(1) for x in (p, g, *moments))
        new, *after = rule.update(xp, c, p, g, *moments)
        # A moment that is the parameter or gradient itself would change with it.
        after = [library.copy(x) if x is p or x is g else x for x in after]
        if alone:
            new, *after = (x.reshape(()) for x in (new, *after))
    return new, tuple(library.array(moment) for moment in after)


@np.errstate(all="ignore")
def replaced(
    rule: Rule, c: Coefficients, compute: str, p: Any, g: Any, *moments: Any
) -> tuple[Any, ...]:
    """The rule as a pure function of one array: what takes its place, and its new moments."""
    new, after = update(rule, c, compute, p, g, moments)
    return cast(Library, detect.library(p)).like(p, new), *after
