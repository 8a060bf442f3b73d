"""The records of a run on its way, and its result."""

from __future__ import annotations

import dataclasses
import os
from array import array
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from ..html import table
from ..optimizer import Optimizer

#: What is noted in each record, a number each: steps made, the value, the norms of the gradient and
#: (relative, where a condition asks for it) of the parameters' change since the record before, the
#: learning rate, and the seconds of the run.
COLUMNS = ("step", "value", "gradient", "moved", "lr", "seconds")


class History:
    """All records of a run: `history.value`, `history.step` and so on are NumPy arrays.

    The columns are `step`, `value`, `gradient` (its norm), `moved`, `lr` and `seconds`.
    """

    def __init__(self, rows: Any = ()) -> None:
        self._numbers = array("d", np.asarray(rows, "f8").tobytes())
        self._best: dict[float, tuple[int, int]] = {}

        #: Add a record, a tuple: one call of C, which no signal handler can interrupt.
        self.append = self._numbers.extend

    def __len__(self) -> int:
        return len(self._numbers) // len(COLUMNS)

    def __getattr__(self, name: str) -> Any:
        if name not in COLUMNS:
            raise AttributeError(f"a history has {', '.join(COLUMNS)}, not {name!r}")
        return np.array(self._numbers[COLUMNS.index(name) :: len(COLUMNS)])

    def rows(self) -> Any:
        """A copy of all numbers, of shape (records, columns)."""
        return np.array(self._numbers).reshape(-1, len(COLUMNS))

    def last(self, name: str, count: int) -> list[float]:
        """The latest numbers of a column."""
        width = len(COLUMNS)
        at = max(0, len(self) - count) * width + COLUMNS.index(name)
        return self._numbers[at::width].tolist()

    def best(self, sign: float) -> int:
        """The index of the first record with the best value."""
        seen, at = self._best.get(sign, (0, 0))  # of so many records the best is there
        for i, value in enumerate(self.last("value", len(self) - seen), seen):
            if sign * value < sign * self._numbers[at * len(COLUMNS) + 1]:
                at = i
        self._best[sign] = len(self), at
        return at

    def __repr__(self) -> str:
        return f"<History: {len(self)} records of {', '.join(COLUMNS)}>"


@dataclasses.dataclass
class Record:
    """A record, as a callback and a stop condition see it.

    Attributes
    ----------
    step : int
        The steps made so far.
    value, gradient, lr, seconds : float
        The value of the function, the norm of its gradient, the learning rate, and the time.
    optimizer : Optimizer
        Its `lr` and `params` may be set; the function is evaluated again then.
    history : History
        All records, this one included.
    aux : object
        What the function returned beside value and gradients.
    """

    step: int
    value: float
    gradient: float
    lr: float
    seconds: float
    optimizer: Optimizer
    history: History
    sign: float
    aux: Any
    copied: Callable[[Any], Any] = dataclasses.field(repr=False)

    @cached_property
    def params(self) -> Any:
        """The parameters, copied when they are asked for, so that they may be kept."""
        return self.copied(self.optimizer.params)

    @property
    def x(self) -> Any:
        """SciPy's name of the parameters."""
        return self.params

    @property
    def fun(self) -> float:
        """SciPy's name of the value."""
        return self.value


@dataclasses.dataclass
class Result:
    """The result of a run; the names are SciPy's, where it has them.

    Attributes
    ----------
    params, x : tree
        The parameters with the best value that was recorded.
    fun : float
        That value.
    last : tree
        The parameters after the last step.
    nit, nfev : int
        Steps made, and evaluations of the function.
    success : bool
        Whether a stop condition held, or all steps were made where none was given.
    status : int
        0 for success; 1 where no condition held in all steps; 2 for a value that is not finite; 3
        for a KeyboardInterrupt; 99 where the callback raised StopIteration.
    message : str
        The same in words.
    history : History
        All records.
    aux : object
        What the function returned beside the best value, in this process.
    optimizer : Optimizer
        With its moments and counts, at `last`.
    """

    params: Any
    fun: float
    last: Any
    nit: int
    nfev: int
    success: bool
    status: int
    message: str
    history: History
    aux: Any
    optimizer: Optimizer

    @property
    def x(self) -> Any:
        """SciPy's name of the parameters."""
        return self.params

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw value, gradient norm and learning rate on logarithmic axes.

        Parameters
        ----------
        path : path-like, optional
            Where the picture is saved, too.

        Returns
        -------
        matplotlib.figure.Figure
            It needs no screen; a notebook shows it.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 6), layout="constrained")
        FigureCanvasAgg(figure)
        h = self.history
        curves = {"value": h.value, "gradient norm": h.gradient, "learning rate": h.lr}
        rows = figure.subplots(len(curves), sharex=True)
        for axes, (name, y) in zip(rows, curves.items(), strict=True):
            axes.plot(h.step, y)
            # A value may be negative: linear between the smallest magnitudes then.
            finite = np.abs(y[np.isfinite(y) & (y != 0)])
            if len(finite) and (y[np.isfinite(y)] > 0).all():
                axes.set_yscale("log")
            elif len(finite):
                axes.set_yscale("symlog", linthresh=max(finite.min(), 1e-6 * finite.max()))
            axes.set_ylabel(name)
            axes.spines[["top", "right"]].set_visible(False)
        rows[0].set_title(self.message, loc="left")
        rows[-1].set_xlabel("step")
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def __repr__(self) -> str:
        return (
            f"<Result: {self.message}; fun={self.fun:.6g}, nit={self.nit}, nfev={self.nfev}, "
            f"success={self.success}>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "message": self.message,
            "best value": f"{self.fun:.6g}",
            "steps": f"{self.nit:,}",
            "evaluations": f"{self.nfev:,}",
            "optimizer": repr(self.optimizer),
        }
        return table("minimize", rows.items())
