"""To optax: a rule of this package as a part of optax's chains.

optax and JAX are imported by `optax_transformation` alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import functional
from ..rule import Rule


class State(NamedTuple):
    """The state of the transformation.

    Attributes
    ----------
    count : array
        The number of updates so far: an int32 array of shape (), one for all leaves as in optax.
    moments : dict of trees
        As in `functional.State`.
    """

    count: Any
    moments: dict[str, Any]


def optax_transformation(rule: Rule | None = None, *, lr: Any = None) -> Any:
    """Return a rule as an `optax.GradientTransformation`.

    Parameters
    ----------
    rule : rule, optional
        The mathematics; `rules.Adam()` unless given.
    lr : float, 0-d array, tracer or callable, optional
        Takes the place of the rule's learning rate: so
        ``optax.inject_hyperparams(optax_transformation)(rule, lr=0.1)`` can change it in its state.

    Returns
    -------
    optax.GradientTransformation
        Its `update` needs the parameters. It goes where optax.adam would go: after what changes
        gradients, such as `optax.clip_by_global_norm`.

    Notes
    -----
    An update is the difference of two parameters. So `optax.apply_updates` gives the bits of
    `functional.step` wherever a parameter stays between half and twice what it was, and within an
    ulp of the larger of the two elsewhere. A parameter may leave bounds by as much.

    The gradient of a complex parameter is dL/dRe + i dL/dIm, for which optax's own transformations
    descend, too: conjugate what `jax.grad` gives, as before `optax.sgd`. Real and imaginary part
    are updated as two real numbers, as `optax.contrib.split_real_and_imaginary` does; optax.adam
    takes the square of the modulus.

    Examples
    --------
    >>> import optax
    >>> from adam_any.rules import Adam
    >>> adam = optax.chain(optax.clip_by_global_norm(1.0), optax_transformation(Adam(lr=0.1)))
    """
    import jax
    import optax

    def init(params: Any) -> State:
        state = functional.init(jax.tree.map(jax.numpy.asarray, params), rule)
        return State(jax.numpy.zeros((), "int32"), state.moments)

    def update(updates: Any, state: State, params: Any = None) -> tuple[Any, State]:
        if params is None:
            raise ValueError("params is None; a rule needs them: update(grads, state, params)")
        grads, params = jax.tree.map(jax.numpy.asarray, (updates, params))
        counts = jax.tree.map(lambda _: state.count, params)
        before = functional.State(counts, state.moments)
        new, after = functional.step(params, grads, before, rule, lr=lr)
        # Like optax's own, in the wider of the two dtypes: it is the one that `lax.cond` expects.
        change = jax.tree.map(
            lambda g, n, p: n.astype(jax.numpy.result_type(g, p)) - p, grads, new, params
        )
        return change, State(state.count + 1, after.moments)

    return optax.GradientTransformation(init, update)
