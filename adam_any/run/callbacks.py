"""Ready-made callbacks: a plateau that lowers the learning rate, a log, and pictures.

All that they look at is in the record and its history, so they go on with a run that goes on.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import detect
from ..words import shown
from .records import COLUMNS, Record


class Plateau:
    """Lower the learning rate when the value no longer improves.

    Parameters
    ----------
    factor : float
        What the learning rate is multiplied by, in (0, 1).
    patience : int
        The number of records in a row without a new best value, and with the same learning rate.
    least : float
        The learning rate does not become smaller than this.

    Raises
    ------
    ValueError
        For numbers out of range.
    TypeError
        In the run, for a learning rate that is a schedule.
    """

    def __init__(self, factor: float = 0.5, patience: int = 20, least: float = 0.0) -> None:
        if not 0 < factor < 1 or patience < 1 or least < 0:
            raise ValueError(
                f"factor={factor!r}, patience={patience!r}, least={least!r}; they must be in "
                "(0, 1), 1 or more, and 0 or more"
            )
        self.factor, self.patience, self.least = factor, patience, least

    def __call__(self, record: Record) -> None:
        """Look at one record."""
        history, opt = record.history, record.optimizer
        if callable(opt.lr):
            raise TypeError(
                "Plateau lowers a learning rate that is a number; here it is a schedule"
            )
        rates = history.last("lr", self.patience + 1)
        waited = len(history) - 1 - history.best(record.sign) >= self.patience
        if waited and len(rates) > self.patience and len(set(rates)) == 1 and opt.lr > self.least:
            opt.lr = max(self.least, opt.lr * self.factor)


class CSVLog:
    """Write each record as a line of a CSV file.

    Parameters
    ----------
    path : path-like
        The file. It is begun anew with a run; one that goes on has all its records there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._written = -1

    def __call__(self, record: Record) -> None:
        """Write one record; at first all that there are."""
        new = not 0 <= self._written == len(record.history) - 1
        rows = record.history.rows() if new else [record.history.last(c, 1)[0] for c in COLUMNS]
        with open(self.path, "w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            for step, *others in np.atleast_2d(rows).tolist():
                writer.writerow([int(step), *others])
        self._written = len(record.history)


class Picture:
    """Save a picture of the parameters every so many steps.

    Parameters
    ----------
    path : str
        A name with ``{step}`` in it, such as ``"frames/{step:06}.png"``.
    of : callable, optional
        A function of the parameters that returns a real array of two dimensions, or of three for
        colours. Without it the parameters are that array.
    steps : int
        A picture is saved where the count of steps is a multiple of this, and there is a record.
    """

    def __init__(self, path: str, of: Callable[[Any], Any] | None = None, steps: int = 100) -> None:
        if path.format(step=1) == path.format(step=2):
            raise ValueError(
                f"path is {shown(path)}; each picture needs a name with {{step}} in it"
            )
        if steps < 1:
            raise ValueError(f"steps is {steps!r}; it must be 1 or more")
        self.path, self.of, self.steps = path, of, steps

    def __call__(self, record: Record) -> None:
        """Save a picture, if it is time to."""
        if record.step % self.steps:
            return
        from matplotlib import image

        x = record.params if self.of is None else self.of(record.params)
        library = detect.library(x)
        host = np.asarray(x if library is None else library.to_host(x))
        if host.ndim not in (2, 3):
            raise ValueError(f"a picture needs 2 or 3 dimensions, not {host.ndim}; pass of=")
        image.imsave(self.path.format(step=record.step), host, cmap="gray")
