"""When a run stops: conditions on what has been recorded.

A condition is a callable of a `Record` that returns a reason in words, or True, once it holds.
None of them keeps a state of its own: all that they look at is in the record and its history, so a
run that goes on from a checkpoint stops where it would have stopped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from ..words import shown
from .records import Record

Condition = Callable[[Record], Any]

#: Records over which changes are measured, where nobody says.
PATIENCE = 10


class Composable:
    """A condition that `|` and `&` combine with others, and with any callable of a record."""

    def __call__(self, record: Record) -> str | None:
        """Return the reason why the run should stop now, or None."""
        raise NotImplementedError

    def __or__(self, other: Condition) -> Either:
        return Either(self, other)

    def __ror__(self, other: Condition) -> Either:
        return Either(other, self)

    def __and__(self, other: Condition) -> Both:
        return Both(self, other)

    def __rand__(self, other: Condition) -> Both:
        return Both(other, self)


@dataclasses.dataclass(frozen=True)
class Stop(Composable):
    """The run stops when one of these conditions holds.

    Parameters
    ----------
    value : float, optional
        The value is this or better: smaller, or larger where the rule maximizes.
    change : float, optional
        The last `patience` changes are small together: all values from before them until now
        lie within `change` times the largest magnitude among them. That two values of a noisy
        function happen to be equal is not taken for convergence, since all of them must agree;
        where the noise is larger than `change`, this never holds, and `patience` alone helps.
    patience : int, optional
        The number of records over which `change` and `step` are measured, 10 unless given. Without
        these two: stop when so many records in a row have brought no new best value.
    gradient : float, optional
        The Euclidean norm of the gradient, over all leaves, is this or less.
    step : float, optional
        The path of the parameters over the last `patience` records, the sum of the norms of their
        changes, is at most `step` times their norm.
    seconds : float, optional
        The run has taken so long, the time before an interruption included.

    Raises
    ------
    ValueError
        For a number that is out of range, or a condition that can never hold.

    Notes
    -----
    Conditions are looked at with each record, that is after every `every` steps. They are combined
    by ``|`` and ``&``, also with a callable of a record that returns True, or a reason in words.

    Examples
    --------
    >>> from adam_any import Stop
    >>> stop = Stop(gradient=1e-6) & Stop(change=1e-9, patience=20) | Stop(seconds=60)
    """

    value: float | None = None
    change: float | None = None
    patience: int | None = None
    gradient: float | None = None
    step: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = {field: x for field, x in vars(self).items() if x is not None}
        if not given:
            raise ValueError("Stop() has no condition, so it can never hold; pass one, or no stop")
        for name, x in given.items():
            number = isinstance(x, Real) and not isinstance(x, bool) and not math.isnan(x)
            if not number or (name != "value" and x < 0):
                raise ValueError(f"{name} is {shown(x)}; it must be a number, 0 or more")
        if self.value is not None and math.isinf(self.value):
            raise ValueError(f"value is {self.value}, which no finite value reaches; pass a number")
        if self.patience is not None and (self.patience != int(self.patience) or not self.patience):
            raise ValueError(f"patience is {self.patience!r}; it must be a whole number, 1 or more")

    @property
    def _window(self) -> int:
        return PATIENCE if self.patience is None else int(self.patience)

    def __call__(self, record: Record) -> str | None:
        """Return the reason why the run should stop now, or None."""
        history, n = record.history, self._window
        if self.value is not None and record.sign * record.value <= record.sign * self.value:
            return f"the value {record.value:.6g} has reached {self.value:g}"
        if self.gradient is not None and record.gradient <= self.gradient:
            return f"the norm of the gradient is {self.gradient:g} or less"
        if self.seconds is not None and record.seconds >= self.seconds:
            return f"{self.seconds:g} seconds have passed"
        if len(history) <= n:
            return None
        if self.change is not None:
            values = history.last("value", n + 1)
            if max(values) - min(values) <= self.change * max(map(abs, values)):
                return f"the value has changed by a share of {self.change:g} or less in {n} records"
        if self.step is not None and math.fsum(history.last("moved", n)) <= self.step:
            return f"the parameters have moved by a share of {self.step:g} or less in {n} records"
        alone = self.change is None and self.step is None and self.patience is not None
        if alone and len(history) - 1 - history.best(record.sign) >= n:
            return f"no new best value in {n} records"
        return None


@dataclasses.dataclass(frozen=True)
class Either(Composable):
    """One of two conditions holds."""

    first: Condition
    second: Condition

    def __call__(self, record: Record) -> str | None:
        """Return the reason of the one that holds."""
        return reason(self.first, record) or reason(self.second, record)


@dataclasses.dataclass(frozen=True)
class Both(Composable):
    """Two conditions hold at once."""

    first: Condition
    second: Condition

    def __call__(self, record: Record) -> str | None:
        """Return the reasons of both."""
        one, two = reason(self.first, record), reason(self.second, record)
        return f"{one}, and {two}" if one and two else None


def reason(condition: Condition, record: Record) -> str | None:
    """The reason that a condition gives, in words, or None where it does not hold."""
    found = condition(record)
    return found if isinstance(found, str) else "the stop condition holds" if found else None


def measures_steps(condition: Any) -> bool:
    """Return whether a condition looks at the way that the parameters have gone."""
    if isinstance(condition, Either | Both):
        return measures_steps(condition.first) or measures_steps(condition.second)
    return isinstance(condition, Stop) and condition.step is not None


def check(condition: Any, records: int) -> None:
    """Raise for what is not a condition, or can never hold in a run of so many records."""
    if not callable(condition):
        raise TypeError(f"stop is {shown(condition)}; pass a Stop, or a callable of a record")
    if isinstance(condition, Either | Both):
        check(condition.first, records)
        check(condition.second, records)
    elif isinstance(condition, Stop):
        windowed = not (condition.change is condition.step is condition.patience is None)
        if windowed and condition._window >= records:
            raise ValueError(
                f"{condition} can never hold: it needs {condition._window + 1} records, and the "
                f"run has {records}; give it less patience, more steps, or a smaller every"
            )
