"""A run, not only a step: `minimize`, when it stops, what it records and what it returns."""

from .callbacks import CSVLog, Picture, Plateau
from .driver import minimize
from .records import History, Record, Result
from .stop import Stop

__all__ = ["CSVLog", "History", "Picture", "Plateau", "Record", "Result", "Stop", "minimize"]
