"""One run: from record to record, and to a result, whatever ends it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..optimizer import Optimizer
from ..words import shown
from . import stop as conditions
from .progress import Progress
from .records import COLUMNS, History, Record, Result
from .stop import Condition
from .values import all_none, copied, maximizes, norm, number, rate_of, refuse

#: What a checkpoint says of a run beside its arrays.
ENTRY = ("steps", "evaluations", "value")


class Store(Protocol):
    """A keeper of the checkpoints of a run whose arrays no process holds whole."""

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep the state after so many steps; the one before must stay until this one is whole.

        It is called for each step once.
        """
        ...

    def load(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """The state that was saved last, laid out like the one given; None where there is none."""
        ...


def _is_path(checkpoint: Any) -> bool:
    """Return whether checkpoints go into one file, not into a store."""
    return isinstance(checkpoint, str | os.PathLike)


class End(Exception):  # noqa: N818 (it is not an error)
    """The run is over, with a status, for a reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Run:
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
        checkpoint: str | os.PathLike[str] | Store | None,
    ) -> None:
        self._fun, self._steps, self._every = fun, steps, every
        self._checkpoint = checkpoint
        self._sign = -1.0 if maximizes(rule) else 1.0
        self._optimizer = opt = Optimizer(copied(params), rule)
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

    def _resume(self, checkpoint: Any) -> None:
        from ..state import run

        found, in_file = None, _is_path(checkpoint)
        try:
            if not in_file:
                stored = checkpoint.load(self._state())
                found = stored and run.from_dict(self._optimizer, stored, ENTRY)
            elif os.path.exists(checkpoint):
                found = run.load(checkpoint, self._optimizer, len(COLUMNS), ENTRY)
        except ValueError as error:
            where = os.fsdecode(checkpoint) if in_file else shown(checkpoint)
            raise ValueError(
                f"{where} is not a checkpoint of this problem: {error}; delete it to begin anew, "
                "or pass another path"
            ) from None
        if not found:
            if in_file:
                self._save()  # what cannot be saved is refused now
            return
        entry, history, arrays = found
        self._history, self._best = History(history), (float(entry["value"]), arrays)
        self._recorded = len(history) > 0
        self._made = int(entry["steps"])
        self._evaluations = int(entry["evaluations"]) + self._recorded
        if self._recorded:
            self._seconds = self._history.last("seconds", 1)[0]
        if in_file:
            self._save()

    def _save(self, evaluated_again: bool = False) -> None:
        checkpoint: Any = self._checkpoint
        if checkpoint is None:
            return
        if _is_path(checkpoint):
            from ..state import run

            entry, arrays = self._entry(evaluated_again), self._best[1]
            run.save(checkpoint, self._optimizer, entry, self._history.rows(), arrays)
        else:
            checkpoint.save(self._made, self._state(evaluated_again))

    def _state(self, evaluated_again: bool = False) -> dict[str, Any]:
        """The run as a store gets it."""
        from ..state import run

        entry, arrays = self._entry(evaluated_again), self._best[1]
        return run.to_dict(self._optimizer, entry, self._history.rows(), arrays)

    def _entry(self, evaluated_again: bool) -> dict[str, Any]:
        # That at these parameters is made again, by the run that goes on.
        evaluations = self._evaluations - (bool(len(self._history)) and not evaluated_again)
        return dict(zip(ENTRY, (self._made, evaluations, self._best[0]), strict=True))

    # The loop -------------------------------------------------------------------------------------

    def result(self, progress: bool | None) -> Result:
        """Run until the end."""
        leaves = self._optimizer._contents.leaves
        #: A leaf that other processes have, too, if there is one.
        self._shared = next((x for x in leaves if x.library.shared(x.array)), None)
        if self._shared is not None and not self._shared.library.first(self._shared.array):
            progress = False
        self._progress = Progress(progress, self._steps)
        self._began = time.perf_counter() - self._seconds
        self._measured = conditions.measures_steps(self.stop)
        #: Whether nobody else looks at a record.
        self._silent = self.stop is None and self.callback is None and self._checkpoint is None
        try:
            self._loop()
        except End as end:
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
            last=copied(opt.params),
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
                refuse(found)
            grads, made = found[1], self._made
            if made % every == 0 or made >= steps:
                if self._recorded:
                    self._recorded = False
                    self._keep(number(found[0]), found)
                elif self._note(found):
                    self._recorded, params = True, opt.params
                    continue
            if made >= steps:
                self._end()
            params = step(grads)
            self._made = made + 1

    def _end(self) -> None:
        if self.stop is None:
            raise End(0, f"all {self._made} steps have been made")
        raise End(1, f"no stop condition has held in {self._made} steps")

    def _note(self, found: tuple[Any, ...]) -> bool:
        """Record an evaluation; return whether the callback has made another one necessary."""
        value = found[0] if type(found[0]) is float else number(found[0])
        history, opt = self._history, self._optimizer
        if self._made == 0 and all_none(found[1]):
            raise ValueError(
                "every gradient is None; fun must return (value, gradients), with None only for "
                "leaves to skip"
            )
        seconds = time.perf_counter() - self._began
        if self._shared is not None:  # or they would not stop together
            seconds = self._shared.library.of_first(self._shared.array, seconds)
        rule = opt.rule
        if rule is not self._rated:
            self._rated, self._rate = rule, rate_of(opt)
        rate = self._rate
        if type(rate) is not float:
            rate = float(rate(self._made))
        moved = self._moved() if self._measured else math.nan
        history.append((self._made, value, norm(found[1]), moved, rate, seconds))
        if not math.isfinite(value):
            raise End(2, f"the value is {value} after {self._made} steps; this is the best before")
        if self._progress.wanted:
            self._progress.show(self._made, value)
        if self._silent:
            self._keep(value, found)
            return False
        record = self._record(found[2] if len(found) == 3 else None)
        contents, ended = opt._contents, None
        try:
            self._look(record)
        except End as end:
            ended = end
        if self.callback is not None:
            try:
                self.callback(record)
            except StopIteration:
                ended = ended or End(99, "the callback has raised StopIteration")
        changed = opt._contents is not contents
        if changed and self._measured:
            self._before = self._arrays()
        if ended is not None or not changed:  # else what it has set is what counts
            self._keep(value, found)
        if ended is not None or not changed or _is_path(self._checkpoint):
            self._save(changed)  # a store gets what is evaluated again
        if ended is not None:
            raise ended
        return changed

    def _look(self, record: Record) -> None:
        """End the run if its stop condition holds."""
        if not math.isfinite(record.value):
            raise End(2, f"the value is {record.value} after {self._made} steps")
        reason = None if self.stop is None else conditions.reason(self.stop, record)
        if reason is not None:
            raise End(0, f"{reason}, after {self._made} steps")

    def _record(self, aux: Any) -> Record:
        """The latest record."""
        history = self._history
        value, gradient, rate, seconds = (
            history.last(name, 1)[0] for name in ("value", "gradient", "lr", "seconds")
        )
        opt, sign = self._optimizer, self._sign
        return Record(self._made, value, gradient, rate, seconds, opt, history, sign, aux, copied)

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
