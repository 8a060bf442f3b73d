"""This package in a process of its own in which Numba cannot be imported, taking its turns.

A turn is one message, so its cost of some 100 us is spread over the steps of the turn.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from .harness import MissingError, reason
from .workloads import Arrays


class WithoutNumba:
    """A competitor: `Ours` on the other side of a pipe."""

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that a dead child is an end of file here
        self._arrays(params)
        self._arrays(grads)
        self._answer()

    def run(self, steps: int) -> None:
        """Make this many steps."""
        self._call("run", steps)

    def finish(self) -> None:
        """Return when all steps are done; the answer has said so."""

    def give(self, grads: Arrays) -> None:
        """Use these gradients from now on."""
        self._call("give", grads)

    def params(self) -> Arrays:
        """A copy of the parameters as they are now."""
        arrays: Arrays = self._call("params")
        return arrays

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.join()

    def _call(self, method: str, *arguments: Any) -> Any:
        self.pipe.send((method, arguments))
        return self._answer()

    def _arrays(self, arrays: Arrays) -> None:
        """One message per leaf, so that not all of them are in memory twice."""
        self.pipe.send(len(arrays))
        for array in arrays:
            self.pipe.send(array)

    def _answer(self) -> Any:
        try:
            answer, problem = self.pipe.recv()
        except EOFError:
            raise MissingError("its process ended") from None
        if problem:
            raise MissingError(problem)
        return answer


def _serve(pipe: Connection) -> None:
    """Answer until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then closes
    sys.modules["numba"] = None  # type: ignore[assignment] # so importing it raises
    from .competitors import Ours

    made: list[Ours] = []
    with suppress(EOFError):
        arrays = (_received(pipe), _received(pipe))
        _reply(pipe, lambda: made.append(Ours(*arrays)))
        while True:
            method, arguments = pipe.recv()
            _reply(pipe, partial(getattr(made[0], method), *arguments))


def _received(pipe: Connection) -> Arrays:
    return [pipe.recv() for _ in range(pipe.recv())]


def _reply(pipe: Connection, call: Callable[[], Any]) -> None:
    try:
        pipe.send((call(), ""))
    except Exception as error:  # the other side decides what it means
        pipe.send((None, reason(error)))
