"""scipy.optimize.minimize by a rule: the contract of a method, with SciPy's own functions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")

from adam_any import interop, rules  # noqa: E402

METHOD = interop.scipy_method(rules.Adam(lr=0.02))
START = np.array([-0.5, 0.5, 1.2])
rosen, rosen_der = optimize.rosen, optimize.rosen_der


def both(x: Any) -> Any:
    return rosen(x), rosen_der(x)


def solve(fun: Any = both, **options: Any) -> Any:
    return optimize.minimize(fun, START, **{"jac": True, "method": METHOD, **options})


@pytest.mark.parametrize("jac", [True, rosen_der])
def test_rosen_without_bounds(jac: Any) -> None:
    found = solve(both if jac is True else rosen, jac=jac, options={"maxiter": 6000})
    assert isinstance(found, optimize.OptimizeResult)
    assert found.success and found.status == 0
    np.testing.assert_allclose(found.x, 1, atol=1e-3)
    assert found.fun == rosen(found.x)
    np.testing.assert_array_equal(found.jac, rosen_der(found.x))
    assert (found.nit, found.nfev, found.njev) == (6000, 6001, 6001)


@pytest.mark.promise(
    "`scipy.optimize.minimize` takes a rule as its method, with bounds of every kind."
)
@pytest.mark.parametrize(
    "bounds",
    [
        optimize.Bounds(-0.3, 0.8),
        optimize.Bounds([-0.3] * 3, 0.8, keep_feasible=True),
        [(-0.3, 0.8)] * 3,
        np.array([[-0.3, 0.8]] * 3),
        ((-0.3, 0.8) for _ in range(3)),
    ],
)
def test_rosen_with_bounds_of_every_kind(bounds: Any) -> None:
    seen = []

    def watched(x: Any) -> Any:
        seen.append(x)
        return both(x)

    found = solve(watched, bounds=bounds, options={"maxiter": 3000})
    best = optimize.minimize(both, START, jac=True, bounds=[(-0.3, 0.8)] * 3)
    np.testing.assert_allclose(found.x, best.x, atol=2e-3)
    assert all(((x >= -0.3) & (x <= 0.8)).all() for x in seen)
    assert len({x.tobytes() for x in seen}) > 100  # each is an array of its own


def test_one_sided_and_fixed() -> None:
    found = solve(bounds=[(None, 0.5), (0.1, None), (0.7, 0.7)], options={"maxiter": 50})
    assert found.x[0] <= 0.5 and found.x[1] >= 0.1 and found.x[2] == 0.7


def test_tolerance_and_iterations() -> None:
    found = solve(tol=1e-3)
    assert found.success and found.nit < 1000
    missed = solve(tol=1e-12, options={"maxiter": 20})
    assert (missed.success, missed.status, missed.nit) == (False, 1, 20)
    assert not solve(tol=1e-12, options={"maxiter": 5}).success


def test_arguments_and_dtype() -> None:
    def fun(x: Any, a: float, b: float) -> Any:
        return np.array([((x - a) ** 2).sum() + b]), 2 * (x - a)

    x0 = np.zeros(2, np.float32)
    found = optimize.minimize(fun, x0, (3.0, 1.0), jac=True, method=interop.scipy_method())
    assert found.x.dtype == np.float32 and (x0 == 0).all()
    assert type(found.fun) is float
    integers = optimize.minimize(fun, [0, 0], (3.0, 1.0), jac=True, method=METHOD)
    assert integers.x.dtype == np.float64


def test_callbacks_of_both_forms() -> None:
    results, points = [], []

    def new(intermediate_result: Any) -> None:
        results.append(intermediate_result)
        if len(results) == 3:
            raise StopIteration

    found = solve(callback=new)
    assert (found.status, found.success, found.nit) == (99, False, 3)
    assert all(isinstance(r, optimize.OptimizeResult) and r.fun == rosen(r.x) for r in results)
    solve(callback=points.append, options={"maxiter": 4})
    assert len(points) == 4 and len({x.tobytes() for x in points}) == 4


def test_what_it_refuses_and_warns_of() -> None:
    with pytest.raises(ValueError, match=r"needs a gradient.*value_and_grad"):
        solve(rosen, jac="2-point")
    with pytest.raises(ValueError, match="constraints"):
        solve(constraints={"type": "eq", "fun": lambda x: x[0]})
    with pytest.raises(ValueError, match="3 pairs"):
        solve(bounds=[(0, 1)])
    with pytest.raises(ValueError, match=r"number 1 are 2\.0 and 1\.0"):
        solve(bounds=[(0, 1), (2, 1), (0, 1)])
    with pytest.raises(ValueError, match="as many as x0 has: 3"):
        solve(bounds=optimize.Bounds([0, 0], [1, 1]))
    own = interop.scipy_method(rules.Bounded(rules.Adam(), 0, 1))
    with pytest.raises(ValueError, match="bounds of its own"):
        solve(method=own, bounds=[(0, 1)] * 3)
    with pytest.warns(optimize.OptimizeWarning, match="Unknown solver options: gtoll"):
        solve(options={"gtoll": 1, "maxiter": 3})
    with pytest.warns(RuntimeWarning, match="Hessian"):
        solve(hess=lambda x: None, options={"maxiter": 3})


def test_it_is_a_local_minimiser() -> None:
    def hills(x: Any) -> Any:
        return float(np.sum(x**2 - np.cos(5 * x))), 2 * x + 5 * np.sin(5 * x)

    options = {"method": interop.scipy_method(rules.Adam(0.05)), "options": {"maxiter": 200}}
    found = optimize.basinhopping(
        hills, [1.5], niter=30, stepsize=1.0, minimizer_kwargs={**options, "jac": True}, rng=1
    )
    assert found.fun == pytest.approx(-1, abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        dual = optimize.dual_annealing(
            lambda x: hills(x)[0],
            [(-3, 3)],
            maxiter=20,
            rng=1,
            minimizer_kwargs={**options, "jac": lambda x: hills(x)[1]},
        )
    assert dual.fun == pytest.approx(-1, abs=1e-6)
