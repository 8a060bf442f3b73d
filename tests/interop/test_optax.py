"""A rule as a part of optax's chains."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from adam_any import functional, rules, schedules
from adam_any.interop import optax_transformation
from tests.helpers import ROOT
from tests.helpers.libraries import EPS


@pytest.fixture
def optax(jax: Any) -> Any:
    return pytest.importorskip("optax", reason="optax is not installed: pip install optax")


RULE = rules.Adam(lr=schedules.linear(0.1, 0.01, 5), weight_decay=0.1, decoupled=True)


def problem(jax: Any) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(0)

    def tree() -> Any:
        values = {"w": rng.normal(size=(3, 4)), "b": [rng.normal(size=5)]}
        return jax.tree.map(lambda x: jax.numpy.asarray(x, "float32"), values)

    return tree(), [tree() for _ in range(6)]


def run(jax: Any, optax: Any, transformation: Any, params: Any, grads: list[Any]) -> Any:
    @jax.jit
    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = transformation.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    rows = jax.tree.map(lambda *x: jax.numpy.stack(x), *grads)
    return jax.lax.scan(step, (params, transformation.init(params)), rows)[0]


def close(jax: Any, found: Any, wanted: Any, steps: int = 6) -> None:
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert abs(x - y).max() <= 8 * steps * EPS["float32"] * (1 + abs(y).max())


def test_it_is_the_step_of_functional(jax: Any, optax: Any) -> None:
    params, grads = problem(jax)
    found, state = run(jax, optax, optax_transformation(RULE), params, grads)
    want, inner = params, functional.init(params, RULE)
    for g in grads:
        want, inner = functional.step(want, g, inner, RULE)
    close(jax, found, want)
    assert int(state.count) == 6 and set(state.moments) == {"m", "v"}


def test_updates_lose_nothing_between_half_and_twice(jax: Any, optax: Any) -> None:
    params = jax.numpy.asarray(np.random.default_rng(0).normal(size=20_000), "float32")
    chained = optax_transformation(rules.Adam(lr=0.3))
    updates, _ = chained.update(params**3, chained.init(params), params)
    new = functional.step(params, params**3, functional.init(params), lr=0.3)[0]
    found = optax.apply_updates(params, updates)
    kept = (new / params >= 0.5) & (new / params <= 2)
    assert 5_000 < kept.sum() < 19_000 and (found == new)[kept].all()
    larger = np.maximum(abs(np.asarray(new)), abs(np.asarray(params)))
    assert (abs(np.asarray(found - new)) <= np.spacing(larger)).all()


def test_it_is_optax_adam_within_a_chain(jax: Any, optax: Any) -> None:
    params, grads = problem(jax)
    ours, theirs = (
        optax.chain(optax.clip_by_global_norm(1.0), adam)
        for adam in (optax_transformation(rules.Adam(lr=0.1)), optax.adam(0.1))
    )
    close(jax, *(run(jax, optax, each, params, grads)[0] for each in (ours, theirs)))


def test_gradients_that_are_not_finite_are_skipped(jax: Any, optax: Any) -> None:
    params, grads = problem(jax)
    bad = jax.tree.map(lambda g: g * math.nan, grads[0])
    wrapped = optax.apply_if_finite(optax_transformation(RULE), 3)
    found, _ = run(jax, optax, wrapped, params, [grads[0], bad, *grads[1:]])
    close(jax, found, run(jax, optax, optax_transformation(RULE), params, grads)[0])


def test_gradients_are_accumulated(jax: Any, optax: Any) -> None:
    params, grads = problem(jax)
    found, _ = run(jax, optax, optax.MultiSteps(optax_transformation(RULE), 2), params, grads)
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *grads[i : i + 2]) for i in (0, 2, 4)]
    close(jax, found, run(jax, optax, optax_transformation(RULE), params, means)[0])


def test_the_learning_rate_can_be_injected(jax: Any, optax: Any) -> None:
    params, grads = problem(jax)
    injected = optax.inject_hyperparams(optax_transformation)(rules.Adam(), lr=0.1)
    state = injected.init(params)
    state.hyperparams["lr"] = jax.numpy.float32(0.0)
    updates, state = jax.jit(injected.update)(grads[0], state, params)
    assert not any(jax.tree.leaves(jax.tree.map(lambda x: x.any(), updates)))
    state.hyperparams["lr"] = jax.numpy.float32(0.5)
    updates, _ = jax.jit(injected.update)(grads[0], state, params)
    assert all(jax.tree.leaves(jax.tree.map(lambda x: (abs(x) > 0.4).all(), updates)))


def test_complex_parameters_descend_along_conjugates(jax: Any, optax: Any) -> None:
    z, target = jax.numpy.zeros(2, "complex64"), np.array([1 + 2j, -1j], "complex64")
    adam = optax_transformation(rules.Adam(lr=0.05))

    def body(carry: Any, _: Any) -> Any:
        g = jax.grad(lambda z: (abs(z - target) ** 2).sum())(carry[0])
        updates, state = adam.update(g.conj(), carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    (z, _), _ = jax.lax.scan(body, (z, adam.init(z)), length=600)
    assert abs(np.asarray(z) - target).max() < 1e-3


def test_moments_can_be_mapped_like_parameters(jax: Any, optax: Any) -> None:
    params, _ = problem(jax)
    adam = optax_transformation(RULE)
    mapped = optax.tree.map_params(
        adam, lambda _, p: p, adam.init(params), params, transform_non_params=lambda _: None
    )
    assert mapped.count is None and mapped.moments == {"m": params, "v": params}


@pytest.mark.parametrize("kinds", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_an_update_has_the_wider_dtype(jax: Any, optax: Any, kinds: tuple[str, str]) -> None:
    p, g = (jax.numpy.ones(3, kind) for kind in kinds)
    adam = optax_transformation(RULE)
    updates, _ = adam.update(g, adam.init(p), p)
    assert updates.dtype == "float32" and optax.apply_updates(p, updates).dtype == kinds[0]


def test_without_parameters_there_is_a_sentence(jax: Any, optax: Any) -> None:
    adam = optax_transformation()
    with pytest.raises(ValueError, match="a rule needs them"):
        adam.update(jax.numpy.ones(2), adam.init(jax.numpy.ones(2)))


def test_optax_is_imported_when_it_is_needed() -> None:
    code = "import sys, adam_any.interop; sys.exit('optax' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
