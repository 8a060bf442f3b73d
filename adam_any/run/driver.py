"""minimize: from a function and its gradients to a result, by any rule.

    evaluate -> record, every so many steps: value, best so far, stop?, callback, checkpoint
             -> step -> evaluate -> ...

The value stays on its device between records, so nothing waits for it there. A run ends with an
evaluation at the last parameters, so that they count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

import numpy as np

from ..rules import Adam
from ..words import shown
from . import stop as conditions
from .loop import Run, Store
from .records import Record, Result
from .stop import Condition


def minimize(
    fun: Callable[[Any], Any],
    params: Any,
    rule: Any = None,
    *,
    steps: int = 1000,
    stop: Condition | None = None,
    callback: Callable[[Any], Any] | None = None,
    every: int = 1,
    checkpoint: str | os.PathLike[str] | Store | None = None,
    progress: bool | None = None,
) -> Result:
    """Minimize a function by a rule.

    Parameters
    ----------
    fun : callable
        ``fun(params)`` returns ``(value, grads)`` or ``(value, grads, aux)``: one real number, and
        a tree like the parameters; `interop.value_and_grad` makes such a function of one that
        returns the value alone. The gradient of a complex parameter points uphill,
        dL/dRe + i dL/dIm, as torch gives it; conjugate what `jax.grad` and HIPS autograd give. The
        arrays that it is given are written by the next step, so copy what you keep.
    params : tree
        Where to begin: arrays of any library, or a nested container of them. They are copied, and
        never written.
    rule : rule, optional
        A rule, a wrapper, or what else `Optimizer` takes; `rules.Adam()` unless given. Where it
        maximizes, the largest value is the best.
    steps : int
        The most steps. The function is evaluated once more than there are steps.
    stop : Stop or callable, optional
        When to stop before that; see `Stop`.
    callback : callable, optional
        Called with each `Record`, or with ``intermediate_result=record`` if that is its parameter,
        as in SciPy. It may set ``record.optimizer.lr`` and ``.params``; StopIteration ends the run,
        and any other error is passed on.
    every : int
        The number of steps from one record to the next. Only there the value is read from the
        device, compared with the best, and looked at by `stop`, `callback` and `checkpoint`.
    checkpoint : path-like or store, optional
        A file for parameters, moments, counts, history and the best so far, replaced at once with
        each record. Where it exists, the run goes on from it, with the learning rate in it; it ends
        with the bits of a run that was never interrupted, if the function depends on the parameters
        alone. A value that is not finite is not saved.

        For arrays that no process holds whole, an object with two methods: ``save(step, state)``
        writes a nested dict of arrays and plain values, in shards, and ``load(state)`` returns the
        one that was saved last, laid out like the one given, or None. docs/SCALING.md has three.
    progress : bool, optional
        Unless False, a bar where standard error is a terminal and rich is installed, else a line
        every ten seconds; of several processes with the same arrays the first one shows it.

    Returns
    -------
    Result
        The best parameters, the last ones, and how the run went. After a KeyboardInterrupt that is
        the result so far, and its message says so; a second one is raised.

    Raises
    ------
    TypeError
        For a function that returns something else, and as `Optimizer.step`.
    ValueError
        For numbers out of range, a stop condition that can never hold, gradients that are all None,
        a checkpoint of another problem, and as `Optimizer.step`.
    OSError
        For a checkpoint that cannot be written, before the function is evaluated.

    Examples
    --------
    >>> import numpy as np
    >>> from adam_any import Stop, minimize, rules
    >>> target = np.array([2.0, 3.0])
    >>> def fun(x):
    ...     return ((x - target) ** 2).sum(), 2 * (x - target)
    >>> result = minimize(fun, np.zeros(2), rules.Adam(lr=0.1), stop=Stop(value=1e-8))
    >>> print(result.x.round(3), result.success)
    [2. 3.] True
    """
    _whole("steps", steps, 0)
    _whole("every", every, 1)
    for name, x in (("fun", fun), ("callback", callback)):
        if not callable(x) and (x is not None or name == "fun"):
            raise TypeError(f"{name} is {shown(x)}; it must be a callable")
    if stop is not None:
        conditions.check(stop, 1 + math.ceil(steps / every))
    run = Run(fun, params, Adam() if rule is None else rule, steps, every, checkpoint)
    run.stop, run.callback = stop, _called(callback)
    return run.result(progress)


def _whole(name: str, x: Any, least: int) -> None:
    if not isinstance(x, int | np.integer) or isinstance(x, bool) or x < least:
        raise ValueError(f"{name} is {shown(x)}; it must be a whole number, {least} or more")


def _called(callback: Callable[..., Any] | None) -> Callable[[Record], Any] | None:
    """The callback as it is called: with one argument, or by SciPy's name of it."""
    if callback is None:
        return None
    try:
        parameters: Mapping[str, Parameter] = signature(callback).parameters
    except (TypeError, ValueError):  # a callable of C
        return callback
    if set(parameters) == {"intermediate_result"}:
        return lambda record: callback(intermediate_result=record)
    return callback
