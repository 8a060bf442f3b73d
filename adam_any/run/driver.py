"""minimize: from a function and its gradients to a result, by any rule.

    evaluate -> record, every so many steps: value, best so far, stop?, callback, checkpoint
             -> step -> evaluate -> ...

The value stays on its device between records, so nothing waits for it there. A run ends with an
evaluation at the last parameters, so that they count.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

import numpy as np

from .. import detect
from ..check import shape_of
from ..dtypes import is_complex
from ..optimizer import Optimizer
from ..rules import Adam
from ..tree import flatten
from ..words import a, shown
from ..wrapper import climbs
from . import stop as conditions
from .progress import Progress
from .records import COLUMNS, History, Record, Result
from .stop import Condition

#: What a checkpoint says of a run beside its arrays.
ENTRY = ("steps", "evaluations", "value")


def minimize(
    fun: Callable[[Any], Any],
    params: Any,
    rule: Any = None,
    *,
    steps: int = 1000,
    stop: Condition | None = None,
    callback: Callable[[Any], Any] | None = None,
    every: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
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
    checkpoint : path-like, optional
        A file for parameters, moments, counts, history and the best so far, replaced at once with
        each record. Where it exists, the run goes on from it, with the learning rate in it; it ends
        with the bits of a run that was never interrupted, if the function depends on the parameters
        alone. A value that is not finite is not saved.
    progress : bool, optional
        Unless False, a bar where standard error is a terminal and rich is installed, else a line
        every ten seconds.

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
    run = _Run(fun, params, Adam() if rule is None else rule, steps, every, checkpoint)
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


class _End(Exception):  # noqa: N818 (it is not an error)
    """The run is over, with a status, for a reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class _Run:
    """One run: its optimizer, its history, and the best so far."""

    stop: Condition | None
    callback: Callable[[Record], Any] | None

    def __init__(
        self,
        fun: Callable[[Any], Any],
        params: Any,
        rule: Any,
        steps: int,
        every: int,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self._fun, self._steps, self._every, self._path = fun, steps, every, checkpoint
        self._sign = -1.0 if _maximizes(rule) else 1.0
        self._optimizer = opt = Optimizer(_copied(params), rule)
        self._writable = all(leaf.backend.writable for leaf in opt._contents.leaves)
        self._history, self._made, self._evaluations = History(), 0, 0
        self._seconds, self._aux = 0.0, None
        #: The rule whose learning rate is noted, and that.
        self._rated: Any = None
        self._rate: Any = math.nan
        #: The best value and its parameters, of which the arrays are ours.
        self._best: tuple[float, list[Any]] = (math.nan, self._arrays())
        self._spare: list[Any] | None = None
        self._before: list[Any] | None = None
        self._recorded = False  # whether the parameters as they are have a record
        if checkpoint is not None:
            self._resume(checkpoint)

    def _arrays(self) -> list[Any]:
        """Copies of the parameters, a list."""
        return [leaf.library.copy(leaf.array) for leaf in self._optimizer._contents.leaves]

    # Checkpoints ----------------------------------------------------------------------------------

    def _resume(self, path: str | os.PathLike[str]) -> None:
        if not os.path.exists(path):
            self._save()  # what cannot be saved is refused now
            return
        from ..state import run

        try:
            entry, history, arrays = run.load(path, self._optimizer, len(COLUMNS), ENTRY)
        except ValueError as error:
            raise ValueError(
                f"{os.fsdecode(path)} is not a checkpoint of this problem: {error}; delete it to "
                "begin anew, or pass another path"
            ) from None
        self._history, self._best = History(history), (float(entry["value"]), arrays)
        self._recorded = len(history) > 0
        self._made = int(entry["steps"])
        self._evaluations = int(entry["evaluations"]) + self._recorded
        if self._recorded:
            self._seconds = self._history.last("seconds", 1)[0]
        self._save()

    def _save(self, evaluated_again: bool = False) -> None:
        if self._path is None:
            return
        from ..state import run

        value, arrays = self._best
        # That at these parameters is made again, by the run that goes on.
        evaluations = self._evaluations - (bool(len(self._history)) and not evaluated_again)
        entry = dict(zip(ENTRY, (self._made, evaluations, value), strict=True))
        run.save(self._path, self._optimizer, entry, self._history.rows(), arrays)

    # The loop -------------------------------------------------------------------------------------

    def result(self, progress: bool | None) -> Result:
        """Run until the end."""
        self._progress = Progress(progress, self._steps)
        self._began = time.perf_counter() - self._seconds
        self._measured = conditions.measures_steps(self.stop)
        #: Whether nobody else looks at a record.
        self._silent = self.stop is None and self.callback is None and self._path is None
        try:
            self._loop()
        except _End as end:
            status, message = end.status, end.message
        except KeyboardInterrupt:
            status, message = 3, f"interrupted after {self._made} steps; this is the result so far"
            self._progress.say(message)
        finally:
            self._progress.close()
        opt = self._optimizer
        value, arrays = self._best
        return Result(
            params=self._tree(arrays),
            fun=value,
            last=_copied(opt.params),
            nit=self._made,
            nfev=self._evaluations,
            success=status == 0,
            status=status,
            message=message,
            history=self._history,
            aux=self._aux,
            optimizer=opt,
        )

    def _tree(self, arrays: list[Any]) -> Any:
        """Arrays of leaves as a tree like the parameters."""
        tree = self._optimizer._tree
        leaves: list[Any] = [None] * len(tree.paths)
        for leaf, x in zip(self._optimizer._contents.leaves, arrays, strict=True):
            leaves[leaf.index] = x
        return tree.build(leaves)

    def _loop(self) -> None:
        opt, fun, steps, every = self._optimizer, self._fun, self._steps, self._every
        if self._recorded:
            self._look(self._record(None))  # whether that was the end
            if self._made >= steps:
                self._end()
            self._evaluations -= 1  # it is made again
            self._before = self._arrays() if self._measured else None
        params, step = opt.params, opt.step
        while True:
            found = fun(params)
            self._evaluations += 1
            if type(found) is not tuple or not 2 <= len(found) <= 3:
                _refuse(found)
            grads, made = found[1], self._made
            if made % every == 0 or made >= steps:
                if self._recorded:
                    self._recorded = False
                    self._keep(_number(found[0]), found)
                elif self._note(found):
                    self._recorded, params = True, opt.params
                    continue
            if made >= steps:
                self._end()
            params = step(grads)
            self._made = made + 1

    def _end(self) -> None:
        if self.stop is None:
            raise _End(0, f"all {self._made} steps have been made")
        raise _End(1, f"no stop condition has held in {self._made} steps")

    def _note(self, found: tuple[Any, ...]) -> bool:
        """Record an evaluation; return whether the callback has made another one necessary."""
        value = found[0] if type(found[0]) is float else _number(found[0])
        history, opt = self._history, self._optimizer
        if self._made == 0 and _all_none(found[1]):
            raise ValueError(
                "every gradient is None; fun must return (value, gradients), with None only for "
                "leaves to skip"
            )
        seconds = time.perf_counter() - self._began
        rule = opt.rule
        if rule is not self._rated:
            self._rated, self._rate = rule, _rate(opt)
        rate = self._rate
        if type(rate) is not float:
            rate = float(rate(self._made))
        moved = self._moved() if self._measured else math.nan
        history.append((self._made, value, norm(found[1]), moved, rate, seconds))
        if not math.isfinite(value):
            raise _End(2, f"the value is {value} after {self._made} steps; this is the best before")
        if self._progress.every < math.inf:
            self._progress.show(self._made, value)
        if self._silent:
            self._keep(value, found)
            return False
        record = self._record(found[2] if len(found) == 3 else None)
        contents, ended = opt._contents, None
        try:
            self._look(record)
        except _End as end:
            ended = end
        if self.callback is not None:
            try:
                self.callback(record)
            except StopIteration:
                ended = ended or _End(99, "the callback has raised StopIteration")
        changed = opt._contents is not contents
        if changed and self._measured:
            self._before = self._arrays()
        if ended is not None or not changed:  # else what it has set is what counts
            self._keep(value, found)
        self._save(changed)
        if ended is not None:
            raise ended
        return changed

    def _look(self, record: Record) -> None:
        """End the run if its stop condition holds."""
        if not math.isfinite(record.value):
            raise _End(2, f"the value is {record.value} after {self._made} steps")
        reason = None if self.stop is None else conditions.reason(self.stop, record)
        if reason is not None:
            raise _End(0, f"{reason}, after {self._made} steps")

    def _record(self, aux: Any) -> Record:
        """The latest record."""
        history = self._history
        value, gradient, rate, seconds = (
            history.last(name, 1)[0] for name in ("value", "gradient", "lr", "seconds")
        )
        opt, sign = self._optimizer, self._sign
        return Record(self._made, value, gradient, rate, seconds, opt, history, sign, aux, _copied)

    def _keep(self, value: float, found: tuple[Any, ...]) -> None:
        """Keep the parameters if they are the best, in the memory of the best before last."""
        best = self._best[0]
        if not self._sign * value < self._sign * best and best == best:
            return
        self._aux = found[2] if len(found) == 3 else None
        arrays = self._spare
        if arrays is None or not self._writable:
            arrays = self._arrays()
        else:
            for leaf, x in zip(self._optimizer._contents.leaves, arrays, strict=True):
                if type(x) is np.ndarray:
                    np.copyto(x, leaf.array)
                else:
                    leaf.library.write(x, leaf.library.reals(leaf.array))
        self._best, self._spare = (value, arrays), self._best[1]

    def _moved(self) -> float:
        """The norm of the parameters' change since the last record, relative to theirs."""
        now, before = self._arrays(), self._before
        self._before = now
        if before is None:
            return math.inf
        size = norm(now)
        moved = norm([x - y for x, y in zip(now, before, strict=True)])
        return moved / size if size else math.inf if moved else 0.0


def norm(tree: Any) -> float:
    """The Euclidean norm of all numbers in a tree of arrays, None among them."""
    if type(tree) is np.ndarray:
        return _norm(tree)
    if isinstance(tree, dict):
        return math.hypot(*(norm(x) for x in tree.values()))
    if isinstance(tree, list | tuple):
        return math.hypot(*map(norm, tree))
    if tree is None:
        return 0.0
    library = detect.library(tree)
    if library is not None:
        return _norm(tree) if library.name == "python" else _norm_of(library, tree)
    try:
        return float(tree)  # a number for a Python float
    except (TypeError, ValueError):
        return math.hypot(*(norm(x) for x in flatten(tree)[1]))


def _norm(x: Any) -> float:
    if isinstance(x, float):
        return abs(x)
    if x.dtype.char in "fdFD":
        flat = x.ravel()
        return math.sqrt(abs(np.vdot(flat, flat)))
    return float(np.linalg.norm(np.asarray(x, "f8").ravel()))


def _norm_of(library: Any, x: Any) -> float:
    if shape_of(x) == ():
        return abs(complex(x)) if is_complex(x) else abs(float(x))
    xp = library.namespace(x)
    real = library.computable(
        x.detach() if hasattr(x, "detach") else x, library.dtype(x) and _wide(x)
    )
    return math.sqrt(float(xp.sum(real * real)))


def _wide(x: Any) -> str:
    """The dtype that a sum of squares is computed in."""
    return "float64" if str(x.dtype).endswith(("float64", "complex128")) else "float32"


def _maximizes(rule: Any) -> bool:
    """Return whether a rule climbs, or all rules of a mapping do."""
    if not isinstance(rule, Mapping):
        return dataclasses.is_dataclass(rule) and climbs(rule)
    found = {_maximizes(x) for x in rule.values() if x is not None}
    if len(found) > 1:
        raise ValueError(
            "some of the rules maximize and some do not, so no value is the best; give all of them "
            "the same maximize"
        )
    return found == {True}


def _rate(opt: Optimizer) -> Any:
    """The learning rate, or its schedule; NaN where there is none, or several."""
    try:
        rate = opt.lr
    except AttributeError:
        return math.nan
    return rate if isinstance(rate, float) or callable(rate) else math.nan


def _copied(params: Any) -> Any:
    """A tree with copies of its arrays; those of NumPy can be written."""
    tree, leaves = flatten(params)
    return tree.build(map(_copy, leaves))


def _copy(x: Any) -> Any:
    if type(x) is np.ndarray or type(x) is np.memmap:
        return np.array(x, order="K", subok=False)
    library = detect.library(x)
    if library is None or library.name == "python" or detect.is_tracer(x):
        return x  # which the optimizer refuses, or cannot write
    return library.copy(x)


def _number(value: Any) -> float:
    """The value of the function, read from its device."""
    if type(value) is float:
        return value
    if shape_of(value) in ((), (1,)) and not isinstance(value, str | bytes):
        value = value.detach() if hasattr(value, "detach") else value
        value = value[0] if shape_of(value) else value
        try:
            return float(value)
        except TypeError:
            pass
    have = f"{a(type(value))} of shape {shape_of(value)}" if shape_of(value) else shown(value)
    raise TypeError(f"the value that fun returned is {have}; it must be one real number")


def _all_none(grads: Any) -> bool:
    if grads is None:
        return True
    if isinstance(grads, dict):
        return bool(grads) and all(map(_all_none, grads.values()))
    return isinstance(grads, list | tuple) and bool(grads) and all(map(_all_none, grads))


def _refuse(found: Any) -> None:
    if isinstance(found, tuple | list) and 2 <= len(found) <= 3 and type(found) is not list:
        return  # a named tuple
    have = f"{len(found)} values" if isinstance(found, tuple) else a(type(found))
    raise TypeError(
        f"fun returned {have}; it must return (value, gradients) or (value, gradients, aux); "
        "interop.value_and_grad(f) makes such a function of one that returns the value alone"
    )
