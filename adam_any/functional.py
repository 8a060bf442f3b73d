"""The pure face: Adam as two functions, for whoever keeps the state himself.

- Arguments are never written; every result is a new array (Dask's are lazy: persist them, or the
  graph grows with every step).
- Under `jax.jit`, `lax.scan`, `vmap` and `jax.grad` all of it may be traced. Step counts then have
  no value yet, so the coefficients are computed in the graph, in the compute dtype, within 5e-7.
  Otherwise they come from the host, and NumPy arrays get the bits of `Adam(engine="eager")`.
- The mathematics is `rules.Adam`, the checks and messages are those of the class.

>>> state = init(params)
>>> @jax.jit
... def train(params, state):
...     return step(params, jax.grad(loss)(params), state, lr=1e-2)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import optree

from . import check, detect, rules
from .detect import Backend
from .engines.eager import replaced
from .libraries import row, zeros


class State(NamedTuple):
    """Step count and moments of every leaf, in trees like the parameters'; None where they have it.

    A step count is an int32 array of no dimensions for a JAX array, else an int. `vmax` is None
    without AMSGrad. Moments of a complex leaf are real, with a last axis of two.
    """

    step: Any
    m: Any
    v: Any
    vmax: Any


def init(params: Any, *, amsgrad: bool = False) -> State:
    """The state before the first step: zeros.

    The moments of a Python float are float64 arrays of NumPy; inside a transformation JAX makes
    them float32, silently, unless x64 is enabled, as it does with the float.
    """
    paths, arrays, structure = check.flatten(params)

    def tree(make: Callable[[Backend, Any], Any]) -> Any:
        leaves: list[Any] = [
            None if x is None else make(check.parameter(path, x, traced=True), x)
            for path, x in zip(paths, arrays, strict=True)
        ]
        return optree.tree_unflatten(structure.spec, leaves)

    def counter(facts: Backend, x: Any) -> Any:
        return row(facts.library).counter(x)

    def moment(facts: Backend, x: Any) -> Any:
        return zeros(row(facts.library), x, facts.compute)

    return State(tree(counter), tree(moment), tree(moment), tree(moment) if amsgrad else None)


def step(
    params: Any,
    grads: Any,
    state: State,
    *,
    lr: Any = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    amsgrad: bool = False,
    maximize: bool = False,
) -> tuple[Any, State]:
    """The parameters and the state after one update.

    lr : a number, a 0-d array, a tracer, or a callable of the number of updates that a leaf has
        already had (a tracer itself under a trace). Everything else is static.
    decoupled : weight decay as AdamW has it, instead of L2. The rest is `Adam`'s.

    A None gradient, of a leaf or a subtree, skips it: its step count stays, too. Shapes, dtypes and
    libraries of params and state are those given, so both can be carried through a scan. On torch
    the step is no part of the graph. Errors are those of `Adam`.
    """
    scheduled = 0.0 if hasattr(lr, "shape") else lr  # an array has its value later, if ever
    rule = rules.Adam(scheduled, betas, eps, weight_decay, decoupled, amsgrad, maximize)
    if (state.vmax is None) is amsgrad:
        raise ValueError(
            f"amsgrad is {amsgrad}, but vmax in the state is {'' if amsgrad else 'not '}None; "
            "pass the same amsgrad to init and step"
        )
    paths, arrays, structure = check.flatten(params)
    columns = [
        structure.align(grads, "gradient"),
        structure.align(state.step, "state"),
        *(structure.align(getattr(state, name), "state") for name in rule.moments),
    ]
    results = [_leaf(rule, lr, *leaf) for leaf in zip(paths, arrays, *columns, strict=True)]
    columns = [[result[i] for result in results] for i in range(2 + len(rule.moments))]
    new, counts, m, v, *vmax = (optree.tree_unflatten(structure.spec, column) for column in columns)
    return new, State(counts, m, v, vmax[0] if amsgrad else None)


def _leaf(
    rule: rules.Rule, lr: Any, path: str, p: Any, g: Any, count: Any, *moments: Any
) -> tuple[Any, ...]:
    """One parameter, its step count and its moments after the step."""
    if p is None:
        if g is not None:
            raise ValueError(f"{path!r}: a gradient for a parameter that is None; pass None")
        return p, count, *moments
    facts, shape = check.parameter(path, p, traced=True), check.shape_of(p)
    for name, moment in zip(rule.moments, moments, strict=True):
        _check_moment(path, name, facts, shape, moment)
    if g is None:
        return p, count, *moments
    check.gradient(path, facts, shape, g, traced=True)
    try:
        rules.representable(rule, facts.compute)
        c = _coefficients(rule, facts.compute, lr, count)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from None
    run = partial(replaced, rules.without_lr(rule), c, facts.compute)
    new, *after = row(facts.library).each(run, p, g, *moments)
    return new, count + 1, *after


def _coefficients(rule: rules.Rule, compute: str, lr: Any, count: Any) -> rules.Coefficients:
    """The coefficients of the next update: from the host, or in the graph for what has no value."""
    count = count if detect.is_tracer(count) else int(count)
    rate = lr(count) if callable(lr) else lr
    if not detect.is_tracer(rate):
        rate = rules.evaluate(lambda _: rate, count)
        if not detect.is_tracer(count):
            return rules.rounded(rule, count + 1, rate, compute)
    elif rate.shape != ():
        raise ValueError(f"lr has shape {rate.shape}; it must be one number")
    t, rate = (x.astype(compute) if detect.is_tracer(x) else x for x in (count + 1, rate))
    return rules.Coefficients(**rule.coefficients(t, rate))


def _check_moment(path: str, name: str, facts: Backend, shape: tuple[int, ...], x: Any) -> None:
    want = facts.compute, shape + (2,) * facts.complex
    have = (detect.dtype_name(x.dtype), check.shape_of(x)) if hasattr(x, "dtype") else type(x)
    if have != want:
        raise ValueError(
            f"{path!r}: {name} in the state is {have}, but it must be {want}; "
            "pass the state that init or step returned for these parameters"
        )
