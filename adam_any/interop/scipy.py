"""A rule as a method of scipy.optimize.minimize, and so of all that takes one of its methods."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np

from .. import rules
from ..run import Record, Stop, minimize
from ..words import few, shown


def scipy_method(rule: Any = None) -> Callable[..., Any]:
    """Return a rule in the form that `scipy.optimize.minimize` takes as its `method`.

    Parameters
    ----------
    rule : rule, optional
        The mathematics; `rules.Adam()` unless given.

    Returns
    -------
    callable
        Its options are `maxiter` (1000); `tol`, the relative change over `patience` (10) iterations
        at which to stop; and `disp`. Bounds of every kind are kept by `rules.Bounded`: no iterate
        lies outside, the first included. The gradient is needed: ``jac=True`` or a callable. It
        returns an OptimizeResult of the best iterate. Without `tol` all iterations are made, and
        that is success.

    Raises
    ------
    ValueError
        In the call, without a gradient, for constraints, and for bounds that are crossed or of
        another length, or beside those of a rule that is `rules.Bounded` itself.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> from adam_any import interop, rules
    >>> method = interop.scipy_method(rules.Adam(lr=0.02))
    >>> found = minimize(rosen, np.zeros(2), jac=rosen_der, method=method,
    ...                  options={"maxiter": 5000})
    >>> print(found.x.round(3))
    [1. 1.]
    """
    own = rules.Adam() if rule is None else rule

    def method(
        fun: Callable[..., Any],
        x0: Any,
        args: tuple[Any, ...] = (),
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        maxiter: int = 1000,
        tol: float | None = None,
        patience: int = 10,
        disp: bool = False,
        **unknown: Any,
    ) -> Any:
        from scipy.optimize import OptimizeResult, OptimizeWarning

        if not callable(jac):
            raise ValueError(
                "this method needs a gradient, and SciPy passes finite differences on to its own "
                "methods only: pass jac=True and a function that returns (value, gradient), such "
                "as interop.value_and_grad(f), or jac=a function that returns the gradient"
            )
        if np.any(constraints):
            raise ValueError("this method cannot handle constraints; pass bounds, or a penalty")
        if unknown:
            names = ", ".join(unknown)
            warnings.warn(f"Unknown solver options: {names}", OptimizeWarning, stacklevel=4)
        for name, x in (("hess", hess), ("hessp", hessp)):
            if x is not None:
                text = f"this method does not use Hessian information ({name})"
                warnings.warn(text, RuntimeWarning, stacklevel=4)
        x0, bounded = np.array(x0), own
        if bounds is not None:
            lower, upper = _sides(bounds, x0)
            x0 = np.clip(x0, lower, upper)
            bounded = _bounded(own, lower, upper)

        def evaluated(x: Any) -> tuple[float, Any, Any]:
            x = x.copy()  # the next step writes it
            value = np.asarray(fun(x, *args))
            if value.size != 1:
                raise ValueError("the function must return one number")
            gradient = np.array(jac(x, *args), x.dtype)
            return float(value.reshape(())), gradient, gradient

        result = minimize(
            evaluated,
            x0,
            bounded,
            steps=int(maxiter),
            stop=None
            if tol is None or maxiter <= patience
            else Stop(change=tol, patience=patience),
            callback=None if callback is None else _called(callback, OptimizeResult),
            progress=bool(disp) and None,
        )
        success = result.success and (tol is None or maxiter > patience)
        if disp:
            print(result.message)
        return OptimizeResult(
            x=result.x,
            fun=result.fun,
            jac=result.aux,
            nit=result.nit,
            nfev=result.nfev,
            njev=result.nfev,
            success=success,
            status=result.status if success or result.status else 1,
            message="`callback` raised `StopIteration`." if result.status == 99 else result.message,
        )

    return method


def _called(callback: Callable[..., Any], kind: Any) -> Callable[[Record], None]:
    """SciPy's callback, of either form, as ours: after each iteration."""
    by_name = set(signature(callback).parameters) == {"intermediate_result"}

    def called(record: Record) -> None:
        if record.step == 0:
            return
        if by_name:
            callback(intermediate_result=kind(x=record.x, fun=record.fun))
        else:
            callback(record.x)

    return called


def _bounded(rule: Any, lower: Any, upper: Any) -> Any:
    wrapper: Any = getattr(rules, "Bounded", None)
    if wrapper is None:
        raise NotImplementedError("bounds need rules.Bounded, which this version does not have")
    if isinstance(rule, wrapper):
        raise ValueError("the rule has bounds of its own; give them in one place")
    return wrapper(rule, lower, upper)


def _sides(bounds: Any, x0: Any) -> tuple[Any, Any]:
    """The lower and the upper bound of each number, infinite where there is none."""
    if hasattr(bounds, "lb"):
        low, high = bounds.lb, bounds.ub
    else:
        pairs = list(bounds)
        if len(pairs) != x0.size or any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"bounds are {few(pairs)}; they must be {x0.size} pairs (low, high)")
        low = [-np.inf if a is None else a for a, _ in pairs]
        high = [np.inf if b is None else b for _, b in pairs]
    try:
        lower, upper = (
            np.array(np.broadcast_to(np.asarray(x, x0.dtype), x0.shape)) for x in (low, high)
        )
    except (TypeError, ValueError):
        raise ValueError(
            f"bounds are {shown(bounds)}; they must be numbers, or as many as x0 has: {x0.size}"
        ) from None
    if not (lower <= upper).all():
        where = int(np.argmin(lower <= upper))
        raise ValueError(
            f"the bounds of number {where} are {lower[where]} and {upper[where]}; the lower one "
            "must not be above the upper one"
        )
    return lower, upper
