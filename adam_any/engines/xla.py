"""The engine for JAX: one compiled call of the rule over all leaves of a plan.

- The rule itself is traced, through the same pure function that `eager` runs; nothing restates it.
- Coefficients come from the host as one argument, so a new step or learning rate compiles nothing.
- Moments are donated: XLA writes the new ones in their memory. A parameter or gradient is the
  user's, and never is.
- What is donated cannot be given back. So the plan says that it works in place, and is stepped when
  nothing else can fail; and tracing and compiling, which can, happen while gradients are gathered.
- Results and moments keep the parameter's sharding; a gradient with another one is moved to it.
- XLA contracts `a * b + c` into one rounding, and on a CPU flushes subnormal numbers to zero. So a
  step does not have the bits of the other engines. From the same state it differs by at most
  4 eps max(|p|, lr, |change of p|); 3.91 was measured on a CPU, in float32 and float64. It can be
  more where numbers are subnormal, or L2 decay nearly cancels the gradient it is added to.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from .. import check
from ..coefficients import Coefficients, bound, nested
from ..leaf import Leaf, Update
from ..libraries.jax import LIBRARY
from ..memory import Written
from ..rule import Rule
from ..sums import Terms
from ..words import at
from .eager import operands_of, replaced
from .kernels.program import Traced
from .kernels.table import picker
from .protocol import Takes, Unfinished


def refusal(traced: Traced, leaf: Leaf) -> str | None:
    """A reason if the rule has no hash, by which compiled code is kept; else None."""
    try:
        hash(traced.rule)
    except TypeError as error:
        return f"the rule cannot be compiled: {error}; make that field a tuple, or hashable"
    return None


def key(traced: Traced, leaf: Leaf) -> Hashable:
    """The rule itself."""
    return id(traced)


def summary(leaf: Leaf) -> str:
    """A line for `explain()`."""
    return "one compiled call for all leaves, moments donated"


class Plan:
    """The leaves on one set of devices, of one dtype."""

    in_place = True
    adds_inside = True

    def __init__(self, traced: Traced, leaves: Sequence[Leaf]) -> None:
        self.leaves = leaves
        self._compute = leaves[0].backend.compute
        self._traced, self._names = traced, traced.names
        self._facts = traced.names, traced.conditions, tuple(traced.operands)
        self.takes = Takes(traced.names)
        self._pick = picker(leaves)
        #: What is known of each gradient of the last step, if it was taken as it is.
        self._known: list[Any] = []
        self._calls = {
            inside: _call(cast(Hashable, traced.rule), inside, self._compute, *self._facts)
            for inside in {False, bool(traced.scales)}
        }
        for leaf in leaves:
            # A loaded moment has its sharding from before, and the user may have moved p.
            leaf.moments = tuple(_beside(leaf.array, moment) for moment in leaf.moments)
            leaf.operands = {path: _beside(leaf.array, x) for path, x in leaf.operands.items()}

    def current(self) -> bool:
        """Always: it asks the arrays themselves at each step."""
        return True

    def gather(self, grads: Sequence[Any], written: Written) -> list[Any]:
        """The gradients, checked, with their parameters' sharding; compiles what is new."""
        gathered = [
            None if grads[leaf.index] is None else _gradient(leaf, grads[leaf.index])
            for leaf in self.leaves
        ]
        pairs = list(zip(self.leaves, gathered, strict=True))
        for count in {leaf.steps for leaf, g in pairs if g is not None}:
            turn = [g if leaf.steps == count else None for leaf, g in pairs]
            self._compile(bool(self._traced.scales), self._arguments(turn)[1])
        self._known = [
            None if g is None or g is not grads[leaf.index] else _known(g) for leaf, g in pairs
        ]
        return gathered

    def look(self, grads: Sequence[Any]) -> Sequence[Any] | None:
        """The gradients, if they are like those of the last step in all that is compiled for."""
        if LIBRARY.unable(self.leaves[0].backend.dtype) is not None:
            return None
        mine = self._pick(grads)
        for leaf, g, known in zip(self.leaves, mine, self._known, strict=True):
            p = leaf.array
            if type(g) is not type(p) or _known(g) != known or g.is_deleted() or p.is_deleted():
                return None
        return mine

    def _compile(self, inside: bool, arguments: tuple[list[Any], ...]) -> None:
        self._calls[inside].compile(np.zeros(len(self._names), self._compute), *arguments)

    def add(
        self, finite: bool, c: Coefficients, grads: Sequence[Any]
    ) -> list[Sequence[float] | None]:
        """The sums of each leaf that has a gradient, by one compiled call; waits for them."""
        leaves, arguments = self._arguments(grads)
        self._compile(False, arguments)  # now, since a step must not fail
        scalars = self._scalars(c)
        run = _adding(cast(Hashable, self._traced.rule), finite, self._compute, *self._facts)
        # They are ours, and no surprise; a NaN among them is what may be asked for.
        with jax.transfer_guard("allow"), jax.debug_nans(False):
            sums = iter(np.asarray(run(scalars, *arguments)).tolist()) if leaves else iter(())
        return [None if g is None else next(sums) for g in grads]

    def _knows(self, c: Coefficients) -> bool:
        """Return whether the coefficients that are made of sums are among these."""
        for path in self._traced.scales:
            try:
                attrgetter(path)(c)
            except AttributeError:
                return False
        return True

    def _scalars(self, c: Coefficients) -> Any:
        """The coefficients in order; those made of sums, if they are not known yet, as 0."""
        values = []
        for name in self._names:
            try:
                values.append(attrgetter(name)(c))
            except AttributeError:
                values.append(0.0)
        return np.array(values, self._compute)

    def step(self, number: int, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Run the compiled rule on every leaf that has a gradient; with their sums, if need be."""
        return self._run(self._scalars(c), not self._knows(c), grads)

    def launch(
        self, number: int, scalars: Sequence[float], gradients: Sequence[Any]
    ) -> list[Update]:
        """Run the compiled rule on every leaf that has a gradient."""
        return self._run(np.array(scalars, self._compute), False, gradients)

    def _run(self, scalars: Any, inside: bool, grads: Sequence[Any]) -> list[Update]:
        leaves, arguments = self._arguments(grads)
        with jax.transfer_guard_host_to_device("allow"):  # they are ours, and no surprise
            new = self._calls[inside].jitted(scalars, *arguments)
        return [
            Update(leaf, p, tuple(moments)) for leaf, (p, *moments) in zip(leaves, new, strict=True)
        ]

    def finish(self, number: int) -> list[Update] | Unfinished:
        """Nothing is written, but moments may have been consumed."""
        moments = [moment for leaf in self.leaves for moment in leaf.moments]
        lost = any(moment.is_deleted() for moment in moments)
        return Unfinished.HALF if lost else Unfinished.UNTOUCHED

    def _arguments(self, grads: Sequence[Any]) -> tuple[list[Leaf], tuple[list[Any], ...]]:
        """The leaves that have a gradient, and the arrays that the call for them takes."""
        leaves = [leaf for leaf, g in zip(self.leaves, grads, strict=True) if g is not None]
        params = [_strong(leaf.array) for leaf in leaves]
        present = [_strong(g) for g in grads if g is not None]
        moments = [leaf.moments for leaf in leaves]
        operands = [tuple(operands_of(self._traced, leaf)) for leaf in leaves]
        return leaves, (params, present, moments, operands)


class _Call:
    """The rule, compiled for arrays of these shapes, dtypes and shardings as they are met."""

    def __init__(self, run: Callable[..., Any]) -> None:
        # All that belongs to a leaf has the same sharding, and so have XLA's results.
        self.jitted = jax.jit(run, donate_argnums=3)
        self._compiled: set[Any] = set()

    def compile(self, c: Any, *arguments: list[Any]) -> None:
        """Do all that a call with such arguments does, but compute."""
        arrays = [x for leaves in arguments[:2] for x in leaves]
        key = c.dtype, *((x.shape, x.dtype, x.sharding, x.committed) for x in arrays)
        if key not in self._compiled:
            self.jitted.lower(c, *arguments).compile()  # which jitted remembers
            self._compiled.add(key)


@lru_cache(maxsize=256)
def _call(rule: Hashable, inside: bool, compute: str, *facts: tuple[str, ...]) -> _Call:
    return _Call(partial(_step, rule, inside, compute, *facts))


@lru_cache(maxsize=256)
def _adding(rule: Hashable, finite: bool, compute: str, *facts: tuple[str, ...]) -> Any:
    return jax.jit(partial(_sums, Terms(cast(Rule, rule), finite), compute, *facts))


def _named(c: Any, names: Sequence[str], conditions: Sequence[str]) -> Coefficients:
    """The coefficients from a vector of them."""
    return nested({x: c[i] != 0 if x in conditions else c[i] for i, x in enumerate(names)})


def _step(
    rule: Any,
    inside: bool,
    compute: str,
    names: tuple[str, ...],
    conditions: tuple[str, ...],
    paths: tuple[str, ...],
    c: Any,
    params: Any,
    grads: Any,
    moments: Any,
    operands: Any,
) -> list[tuple[Any, ...]]:
    """The rule on every leaf: the function that XLA compiles."""
    c = _named(c, names, conditions)
    every = [c] * len(params)
    if inside:
        terms = Terms(rule, finite=False)
        sums = _added(terms, compute, paths, c, params, grads, moments, operands)
        group = [SimpleNamespace(**dict(zip(terms.names, mine, strict=True))) for mine in sums]
        shared = terms.group_scales(jnp, c, group)
        scales = [shared | terms.leaf_scales(jnp, c, own) for own in group]
        every = [bound(c, {path: x.astype(compute) for path, x in own.items()}) for own in scales]
    return [
        replaced(rule, own, compute, paths, p, g, *mine, *arrays)
        for own, p, g, mine, arrays in zip(every, params, grads, moments, operands, strict=True)
    ]


def _sums(
    terms: Terms,
    compute: str,
    names: tuple[str, ...],
    conditions: tuple[str, ...],
    paths: tuple[str, ...],
    c: Any,
    params: Any,
    grads: Any,
    moments: Any,
    operands: Any,
) -> Any:
    """The sums of every leaf."""
    c = _named(c, names, conditions)
    found = _added(terms, compute, paths, c, params, grads, moments, operands)
    return jnp.stack([jnp.stack(sums) for sums in found])


def _added(
    terms: Terms,
    compute: str,
    paths: Sequence[str],
    c: Coefficients,
    params: Any,
    grads: Any,
    moments: Any,
    operands: Any,
) -> list[list[Any]]:
    """The sums of every leaf, in the widest float that JAX computes in now."""
    found = []
    for p, g, mine, own in zip(params, grads, moments, operands, strict=True):
        given = bound(c, dict(zip(paths, own, strict=True)))
        p, g = (LIBRARY.computable(x, compute) for x in (p, g))
        found.append([added(x) for x in terms(jnp, given, p, g, *mine)])
    return found


def added(x: Any) -> Any:
    """The sum of an array, in a graph: in float64 where JAX has it.

    XLA adds in a tree, so float32 has a relative error of 2e-7 at most for 5e7 squares; and each
    device adds what it holds, whatever the layout, so that one number is sent. In the blocks of
    `sums` all of the array would be.
    """
    config: Any = jax.config
    return jnp.sum(x.astype("float64") if config.jax_enable_x64 else x)


def _gradient(leaf: Leaf, g: Any) -> Any:
    check.gradient(leaf.path, leaf.backend, leaf.shape, g)
    for x, what in ((leaf.array, "parameter"), (g, "gradient")):
        if x.is_deleted():
            raise ValueError(
                f"{at(leaf.path)}the {what} has been donated to another function, which has "
                "deleted it; pass an array that still exists"
            )
    return _beside(leaf.array, g)


def _known(g: Any) -> tuple[Any, ...]:
    """All that a compiled call depends on; objects that are most often the same ones."""
    return g.aval, g.sharding, g.committed


def _strong(x: Any) -> Any:
    # An array made of a Python float yields its dtype to others, which would be another trace.
    return x.astype(x.dtype) if x.weak_type else x


def _beside(p: Any, x: Any) -> Any:
    """`x` with the sharding of `p`; a last axis that only `x` has is not divided."""
    have, want = x.sharding, p.sharding
    same_mesh = getattr(have, "mesh", None) == getattr(want, "mesh", None)
    if have == want or (same_mesh and have.is_equivalent_to(want, x.ndim)):
        return x
    return jax.device_put(x, want)
