"""JAX: one compiled call, moments donated, the user's arrays left alone."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW, Optimizer
from tests.helpers.bits import refused

jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
jnp = jax.numpy


@dataclasses.dataclass(frozen=True)
class Plain:
    """A rule of the user's own, which does what a test tells it to while it is traced."""

    lr: Any = 0.1
    kind: str = "momentum"
    moments = ("m",)
    traces = 0

    def coefficients(self, t: int) -> dict[str, float]:
        return {"lr": self.lr, "w": 1 / (1 + t)}

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
        type(self).traces += 1
        if self.kind == "keep the gradient":
            return p - c.lr * g, g
        if self.kind == "keep the parameter":
            return p, p
        if self.kind == "refuse complex" and FAIL and p.ndim == 2:
            raise ArithmeticError("no complex numbers")
        if self.kind == "fail when run":
            m = jax.pure_callback(fail_if_told, jax.ShapeDtypeStruct(m.shape, m.dtype), m)
        m = m + g
        return p - c.lr * m, m


FAIL = []


def fail_if_told(x: Any) -> Any:
    if FAIL:
        raise ArithmeticError("failed when run")
    return x


def moments(opt: Optimizer) -> list[Any]:
    return [moment for leaf in opt._contents.leaves for moment in leaf.moments]


def alive(opt: Optimizer) -> bool:
    return not any(moment.is_deleted() for moment in moments(opt) if hasattr(moment, "is_deleted"))


@pytest.mark.promise("JAX compiles once, whatever the step and the learning rate.")
def test_one_trace_serves_every_step_learning_rate_and_projection() -> None:
    class Counted(Plain):
        """A class of its own, so that nothing is compiled for it yet."""

    # The first is weakly typed, and what replaces it is not.
    params = [jnp.asarray(1.0), jnp.ones((2, 2))]
    opt = Optimizer(params, Counted(lr=lambda count: 0.1 / (1 + count)))
    for step in range(100):
        out = opt.step([jnp.asarray(0.1 * step), jnp.ones((2, 2))])
        if step == 50:
            opt.lr = 0.3
        opt.params = [jnp.clip(x, -1, 1) for x in out]
    assert Counted.traces == 3  # one on symbols, and one for each leaf
    copied = copy.deepcopy(opt)
    copied.step(copied.params)
    assert Counted.traces == 3


@pytest.mark.promise("JAX's moments are donated; your arrays are not.")
def test_moments_are_donated_and_nothing_of_the_users() -> None:
    params = {"w": jnp.ones(3), "z": jnp.ones(2, jnp.complex64), "h": jnp.ones(2, jnp.bfloat16)}
    grads = {name: 2 * x for name, x in params.items()}
    opt = Adam(params, amsgrad=True)
    before = moments(opt)
    out = opt.step(grads)
    assert all(moment.is_deleted() for moment in before)
    opt.step(grads)
    for x in (*params.values(), *grads.values(), *out.values()):
        assert not x.is_deleted()
    assert {row.engine for row in opt.explain()} == {"xla"}


@pytest.mark.parametrize("kind", ["keep the gradient", "keep the parameter"])
def test_an_argument_that_becomes_a_moment_is_not_donated_later(kind: str) -> None:
    p, g = jnp.ones(3), jnp.full(3, 2.0)
    opt = Optimizer(p, Plain(kind=kind))
    for _ in range(3):
        out = opt.step(g)
    assert np.asarray(g).tolist() == [2.0] * 3 and np.asarray(p).tolist() == [1.0] * 3
    assert np.asarray(out).tolist() == pytest.approx([0.4] * 3 if "grad" in kind else [1.0] * 3)


def test_results_are_committed_to_a_device_where_their_parameters_are() -> None:
    free, bound = jnp.ones(3), jax.device_put(jnp.ones(3), jax.devices()[0])
    for p in (free, bound):
        opt = Adam(p)
        for _ in range(2):
            assert opt.step(free).committed is p.committed
    assert bound.committed and not free.committed


OPTIONS: list[dict[str, Any]] = [
    {},
    {"amsgrad": True, "maximize": True},
    {"betas": (0.4, 0.3)},
    {"betas": (0.0, 0.999)},
    {"eps": 0.1},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_stays_within_4_eps_of_numpy(
    dtype: str, kind: type[Adam], options: dict[str, Any]
) -> None:
    """The bound that the engine states, from equal states, over 1.2 million elements each."""
    rng = np.random.default_rng(0)
    eps, n = np.finfo(dtype).eps, 20_000
    with jax.enable_x64(True):
        for lr in (1e-3, 0.1):
            for scale in (1e-3, 1.0, 1e3):
                start = (rng.normal(size=n) * 10 ** rng.uniform(-4, 2, n)).astype(dtype)
                host = kind(start.copy(), lr=lr, engine="eager", **options)
                opt = kind(jnp.asarray(start), lr=lr, **options)
                for step in range(10):
                    g = (rng.normal(size=n) * scale * (step % 5)).astype(dtype)
                    opt.load_state_dict(host.state_dict())
                    old = host.params.astype("float64")
                    opt.params = jnp.asarray(host.params)
                    got = np.asarray(opt.step(jnp.asarray(g)), "float64")
                    want = host.step(g).astype("float64")
                    size = np.maximum(np.maximum(abs(old), abs(want - old)), lr)
                    assert np.all(abs(got - want) <= 4 * eps * size)


# 64 bits -----------------------------------------------------------------------------------------


def test_64_bits_are_refused_where_jax_would_compute_in_32() -> None:
    with jax.enable_x64(True):
        p = jnp.ones(3, jnp.float64)
        opt = Adam({"w": p})
        forced = Adam({"w": p}, engine="eager")
        opt.step({"w": p})
    for call in (
        lambda: Adam({"w": p}),
        lambda: opt.step({"w": p}),
        lambda: forced.step({"w": p}),
        lambda: setattr(opt, "params", {"w": p}),
    ):
        with pytest.raises(TypeError, match=r"'w': the parameter is float64.*enable_x64"):
            call()
    state = opt.state_dict()
    assert str(state["state"]["w"]["m"].dtype) == "float64"
    state["state"]["w"]["m"] = np.full(3, 1 / 3)
    opt.load_state_dict(state)  # and this does not narrow them
    assert opt.state_dict()["state"]["w"]["m"].tolist() == [1 / 3] * 3
    with jax.enable_x64(True):
        assert opt.step({"w": p})["w"].dtype == "float64"


# State -------------------------------------------------------------------------------------------


def test_loaded_moments_do_not_share_the_hosts_memory() -> None:
    host = np.zeros(1 << 16, "float32")
    opt = Adam(jnp.zeros(1 << 16))
    state = opt.state_dict()
    state["state"][""].update(m=host, v=host)
    opt.load_state_dict(state)
    host[:] = 7
    assert not np.any(np.asarray(opt.state_dict()["state"][""]["m"]))
    opt.step(jnp.ones(1 << 16))
    assert np.all(host == 7)


# What fails --------------------------------------------------------------------------------------


@pytest.mark.promise("A rule that XLA cannot compile changes nothing.")
def test_a_rule_that_does_not_compile_for_some_leaves_changes_none() -> None:
    params = {"a": jnp.ones(3), "z": jnp.ones(3, jnp.complex64), "n": np.ones(3)}
    opt = Optimizer(params, Plain(kind="refuse complex"))
    FAIL.append(True)
    try:
        with refused(opt, ArithmeticError, match="no complex"):
            opt.step(params)
    finally:
        FAIL.clear()
    assert alive(opt)
    opt.step({"a": jnp.ones(3), "z": None, "n": None})
    assert opt.steps == {"a": 1, "z": 0, "n": 0}


def test_what_fails_elsewhere_fails_before_a_moment_is_donated() -> None:
    da = pytest.importorskip(
        "dask.array", reason="dask is not installed: pip install 'dask[array]'"
    )

    def fail(block: Any) -> Any:
        raise ArithmeticError("a bad gradient")

    params = {"d": da.ones(3), "j": jnp.ones(3)}
    opt = Adam(params)
    opt.step(params)
    bad = {"d": da.ones(3).map_blocks(fail, meta=np.ones(0)), "j": jnp.ones(3)}
    with refused(opt, ArithmeticError, match="a bad gradient"):
        opt.step(bad)
    assert alive(opt)
    opt.step(params)


def test_moments_lost_in_a_failing_run_are_said_to_be_lost() -> None:
    opt = Optimizer({"w": jnp.ones(3)}, Plain(kind="fail when run"))
    g = {"w": jnp.ones(3)}
    opt.step(g)
    state = opt.state_dict()
    FAIL.append(True)
    try:
        with pytest.raises(Exception, match="failed when run"):
            jax.block_until_ready(opt.step(g))
    finally:
        FAIL.clear()
    assert np.asarray(opt.params["w"]).tolist() == pytest.approx([0.9] * 3)
    for call in (lambda: opt.step(g), opt.state_dict):
        with pytest.raises(RuntimeError, match="load_state_dict"):
            call()
    opt.load_state_dict(state)
    assert np.asarray(opt.step(g)["w"]).tolist() == pytest.approx([0.7] * 3)


@pytest.mark.parametrize("before", [0, 5])  # so that the step goes the long way, or the short one
def test_arrays_that_another_function_has_consumed_are_named(before: int) -> None:
    gone = jnp.ones(3)
    gone.delete()
    opt = Adam({"w": jnp.ones(3)})
    for _ in range(before):
        opt.step({"w": jnp.ones(3)})
    for wrong in (jnp.ones(4), jnp.ones((1, 3)), jnp.float32(1.0)):
        with refused(opt, ValueError, match=r"'w': the gradient has shape"):
            opt.step({"w": wrong})
    with refused(opt, ValueError, match=r"'w': the gradient has been donated"):
        opt.step({"w": gone})
    opt.params["w"].delete()
    with pytest.raises(ValueError, match=r"'w': the parameter has been donated"):
        opt.step({"w": jnp.ones(3)})
    opt.params = {"w": jnp.ones(3)}
    opt.step({"w": jnp.ones(3)})


def test_a_rule_that_cannot_be_hashed_runs_eagerly() -> None:
    @dataclasses.dataclass(frozen=True)
    class Listed(Plain):
        names: Any = dataclasses.field(default_factory=list)

    opt = Optimizer(jnp.ones(3), Listed())
    (choice,) = opt.explain()
    assert choice.engine == "eager" and "unhashable" in choice.reason
    assert np.asarray(opt.step(jnp.ones(3))).tolist() == pytest.approx([0.9] * 3)


def test_the_learning_rate_reaches_a_rule_through_its_coefficients_alone() -> None:
    class Sneaky(Plain):
        def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
            return p - self.lr * g, m

    with pytest.raises(ValueError, match="has no value in update; let coefficients return it"):
        Optimizer(jnp.ones(3), Sneaky())
