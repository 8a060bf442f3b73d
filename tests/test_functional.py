"""The pure face: the numbers of the class, nothing written, everything traceable."""

from __future__ import annotations

import inspect
import math
from collections import namedtuple
from typing import Any

import mpmath
import numpy as np
import optree
import pytest

from adam_any import Adam, AdamW, functional, rules
from adam_any.functional import State
from tests.helpers import oracle
from tests.helpers.bits import as_bytes
from tests.helpers.libraries import EPS, Lib


def init(params: Any, *, amsgrad: bool = False) -> State:
    return functional.init(params, rules.Adam(amsgrad=amsgrad))


def step(params: Any, grads: Any, state: State, *, lr: Any = None, **options: Any) -> Any:
    return functional.step(params, grads, state, rules.Adam(**options), lr=lr)


Pair = namedtuple("Pair", "first second")

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "L2": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled": True},
    "amsgrad": {"amsgrad": True, "maximize": True},
    "schedule": {"lr": lambda count: 0.1 / (1 + count)},
}


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax", reason="jax is not installed: pip install jax")


def tree_bytes(tree: Any) -> list[Any]:
    leaves = optree.tree_leaves(tree)
    return [x if isinstance(x, int) else as_bytes(x) for x in leaves]


# On any library ----------------------------------------------------------------------------------


@pytest.mark.uses("operators")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_numbers_are_those_of_the_class_run_eagerly(lib: Lib, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    options = {"lr": 0.1, **options}
    named = dict(options)
    kind = AdamW if named.pop("decoupled", False) else Adam
    for dtype in lib.dtypes:
        values = rng.normal(size=(3, 4)) * (1 - 2j if dtype.startswith("complex") else 1)
        opt = kind(
            {"w": lib.array(values, dtype)}, engine="eager", **{"weight_decay": 0.0, **named}
        )
        params = {"w": lib.array(values, dtype)}
        state = init(params, amsgrad=options.get("amsgrad", False))
        for i in range(3):
            g = {"w": lib.array(values * (i - 1), dtype)}
            params, state = step(params, g, state, **options)
            want = opt.step(g)
        assert as_bytes(params["w"]) == as_bytes(want["w"])
        lib.check(params["w"], dtype, (3, 4))
        entry = opt.state_dict()["state"]["w"]
        assert int(state.step["w"]) == entry.pop("step") == 3
        for name, moment in entry.items():
            assert as_bytes(state.moments[name]["w"]) == as_bytes(moment)
        assert list(state.moments) == list(entry)


@pytest.mark.uses("operators")
def test_arguments_are_not_written(lib: Lib) -> None:
    for dtype in lib.dtypes:
        params = {"w": lib.array([1.0, 2.0], dtype), "s": lib.array(1.0, dtype)}
        state = init(params, amsgrad=True)
        for _ in range(2):
            before = tree_bytes((params, state))
            options = {"weight_decay": 0.1, "amsgrad": True, "maximize": True, "lr": 0.5}
            new, after = step(params, params, state, **options)
            assert tree_bytes((params, state)) == before
            state = after
        assert not np.array_equal(lib.numpy(new["w"]), lib.numpy(params["w"]))
        assert tree_bytes(new) != tree_bytes(params)


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex128"])
def test_read_only_arrays_serve_as_every_argument(dtype: str) -> None:
    def frozen(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            x.flags.writeable = False
        return x

    params = {"w": frozen(np.ones((2, 3), dtype)), "o": frozen(np.ones((2, 3), dtype, order="F"))}
    state = init(params)
    for _ in range(3):
        state = optree.tree_map(frozen, state, none_is_leaf=True)
        params = optree.tree_map(frozen, params)
        params, state = step(params, params, state)
    assert state.step == {"w": 3, "o": 3}
    assert params["o"].flags.f_contiguous


def test_python_floats_and_numpy_scalars_keep_their_kind() -> None:
    params = [1.0, np.float32(1.0), np.complex64(1)]
    state = init(params)
    for _ in range(3):
        params, state = step(params, [2.0, np.float32(2.0), np.complex64(2)], state, lr=0.1)
    want = oracle.run(1.0, [2.0] * 3, lr=0.1)[-1].p
    assert [type(x) for x in params] == [float, np.float32, np.complex64]
    assert params[0] == pytest.approx(want, rel=12 * EPS["float64"])
    assert state.step == [3, 3, 3]


def test_counts_are_ints_but_arrays_for_jax(lib: Lib) -> None:
    state = init({"w": lib.array([1.0])})
    if lib.name == "jax":
        lib.check(state.step["w"], "int32", ())
    else:
        assert type(state.step["w"]) is int


def test_trees_are_like_the_parameters() -> None:
    params = Pair({"a": np.ones(2), "none": None}, [(np.ones(3), 1.0)])
    state = init(params, amsgrad=True)
    new, after = step(params, params, state, amsgrad=True)
    specs = {
        optree.tree_structure(tree, none_is_leaf=True)
        for tree in (params, new, state.step, after.step, *state.moments.values())
    }
    assert len(specs) == 1 and type(after) is State
    assert new.first["none"] is None is after.moments["m"].first["none"] is after.step.first["none"]
    assert init({}) == State({}, {"m": {}, "v": {}}) == step({}, {}, init({}))[1]


def test_a_none_gradient_skips_its_leaf_and_its_count() -> None:
    params = {"a": np.ones(2), "b": {"c": np.ones(2), "d": np.ones(2)}}
    state = init(params)
    one = {"a": np.ones(2), "b": None}
    new, state = step(params, one, state, lr=0.1)
    assert state.step == {"a": 1, "b": {"c": 0, "d": 0}}
    assert new["b"]["c"].tolist() == [1.0, 1.0] and not state.moments["v"]["b"]["c"].any()
    new, state = step(new, {"a": None, "b": {"c": np.full(2, 0.5), "d": None}}, state, lr=0.1)
    assert new["b"]["c"] == pytest.approx(0.9)  # the first update of a late parameter is whole
    assert state.step == {"a": 1, "b": {"c": 1, "d": 0}}


@pytest.mark.parametrize("make", [float, np.float32, np.array, lambda x: np.array(x, "float32")])
def test_the_learning_rate_may_be_a_0d_array(make: Any) -> None:
    p = np.ones(3)
    want = step(p, p, init(p), lr=float(make(0.3)))[0]
    assert as_bytes(step(p, p, init(p), lr=make(0.3))[0]) == as_bytes(want)
    assert as_bytes(step(p, p, init(p), lr=lambda count: make(0.3))[0]) == as_bytes(want)


def test_a_schedule_is_called_with_the_leafs_own_count() -> None:
    seen = []
    params = {"a": np.ones(1), "b": np.ones(1)}
    state = init(params)
    for grads in ({"a": np.ones(1), "b": None}, params):
        _, state = step(params, grads, state, lr=lambda count: seen.append(count) or 0.1)
    assert seen == [0, 1, 0]


def test_signatures_are_those_of_the_class() -> None:
    rule, adam = (inspect.signature(f).parameters for f in (rules.Adam, Adam.__init__))
    for name in ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"):
        assert rule[name].default == adam[name].default


P = {"w": np.ones((2, 2), "float32")}
WRONG: list[tuple[Any, ...]] = [
    (P, {"w": np.ones(2, "float32")}, {}, ValueError, r"'w': the gradient has shape \(2,\)"),
    (P, {"w": [1.0]}, {}, ValueError, "'w': the gradient has a list"),
    (P, {"x": P["w"]}, {}, ValueError, "missing"),
    (P, {"w": np.ones((2, 2), int)}, {}, TypeError, "'w': the gradient has dtype int64"),
    (P, {"w": 1.0}, {}, TypeError, "'w': the gradient belongs to python"),
    (P, P, {"lr": -1.0}, ValueError, "lr is -1.0"),
    (P, P, {"lr": math.nan}, ValueError, "lr is nan"),
    (P, P, {"lr": np.ones(2)}, ValueError, "'w': lr"),
    (P, P, {"lr": lambda count: -1.0}, ValueError, r"'w': lr\(0\) is -1.0"),
    (P, P, {"lr": lambda count: 1e39}, ValueError, "'w': coefficient 'lr' is .*finite float32"),
    (P, P, {"eps": 1e-60}, ValueError, "'w': eps = 1e-60 is 0.0 in float32"),
    (P, P, {"betas": (0.9, 1.0)}, ValueError, "betas"),
    (P, P, {"amsgrad": True}, ValueError, "the moments in the state are"),
    ({"w": None}, P, {}, ValueError, "'w': a gradient for a parameter that is None"),
    ({"w": np.ones(3)}, {"w": np.ones(3)}, {}, ValueError, "'w': m in the state is"),
    ({"w": 1}, P, {}, TypeError, "'w': the parameter is an int"),
]


@pytest.mark.parametrize(("params", "grads", "options", "error", "match"), WRONG)
def test_errors_are_those_of_the_class(
    params: Any, grads: Any, options: Any, error: Any, match: str
) -> None:
    state = init(P)
    with pytest.raises(error, match=match):
        step(params, grads, state, **options)
    assert not any(state.moments["m"]["w"].ravel()) and state.step == {"w": 0}


def test_a_state_without_vmax_and_one_with_it_are_told_apart() -> None:
    with pytest.raises(ValueError, match="the moments in the state are"):
        step(P, P, init(P, amsgrad=True))


# Under a trace -----------------------------------------------------------------------------------


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9999), (0.99, 0.99999), (0.0, 0.3)])
def test_traced_coefficients_are_within_5e_7(
    jax: Any, betas: tuple[float, float], x64: bool
) -> None:
    counts = [*range(2000), *(2**k - 1 for k in range(11, 31)), 10**6, 10**7 + 3]
    rule = rules.Adam(1e-3, betas)

    def traced(count: Any) -> Any:
        c = functional._Step(rule, None)._coefficients("float32", count)
        return c.alpha, c.s

    with jax.enable_x64(x64):
        alphas, scales = jax.jit(jax.vmap(traced))(np.array(counts, "int32"))
    # With beta 0 nothing is left of the count but a number that yields to float32.
    assert all(x.dtype == "float32" or x.weak_type for x in (alphas, scales))
    with mpmath.workdps(40):
        for count, alpha, s in zip(counts, alphas.tolist(), scales.tolist(), strict=True):
            one, two = (1 - mpmath.mpf(beta) ** (count + 1) for beta in betas)
            assert abs(alpha * one / mpmath.mpf(1e-3) - 1) <= 5e-7, count
            assert abs(s * mpmath.sqrt(two) - 1) <= 5e-7, count


def close(got: Any, want: Any, steps: int, dtype: str = "float32") -> bool:
    """Coefficients within 5e-7, and 4 eps of arithmetic a step, both of at most |p|, lr <= 1."""
    error = np.abs(np.asarray(got, "float64") - np.asarray(want, "float64"))
    return bool(
        np.all(error <= steps * (5e-7 + 4 * EPS["float32"] + 2 * (dtype != "float32") * EPS[dtype]))
    )


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float", "complex64", "tree"])
def test_scan_carries_params_and_state(jax: Any, kind: str, x64: bool) -> None:
    jnp = jax.numpy
    with jax.enable_x64(x64):
        start: Any = {
            "float": 1.0,
            "tree": {"a": 1.0, "b": jnp.ones(2, "bfloat16"), "n": None},
        }.get(kind)
        start = jnp.ones(3, kind) if start is None else start

        def body(carry: Any, _: Any) -> Any:
            params, state = carry
            grads = jax.tree.map(lambda x: 2 * x, params)
            carry = step(params, grads, state, lr=lambda count: 0.1 / (1 + count), amsgrad=True)
            return carry, None

        def loop(params: Any) -> Any:
            return jax.lax.scan(body, (params, init(params, amsgrad=True)), length=20)[0]

        kinds = [jnp.asarray(x).dtype for x in jax.tree.leaves(start)]
        wide = [("float64" if k == "float64" else "float32") for k in kinds]
        for out in (loop(start), jax.jit(loop)(start)):
            again, _ = jax.lax.scan(body, out, length=1)
            for x, y in zip(*map(jax.tree.leaves, (out, again)), strict=True):
                assert (x.dtype, x.weak_type) == (y.dtype, y.weak_type)
            assert [x.dtype for x in jax.tree.leaves(out[0])] == kinds
            for moment in out[1].moments.values():
                assert [x.dtype for x in jax.tree.leaves(moment)] == wide
            assert jax.tree.structure(out[0]) == jax.tree.structure(start)
        one = np.ones(())
        path = [one]
        m = v = top = 0.0
        for t in range(1, 21):  # the gradient depends on p, so the oracle runs one step at a time
            g = 2 * path[-1]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            top = max(top, v)
            path.append(
                path[-1] - 0.1 / t * (m / (1 - 0.9**t)) / (math.sqrt(top / (1 - 0.999**t)) + 1e-8)
            )
        for x in jax.tree.leaves(out[0]):
            coarse = "bfloat16" if x.dtype == "bfloat16" else "float32"
            assert close(np.real(np.asarray(x).astype("complex64")), path[-1], 20, coarse)


def test_everything_but_the_learning_rate_may_be_traced_and_that_too(jax: Any) -> None:
    jnp = jax.numpy
    traces = []

    @jax.jit
    def train(params: Any, grads: Any, state: State, lr: Any) -> Any:
        traces.append(1)
        return step(params, grads, state, lr=lr, weight_decay=0.1, decoupled=True)

    params = {"w": jnp.linspace(0.1, 1, 5)}
    opt = AdamW({"w": np.asarray(params["w"])}, weight_decay=0.1, engine="eager")
    state = init(params)
    for lr in (0.1, 0.05, jnp.float32(0.3), jnp.bfloat16(0.25), 0):
        opt.lr = float(lr)
        g = {"w": params["w"] - 0.5}
        params, state = train(params, g, state, jnp.asarray(lr, "float32"))
        want = opt.step({"w": np.asarray(g["w"])})
    assert len(traces) == 1
    assert close(params["w"], want["w"], 5)
    with pytest.raises(ValueError, match="lr has shape"):
        jax.jit(train)(params, params, state, jnp.ones(3))


def test_a_traced_rate_with_a_count_that_has_a_value(jax: Any) -> None:
    p = jax.numpy.ones(3)
    state = init(p)
    want = step(np.ones(3), np.ones(3), init(np.ones(3)), lr=0.75)[0]
    with jax.enable_x64(True):
        for dtype in ("bfloat16", "float32", "float64"):
            lr = jax.numpy.asarray(0.75, dtype)
            assert close(jax.jit(lambda lr: step(p, p, state, lr=lr)[0])(lr), want, 1)
            new, _ = jax.jit(lambda lr, s: step(p, p, s, lr=lr))(lr, state)
            assert new.dtype == "float32" and close(new, want, 1)


def test_vmap_steps_each_member_alone(jax: Any) -> None:
    jnp = jax.numpy
    p, g = jnp.arange(12.0).reshape(4, 3), jnp.ones((4, 3)) * jnp.arange(4.0)[:, None]
    rates = jnp.array([0.1, 0.2, 0.3, 0.4])
    states = jax.vmap(init)(p)
    assert states.step.shape == (4,)

    def train(p: Any, g: Any, state: State, lr: Any) -> Any:
        return step(p, g, state, lr=lr)

    new, after = jax.vmap(train)(p, g, states, rates)
    for i in range(4):
        want, state = step(p[i], g[i], init(p[i]), lr=rates[i])
        assert np.allclose(new[i], want, rtol=4 * EPS["float32"], atol=0)
        assert int(after.step[i]) == int(state.step) == 1


def test_a_step_can_be_differentiated(jax: Any) -> None:
    with jax.enable_x64(True):
        p, g = jax.numpy.array([1.0, -2.0]), jax.numpy.array([0.3, -0.7])
        state = init(p)

        def moved(lr: Any, g: Any) -> Any:
            return step(p, g, state, lr=lr, eps=0.1)[0].sum()

        by_lr, by_g = jax.jit(jax.grad(moved, argnums=(0, 1)))(0.1, g)
        # At the first step p moves by lr g / (|g| + eps).
        assert by_lr == pytest.approx(-float((g / (abs(g) + 0.1)).sum()), rel=1e-12)
        assert by_g == pytest.approx(np.asarray(-0.1 * 0.1 / (abs(g) + 0.1) ** 2), rel=1e-12)


def test_a_learning_rate_can_be_learned_through_many_steps(jax: Any) -> None:
    def last(lr: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            params, state = carry
            return step(params, 2 * params, state, lr=lr), None

        p = jax.numpy.array([1.0, 3.0])
        (p, _), _ = jax.lax.scan(body, (p, init(p)), length=10)
        return (p**2).sum()

    slope = jax.grad(last)(0.01)
    by_hand = float(last(0.011) - last(0.009)) / 0.002
    assert float(slope) == pytest.approx(by_hand, rel=0.01) and slope < 0


def test_state_can_be_donated(jax: Any) -> None:
    p = jax.numpy.ones(3)
    state = init(p, amsgrad=True)
    train = jax.jit(lambda p, state: step(p, p, state, amsgrad=True), donate_argnums=(0, 1))
    for _ in range(3):
        p, state = train(p, state)  # no two of them share a buffer
    assert int(state.step) == 3


def test_one_leaf_may_be_traced_beside_values(jax: Any) -> None:
    p = {"w": jax.numpy.ones(2)}
    state = init(p)
    new, after = jax.jit(lambda g: step(p, {"w": g}, state, lr=0.1))(jax.numpy.ones(2))
    assert np.asarray(new["w"]) == pytest.approx(0.9) and int(after.step["w"]) == 1
