"""Gradients of one convention, by the library of the parameters; and runs on real models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adam_any import Adam, Stop, functional, interop, minimize, rules

Z0 = np.array([2 + 3j, -1j])
X = np.array([[1.0, 2.0], [3.0, 5.0]])


def distance(z: Any) -> Any:
    return (abs(z["z"] - Z0) ** 2).sum() + z["w"][0] ** 2


def start() -> dict[str, Any]:
    return {"z": np.array([1 + 1j, 2.0]), "w": [np.array(3.0), None]}


def check(found: Any, to_numpy: Any = np.asarray) -> None:
    value, grads = found
    z = start()["z"]
    assert float(value) == pytest.approx((abs(z - Z0) ** 2).sum() + 9)
    np.testing.assert_allclose(to_numpy(grads["z"]), 2 * (z - Z0))
    assert float(grads["w"][0]) == pytest.approx(6) and grads["w"][1] is None


def test_autograd() -> None:
    np_ = pytest.importorskip("autograd.numpy", reason="autograd is not installed")

    def f(z: Any) -> Any:
        return np_.sum(np_.abs(z["z"] - Z0) ** 2) + z["w"][0] ** 2

    check(interop.value_and_grad(f)(start()))


def test_jax(jax: Any) -> None:
    with jax.enable_x64(True):
        params = jax.tree.map(jax.numpy.asarray, start())
        given = interop.value_and_grad(lambda z: distance(z))
        check(given(params))
        check(jax.jit(given)(params))
    check(interop.value_and_grad(distance, by="jax")(start()))


def test_the_gradients_of_a_compiled_function_are_compiled(jax: Any) -> None:
    given = interop.value_and_grad(jax.jit(lambda x: (x[0] * jax.numpy.sin(x[1])) ** 2))
    for container in (list, tuple):  # one after the other, by one function
        params = container(map(jax.numpy.asarray, (2.0, 0.5)))
        assert len(jax.make_jaxpr(given)(params).eqns) == 1
        _, grads = given(params)
        assert type(grads) is container
        assert float(grads[0]) == pytest.approx(4 * np.sin(0.5) ** 2, rel=1e-6)


def test_torch(torch_: Any) -> None:
    z0 = torch_.tensor(Z0)

    def f(z: Any) -> Any:
        return ((z["z"] - z0).abs() ** 2).sum() + z["w"][0] ** 2

    made = {"z": torch_.tensor(start()["z"]).requires_grad_(), "w": [torch_.tensor(3.0), None]}
    made["w"][0] = made["w"][0].double()
    found = interop.value_and_grad(f)(made)
    assert not found[0].requires_grad and not found[1]["z"].requires_grad
    assert made["z"].grad is None
    check(found, lambda x: x.numpy())
    by_numpy = interop.value_and_grad(f, by="torch")(start())
    assert type(by_numpy[1]["z"]) is np.ndarray
    check(by_numpy)


def test_functional_with_the_line_that_the_docs_show(jax: Any) -> None:
    """Without the conjugate this runs away; see docs/minimize.md."""
    np_ = jax.numpy
    loss = interop.value_and_grad(lambda z: abs(z - (2 + 3j)) ** 2)
    z, state = np_.zeros((), "complex64"), functional.init(np_.zeros((), "complex64"))
    for _ in range(300):
        z, state = functional.step(z, loss(z)[1], state, lr=0.05)
    assert abs(z - (2 + 3j)) < 0.05


def test_what_does_not_depend_has_zeros(torch_: Any, jax: Any) -> None:
    for by in ("torch", "jax"):
        _, grads = interop.value_and_grad(lambda p: (p["a"] ** 2).sum(), by=by)(
            {"a": np.ones(2), "b": np.ones(3)}
        )
        assert grads["b"].tolist() == [0, 0, 0]
    model = torch_.nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"depends on none.*functional_call"):
        interop.value_and_grad(lambda p: model(torch_.ones(2)).sum())(
            dict(model.named_parameters())
        )
    with pytest.raises(ValueError, match="one real number"):
        interop.value_and_grad(lambda p: p * 2)(torch_.ones(2))


def test_what_it_refuses(torch_: Any) -> None:
    with pytest.raises(TypeError, match="f is 3"):
        interop.value_and_grad(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by is 'tf'"):
        interop.value_and_grad(abs, by="tf")
    with pytest.raises(TypeError, match="several libraries"):
        interop.value_and_grad(abs)([np.ones(1), torch_.ones(1)])
    with pytest.raises(TypeError, match="not an array"):
        interop.value_and_grad(abs)("x")
    with pytest.raises(TypeError, match="torch has no gradients of its own by jax"):
        interop.value_and_grad(abs, by="jax")(torch_.ones(1))
    da = pytest.importorskip("dask.array", reason="dask is not installed")
    with pytest.raises(TypeError, match="dask has no gradients"):
        interop.value_and_grad(abs)(da.ones(3))


def test_without_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "autograd", None)
    with pytest.raises(ImportError, match=r"pip install autograd; or pass by='jax'"):
        interop.value_and_grad(abs)(np.ones(1))


# Runs ---------------------------------------------------------------------------------------------


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3))
    return x, np.tanh(x @ [1.0, -2.0, 0.5] + 0.3)


def test_a_model_in_autograd() -> None:
    np_ = pytest.importorskip("autograd.numpy", reason="autograd is not installed")
    x, y = data()

    def loss(p: Any) -> Any:
        return np_.mean((np_.tanh(np_.dot(x, p["w"]) + p["b"]) - y) ** 2)

    fun = interop.value_and_grad(loss)
    result = minimize(fun, {"w": np.zeros(3), "b": 0.0}, rules.Adam(0.05), stop=Stop(value=1e-6))
    assert result.success
    np.testing.assert_allclose(result.x["w"], [1, -2, 0.5], atol=0.05)


def test_a_model_in_torch(torch_: Any) -> None:
    x, y = (torch_.tensor(a, dtype=torch_.float32) for a in data())
    torch_.manual_seed(0)
    model = torch_.nn.Linear(3, 1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(params: Any) -> Any:
        out = torch_.func.functional_call(model, params, x)
        return ((torch_.tanh(out[:, 0]) - y) ** 2).mean()

    params = dict(model.named_parameters())
    fun = interop.value_and_grad(loss)
    result = minimize(fun, params, rules.Adam(0.05), stop=Stop(value=1e-5))
    assert result.success
    assert all(torch_.equal(before[name], p) for name, p in model.named_parameters())
    model.load_state_dict(result.params)
    assert loss(dict(model.named_parameters())).item() <= 1e-5


def test_a_model_in_jax(jax: Any) -> None:
    x, y = map(jax.numpy.asarray, data())
    fun = jax.jit(
        interop.value_and_grad(lambda p: ((jax.numpy.tanh(x @ p["w"] + p["b"]) - y) ** 2).mean())
    )
    begin = {"w": jax.numpy.zeros(3), "b": jax.numpy.zeros(())}
    result = minimize(fun, begin, rules.Adam(0.05), stop=Stop(value=1e-5), every=10)
    assert result.success


def test_a_simulation_with_an_adjoint_by_hand() -> None:
    """A damped oscillator by the leapfrog scheme: its stiffness and damping from its path."""
    dt, steps = 0.05, 120

    def simulate(p: Any) -> Any:
        q, v, path = 1.0, 0.0, []
        for _ in range(steps):
            v = v - dt * (p[0] * q + p[1] * v)
            q = q + dt * v
            path.append((q, v))
        return np.array(path)

    seen = simulate(np.array([2.0, 0.3]))[:, 0]

    def fun(p: Any) -> Any:
        path = simulate(p)
        residual = path[:, 0] - seen
        dq = dv = 0.0
        gradient = np.zeros(2)
        for n in reversed(range(steps)):
            q, v = path[n - 1] if n else (1.0, 0.0)
            dq = dq + 2 * residual[n]
            dv = dv + dt * dq
            gradient -= dt * dv * np.array([q, v])
            dq, dv = dq - dt * p[0] * dv, dv - dt * p[1] * dv
        return (residual**2).sum(), gradient

    p, h = np.array([1.0, 0.1]), 1e-6
    slope = [(fun(p + e)[0] - fun(p - e)[0]) / (2 * h) for e in h * np.eye(2)]
    np.testing.assert_allclose(fun(p)[1], slope, rtol=1e-6)
    positive = rules.Bounded(rules.Adam(0.05), 0.0, None)
    result = minimize(fun, p, positive, stop=Stop(value=1e-8))
    assert result.success
    np.testing.assert_allclose(result.x, [2, 0.3], atol=1e-3)


def test_adams_docstring_says_which_way_a_gradient_points() -> None:
    for text in (Adam.__doc__, functional.step.__doc__, minimize.__doc__):
        assert "dL/dRe + i dL/dIm" in str(text) and "jax.grad" in str(text)
