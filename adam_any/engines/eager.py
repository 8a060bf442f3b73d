"""The reference engine: applies the rule directly, to arrays of any array-API library.

- One leaf after another is computed, then all are written; where that would take much memory, each
  is written before the next is computed, and the temporaries are those of one leaf.
- Arithmetic in the compute dtype (float32 for half precision), moments kept in it.
- A complex leaf is computed as pairs of real numbers, in a last axis of two.
- Overflow and 0/0 give infinities and NaNs, as everywhere in IEEE 754, and no warning.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from .. import check, detect
from ..coefficients import Coefficients, bound
from ..dtypes import DTYPES
from ..leaf import Leaf, Update
from ..libraries import Library
from ..memory import Written, order
from ..rule import Rule
from ..sums import Terms, added
from .kernels.program import Traced
from .protocol import Unfinished

_NONE: Mapping[str, Any] = MappingProxyType({})

#: Bytes of new parameters and moments that are kept together until all have been computed.
ROOM = 1 << 27


def refusal(traced: Traced, leaf: Leaf) -> str | None:
    """None: it takes every leaf."""
    return None


def key(traced: Traced, leaf: Leaf) -> Hashable:
    """The rule itself."""
    return id(traced)


def summary(leaf: Leaf) -> str:
    """A line for `explain()`."""
    return "the rule applied directly"


class Plan:
    """The leaves of one backend."""

    adds_inside = False

    def __init__(self, traced: Traced, leaves: Sequence[Leaf]) -> None:
        self.leaves = leaves
        self.in_place = leaves[0].backend.writable
        self._traced, self._rule = traced, traced.rule
        self._compute = leaves[0].backend.compute
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
                g = leaf.library.beside(leaf.array, g)
                extent = leaf.library.extent(g)
                if extent is not None and written.spoils(extent, leaf.extent):
                    g = leaf.library.copy(g)
            gathered.append(g)
        return gathered

    def add(
        self, finite: bool, c: Coefficients, grads: Sequence[Any]
    ) -> list[Sequence[float] | None]:
        """The sums of each leaf, in the order that `sums` describes."""
        terms, sums = self._traced.terms(finite), list[Sequence[float] | None]()
        for leaf, g in zip(self.leaves, grads, strict=True):
            sums.append(None if g is None else added_up(terms, c, self._traced, leaf, g))
        return sums

    def step(self, number: int, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Run the rule on each leaf.

        Leaves that can be written are, when all have been computed; where that would take much
        memory, each before the next is computed.
        """
        pairs = zip(self.leaves, grads, strict=True)
        present = [(leaf, g) for leaf, g in pairs if g is not None]
        if self.in_place:
            return self._write(number, c, present)
        library = self.leaves[0].library
        run = partial(replaced, self._rule, c, self._compute, tuple(self._traced.operands))
        count = 1 + len(self._rule.moments)
        new = library.computed(
            [
                library.each(run, x.array, g, *x.moments, *operands_of(self._traced, x))[:count]
                for x, g in present
            ]
        )
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
            own = dict(zip(self._traced.operands, operands_of(self._traced, leaf), strict=True))
            new = update(self._rule, c, self._compute, leaf.array, g, leaf.moments, own)
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

    @np.errstate(all="ignore")
    def write(self) -> None:
        """Write what has been computed; again after an interruption, which does no harm."""
        self.begun = self.begun or bool(self.computed)
        for leaf, new, _ in self.computed:
            leaf.library.write(leaf.array, new)
        done = [Update(leaf, leaf.array, moments) for leaf, _, moments in self.computed]
        self.updates, self.computed = [*self.updates, *done], []


def operands_of(traced: Traced, leaf: Leaf) -> list[Any]:
    """The operands of a leaf, in the order of `traced.operands`."""
    return [leaf.operands[path] for path in traced.operands.values()]


@np.errstate(all="ignore")
def update(
    rule: Rule,
    c: Coefficients,
    compute: str,
    p: Any,
    g: Any,
    moments: Sequence[Any],
    operands: Mapping[str, Any] = _NONE,
) -> tuple[Any, tuple[Any, ...]]:
    """The rule on one array: its new numbers in the compute dtype, and its new moments."""
    library = cast(Library, detect.library(p))
    xp = library.namespace(p)
    with library.on(p):
        p, g = library.computable(p, compute), library.computable(g, compute)
        alone = library.scalars and not p.shape
        if alone:
            p, g, *moments = (library.array(x).reshape(1) for x in (p, g, *moments))
            operands = {path: x.reshape(1) for path, x in operands.items()}
        new, *after = rule.update(xp, known(library, p, c, operands), p, g, *moments)
        # A moment that is the parameter or gradient itself would change with it.
        after = [library.copy(x) if x is p or x is g else x for x in after]
        if alone:
            new, *after = (x.reshape(()) for x in (new, *after))
    return new, tuple(library.array(moment) for moment in after)


def known(library: Library, p: Any, c: Coefficients, operands: Mapping[str, Any]) -> Coefficients:
    """The coefficients with arrays for operands, and for truth values, as `where` takes them."""
    values = vars(c)
    if any(type(x) in (bool, Coefficients) for x in values.values()):
        values = {
            name: library.truth(p, x)
            if type(x) is bool
            else known(library, p, x, _NONE)
            if type(x) is Coefficients
            else x
            for name, x in values.items()
        }
        c = Coefficients(**values)
    return bound(c, operands)


@np.errstate(all="ignore")
def replaced(
    rule: Rule, c: Coefficients, compute: str, operands: Sequence[str], p: Any, g: Any, *arrays: Any
) -> tuple[Any, ...]:
    """The rule as a pure function of one array: what takes its place, and its new moments.

    `arrays` are its moments, then the operands of these paths.
    """
    count = len(rule.moments)
    own = dict(zip(operands, arrays[count:], strict=True))
    new, after = update(rule, c, compute, p, g, arrays[:count], own)
    return cast(Library, detect.library(p)).like(p, new), *after


@np.errstate(all="ignore")
def added_up(terms: Terms, c: Coefficients, traced: Traced, leaf: Leaf, g: Any) -> list[float]:
    """The sums of one leaf: the reference."""
    library, compute = leaf.library, leaf.backend.compute
    own = dict(zip(traced.operands, operands_of(traced, leaf), strict=True))

    def lines(p: Any, g: Any, *arrays: Any) -> tuple[Any, ...]:
        here = cast(Library, detect.library(p))
        count = len(leaf.moments)
        bound_to = dict(zip(own, arrays[count:], strict=True))
        p, g = here.computable(p, compute), here.computable(g, compute)
        given = known(here, p, c, bound_to)
        return terms(here.namespace(p), given, p, g, *arrays[:count])

    at = leaf.extent
    axes = None if at is None else order(at)
    with library.on(leaf.array):
        blocks = library.blocks_of(lines, axes, leaf.array, g, *leaf.moments, *own.values())
    return [added(parts) for parts in blocks]
