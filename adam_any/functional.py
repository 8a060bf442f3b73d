"""Functional API: a rule as pure functions, for callers that manage their own state.

- Arguments are never written; every result is a new array (Dask's are lazy: persist them, or the
  graph grows with every step).
- Under `jax.jit`, `lax.scan`, `vmap` and `jax.grad` all of it may be traced. Step counts then have
  no value yet, so the coefficients are computed in the graph, in the compute dtype, within 5e-7.
  Otherwise they come from the host, and NumPy arrays get the bits of `engine="eager"`.
- The mathematics is the rule's; the checks and messages are those of `Optimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from . import check, detect, rule_check
from . import rule as rules
from .detect import Backend
from .dtypes import name_of
from .engines.eager import replaced
from .engines.kernels.program import Traced
from .leaf import start
from .rule import Coefficients, Rule
from .rules import Adam
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


def init(params: Any, rule: Rule | None = None) -> State:
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
    rule = rules.validated(Adam() if rule is None else rule)
    tree, arrays = flatten(params)

    def build(make: Callable[[Backend, Any], Any]) -> list[Any]:
        return [
            None if x is None else make(check.parameter(path, x, traced=True), x)
            for path, x in zip(tree.paths, arrays, strict=True)
        ]

    traced = Traced(rule)
    rule_check.check(traced, filter(None, build(lambda facts, x: (facts, x))))
    counts = build(lambda facts, x: detect.load(facts.library).counter(x))
    moments = build(lambda facts, x: start(traced.rule, facts.compute, x))
    return State(
        tree.build(counts),
        {
            name: tree.build(None if mine is None else mine[i] for mine in moments)
            for i, name in enumerate(rule.moments)
        },
    )


def step(
    params: Any, grads: Any, state: State, rule: Rule | None = None, *, lr: Any = None
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
    rule = rules.validated(Adam() if rule is None else rule)
    if sorted(state.moments) != sorted(rule.moments):  # JAX returns a dict in order of its keys
        raise ValueError(
            f"the moments in the state are {list(state.moments)}, those of the rule "
            f"{list(rule.moments)}; pass the same rule to init and step"
        )
    tree, arrays = flatten(params)
    columns = [
        tree.gradients(grads, stacklevel=3),
        tree.align(state.step, "state"),
        *(tree.align(state.moments[name], "state") for name in rule.moments),
    ]
    run = _Step(rule, lr)
    results = [run(*leaf) for leaf in zip(tree.paths, arrays, *columns, strict=True)]
    new, counts, *moments = (
        tree.build(result[i] for result in results) for i in range(len(columns))
    )
    return new, State(counts, dict(zip(rule.moments, moments, strict=True)))


class _Step:
    """One step of a valid rule, with a learning rate of its own unless that is None."""

    def __init__(self, rule: Rule, lr: Any) -> None:
        if detect.is_tracer(lr) and lr.shape != ():
            raise ValueError(f"lr has shape {lr.shape}; it must be one number")
        if lr is not None:
            array = hasattr(lr, "shape")  # its value is needed later, if it has one
            rule = rules.replaced(rule, {"lr": (lambda count: lr) if array else lr})
            rule = rules.validated(rule)
        self._rule = rule
        self._static, self._at = rules.static(rule), rules.at(rule)

    def __call__(self, path: str, p: Any, g: Any, count: Any, *moments: Any) -> Sequence[Any]:
        """One parameter, its step count and its moments after the step."""
        if p is None:
            check.none(path, g)
            return p, count, *moments
        facts, shape = check.parameter(path, p, traced=True), check.shape_of(p)
        for name, moment in zip(self._rule.moments, moments, strict=True):
            _check_moment(path, name, facts, shape, moment)
        if g is None:
            return p, count, *moments
        check.gradient(path, facts, shape, g, traced=True)
        try:
            rules.representable(self._rule, facts.compute)
            c = self._coefficients(facts.compute, count)
        except ValueError as error:
            raise ValueError(f"{named(path)}: {error}") from None
        run = partial(replaced, self._static, c, facts.compute)
        new, *after = detect.load(facts.library).each(run, p, g, *moments)
        return new, count + 1, *after

    def _coefficients(self, compute: str, count: Any) -> Coefficients:
        """The coefficients of the next update: from the host, or in the graph if one is traced."""
        count = count if detect.is_tracer(count) else int(count)
        rule = self._at(count)
        numbers = rules.numbers(rule)
        if not any(map(detect.is_tracer, (count, *numbers))):
            return rules.rounded(rule, count + 1, compute)
        t = count + 1
        if detect.is_tracer(t):
            t = t.astype(compute)
        rule = rules.mapped(rule, lambda _, x: x.astype(compute) if detect.is_tracer(x) else x)
        return Coefficients(**rule.coefficients(t))


def _check_moment(path: str, name: str, facts: Backend, shape: tuple[int, ...], x: Any) -> None:
    want = facts.compute, shape + (2,) * facts.facts.complex
    have = (name_of(x.dtype), check.shape_of(x)) if hasattr(x, "dtype") else type(x)
    if have != want:
        raise ValueError(
            f"{named(path)}: {name} in the state is {have}, but it must be {want}; "
            "pass the state that init or step returned for these parameters"
        )
