"""Functional API: a rule as pure functions, for callers that manage their own state.

- Arguments are never written; every result is a new array (Dask's are lazy: persist them, or the
  graph grows with every step).
- Under `jax.jit`, `lax.scan`, `vmap` and `jax.grad` all of it may be traced. Step counts then have
  no value yet, so the coefficients are computed in the graph, in the compute dtype, within 5e-7.
  Otherwise they come from the host, and NumPy arrays get the bits of `engine="eager"`.
- The mathematics is the rule's; the checks and messages are those of `Optimizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from . import agreement, check, coefficients, detect, groups, rule_check
from . import rule as rules
from .coefficients import Coefficients, bound, nested
from .dtypes import name_of
from .engines.eager import added_up, known, operands_of, replaced
from .groups import Kind, Spec
from .leaf import Leaf, start
from .rules import Adam
from .sums import on_host, sums_of
from .tree import flatten
from .words import named


class State(NamedTuple):
    """The state between two steps.

    Attributes
    ----------
    step : tree
        The step count of each leaf: an int32 array of shape () for a JAX array, else an int. None
        for a parameter that is None.
    moments : dict of trees
        By name, such as ``m`` and ``v``. Moments of a complex leaf are real, of shape
        ``(*shape, 2)``.
    """

    step: Any
    moments: dict[str, Any]


def init(params: Any, rule: Spec | None = None) -> State:
    """Return the state before the first step.

    Parameters
    ----------
    params : tree
        Arrays of any library, JAX's tracers among them, or Python floats; None stays None.
    rule : rule, optional
        The mathematics; `rules.Adam()` unless given.

    Returns
    -------
    State
        Counts of 0, and the moments that the rule starts with. The moments of a Python float are
        float64 arrays of NumPy; inside a transformation JAX makes them float32, silently, unless
        x64 is enabled, as it does with the float.

    Raises
    ------
    TypeError
        For a leaf that is not an array, or of another dtype than floating-point.
    ValueError
        For a rule whose fields are out of range.
    """
    spec = groups.validated(Adam() if rule is None else rule)
    tree, arrays = flatten(params)
    leaves = [
        _leaf(i, path, x)
        for i, (path, x) in enumerate(zip(tree.paths, arrays, strict=True))
        if x is not None
    ]
    kinds, places = groups.assign(spec, leaves)
    for i, kind in enumerate(kinds):
        pairs = zip(leaves, places, strict=True)
        mine = ((leaf.backend, leaf.array) for leaf, place in pairs if place.kind == i)
        rule_check.check(kind.traced, mine)
    counts: list[Any] = [None] * len(arrays)
    moments = {name: list(counts) for name in groups.moments(spec)}
    for leaf, place in zip(leaves, places, strict=True):
        kind = kinds[place.kind]
        counts[leaf.index] = leaf.library.counter(leaf.array)
        begun = start(kind.traced.rule, leaf.backend.compute, leaf.array)
        for name, x in zip(kind.rule.moments, begun, strict=True):
            moments[name][leaf.index] = leaf.library.whole(leaf.array, x)
    return State(tree.build(counts), {name: tree.build(x) for name, x in moments.items()})


def step(
    params: Any, grads: Any, state: State, rule: Spec | None = None, *, lr: Any = None
) -> tuple[Any, State]:
    """Return the parameters and the state after one update.

    Parameters
    ----------
    params : tree
        As given to `init`.
    grads : tree
        The same structure, shapes, libraries and devices. None for a leaf or a subtree skips it:
        its step count stays, too. The gradient of a complex parameter is dL/dRe + i dL/dIm, as
        torch gives it; conjugate what `jax.grad` gives.
    state : State
        What `init` or the last step returned.
    rule : rule, optional
        The mathematics, static under a trace; `rules.Adam()` unless given.
    lr : float, 0-d array, tracer or callable, optional
        Takes the place of the rule's learning rate.

    Returns
    -------
    params : tree
        New arrays, of the shapes, dtypes and libraries given, so they can be carried through a
        scan. On torch the step is not part of the graph.
    state : State
        The new state, of the same structure.

    Raises
    ------
    TypeError, ValueError
        As `Optimizer.step`.

    Examples
    --------
    >>> import numpy as np
    >>> x, target = np.zeros(2), np.array([2.0, 3.0])
    >>> state = init(x)
    >>> for _ in range(500):
    ...     x, state = step(x, 2 * (x - target), state, lr=0.1)
    >>> print(x.round(3))
    [2. 3.]
    """
    spec = groups.validated(Adam() if rule is None else rule)
    if lr is not None:
        spec = _with_rate(spec, lr)
    tree, arrays = flatten(params)
    columns = {name: tree.align(x, "state") for name, x in state.moments.items()}
    rows = zip(tree.gradients(grads, stacklevel=3), tree.align(state.step, "state"), strict=True)
    leaves, present = [], []
    for i, (path, p, (g, count)) in enumerate(zip(tree.paths, arrays, rows, strict=True)):
        if p is None:
            check.none(path, g)
            continue
        leaf = _leaf(i, path, p)
        leaf.steps = count
        leaves.append(leaf)
        if g is not None:
            check.gradient(path, leaf.backend, leaf.shape, g, traced=True)
        present.append(g)
    kinds, places = groups.assign(spec, leaves, look=False)
    _check_names(spec, state)
    calls = []
    for leaf, g, (kind, operands) in zip(leaves, present, places, strict=True):
        own = kinds[kind].rule.moments
        leaf.kind, leaf.operands = kind, operands
        leaf.moments = tuple(columns[name][leaf.index] for name in own)
        for name, x in zip(own, leaf.moments, strict=True):
            _check_moment(leaf, name, x)
        leaf.moments = tuple(
            leaf.library.part(leaf.library.beside(leaf.array, x)) for x in leaf.moments
        )
        if g is not None and not kinds[kind].frozen:
            calls.append(_Call(kinds[kind], leaf, leaf.library.beside(leaf.array, g)))
    new, counts = list(arrays), tree.align(state.step, "state")
    for call, scales in zip(calls, _scales(calls), strict=True):
        i = call.leaf.index
        new[i], *after = call.run(scales)
        counts[i] = call.leaf.steps + 1
        for name, x in zip(call.kind.rule.moments, after, strict=True):
            columns[name][i] = call.leaf.library.whole(call.leaf.array, x)
    return tree.build(new), State(
        tree.build(counts), {name: tree.build(x) for name, x in columns.items()}
    )


def _with_rate(spec: Any, lr: Any) -> Any:
    """The rules with another learning rate, which may be a tracer."""
    if detect.is_tracer(lr) and lr.shape != ():
        raise ValueError(f"lr has shape {lr.shape}; it must be one number")
    array = hasattr(lr, "shape")  # its value is needed later, if it has one
    return groups.validated(groups.with_rate(spec, (lambda count: lr) if array else lr))


def _leaf(index: int, path: str, x: Any) -> Leaf:
    return Leaf(index, path, x, check.shape_of(x), check.parameter(path, x, traced=True))


def _check_names(spec: Any, state: State) -> None:
    wanted = groups.moments(spec)
    if set(state.moments) != set(wanted):  # JAX sorts the keys of a dict
        raise ValueError(
            f"the moments in the state are {list(state.moments)}, those of the rule {wanted}; "
            "pass the same rule to init and step"
        )


def _check_moment(leaf: Leaf, name: str, x: Any) -> None:
    want = leaf.backend.compute, leaf.shape + (2,) * leaf.dtype.complex
    have = (name_of(x.dtype), check.shape_of(x)) if hasattr(x, "dtype") else type(x)
    if have != want:
        raise ValueError(
            f"{named(leaf.path)}: {name} in the state is {have}, but it must be {want}; "
            "pass the state that init or step returned for these parameters"
        )


def coefficients_of(kind: Kind, count: Any, compute: str) -> Coefficients:
    """The coefficients after `count` updates: from the host, or in the graph if one is traced."""
    count = count if detect.is_tracer(count) else int(count)
    rule = kind.at(count)
    if not any(map(detect.is_tracer, (count, *rules.numbers(rule)))):
        return coefficients.rounded(rule, count + 1, compute)
    t: Any = count + 1
    if detect.is_tracer(t):
        t = t.astype(compute)
    rule = rules.mapped(rule, lambda _, x: x.astype(compute) if detect.is_tracer(x) else x)
    return nested(coefficients.by_path(rule, t))


class _Call:
    """The update of one leaf: with coefficients from the host, or in the graph if one is traced."""

    def __init__(self, kind: Kind, leaf: Leaf, g: Any) -> None:
        self.kind, self.leaf, self.g = kind, leaf, g
        self._compute = leaf.backend.compute
        self.terms = kind.traced.terms(False)
        try:
            rules.representable(kind.rule, self._compute)
            self.c = coefficients_of(kind, leaf.steps, self._compute)
        except ValueError as error:
            raise ValueError(f"{named(leaf.path)}: {error}") from None

    def sums(self) -> Any:
        """The sums of the leaf by name, in the graph if something in it is traced."""
        leaf, names = self.leaf, self.terms.names
        if not detect.is_tracer(leaf.array) and not detect.is_tracer(self.g):
            return sums_of(names, added_up(self.terms, self.c, self.kind.traced, leaf, self.g))
        from .engines.xla import added

        library, traced = leaf.library, self.kind.traced
        xp = library.namespace(leaf.array)
        own = dict(zip(traced.operands, operands_of(traced, leaf), strict=True))
        given = known(library, leaf.array, self.c, own)
        p, g = (library.computable(x, self._compute) for x in (leaf.array, self.g))
        found = self.terms(xp, given, p, g, *leaf.moments)
        return SimpleNamespace(**{name: added(x) for name, x in zip(names, found, strict=True)})

    def scale(self, scales: Any, sums: Any, traced: bool) -> dict[str, Any]:
        """Coefficients that are made of sums."""
        if not traced:
            return on_host(scales, self.c, sums, self._compute)
        xp = self.leaf.library.namespace(self.leaf.array)
        return {path: x.astype(self._compute) for path, x in scales(xp, self.c, sums).items()}

    def run(self, scales: dict[str, Any]) -> tuple[Any, ...]:
        """The new parameter and the new moments."""
        traced, leaf = self.kind.traced, self.leaf
        c, paths = bound(self.c, scales), tuple(traced.operands)
        run = partial(replaced, traced.rule, c, self._compute, paths)
        own = operands_of(traced, leaf)
        found = leaf.library.each(run, leaf.array, self.g, *leaf.moments, *own)
        return found[: 1 + len(leaf.moments)]


def _scales(calls: Sequence[_Call]) -> list[dict[str, Any]]:
    """For each call the coefficients that its rule makes of sums."""
    sums = [call.sums() if call.terms.names else None for call in calls]
    whole = {call.leaf.index: x for call, x in zip(calls, sums, strict=True) if x is not None}
    agreement.reach([call.leaf for call in calls], [call.terms.names for call in calls], whole)
    sums = [whole.get(call.leaf.index) for call in calls]
    found: list[dict[str, Any]] = []
    for call, mine in zip(calls, sums, strict=True):
        if mine is None:
            found.append({})
            continue
        pairs = zip(calls, sums, strict=True)
        group = [x for other, x in pairs if other.kind.key == call.kind.key and x is not None]
        traced = any(detect.is_tracer(value) for x in group for value in vars(x).values())
        found.append(
            call.scale(call.terms.group_scales, group, traced)
            | call.scale(call.terms.leaf_scales, mine, traced)
        )
    return found
