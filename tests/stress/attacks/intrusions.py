"""Attacks behind the optimizer's back: changed parameters, and calls in the middle of others."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from types import FrameType
from typing import Any

from adam_any.journal import BUSY

from ..recipes import NUMPY, PYTHON, TORCH, pick
from ..shadows import Mismatch
from ..subject import Subject
from .processes import in_a_child


def mutated(subject: Subject) -> str | None:
    """Change a parameter under its own name; it is refused until it is what it was."""
    leaves = subject.recipe.leaves
    usable = [i for i, x in enumerate(leaves) if x.in_place and x.lib in (NUMPY, TORCH)]
    if not usable:
        return None
    at = pick(subject.random, usable)
    p, lib = subject.arrays[at], leaves[at].lib
    tree = subject.gradients()[-1]
    if lib is TORCH:
        old = p.data
        other = old[None] if old.is_complex() or old.dtype.itemsize == 2 else old.half()
        p.data = other.clone()
        subject.refuses(lambda: subject.opt.step(tree), TypeError, ValueError)
        p.data = old
        return "tensor of another dtype or shape refused"
    kept = p.dtype
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        p.dtype = f"V{p.itemsize}"
        subject.refuses(lambda: subject.opt.step(tree), TypeError)
        p.dtype = kept
    return "array of another dtype refused"


class Entering:
    """A schedule that calls its own optimizer, which is in the middle of a step."""

    def __init__(self, subject: Subject) -> None:
        self._subject, self._rate = subject, subject.lr

    def __call__(self, count: int) -> float:
        """The rate, after a call that has to be refused."""
        opt, tree = self._subject.opt, self._subject.gradients()[-1]
        calls: list[Any] = [opt.state_dict, lambda: opt.step(tree), lambda: opt.load_state_dict({})]
        self._subject.refuses(pick(self._subject.random, calls), RuntimeError)
        rate = self._rate(count) if callable(self._rate) else self._rate
        return float(rate)


def entered(subject: Subject) -> str:
    """Call the optimizer from a schedule of its own."""
    rate = subject.lr
    subject.opt.lr = Entering(subject)
    try:
        subject.steps()
    finally:
        subject.opt.lr = rate
    return "call amid a step refused"


def raced(subject: Subject) -> str:
    """Let another thread look into the optimizer all the while."""
    stop = threading.Event()
    wrong: list[Exception] = []

    def look() -> None:
        while not stop.is_set():
            try:
                subject.opt.state_dict()
            except RuntimeError as error:
                if str(error) != BUSY:
                    wrong.append(error)
                    return
            time.sleep(1e-3)  # or it would never be anybody else's turn

    other = threading.Thread(target=look)
    other.start()
    try:
        for _ in range(4):
            values, _, tree = subject.gradients()
            params = None
            while params is None:
                try:
                    params = subject.opt.step(tree)
                except RuntimeError as error:
                    if str(error) != BUSY:
                        raise
                    time.sleep(1e-4)
            subject.take(params)
            subject.follow(values)
    finally:
        stop.set()
        other.join()
    if wrong:
        raise Mismatch(f"another thread was told {wrong[0]!r}")
    return "another thread refused"


def signalled(subject: Subject) -> str | None:
    """Send real signals, in a forked child, whose thread is its main one, as signals need."""
    libs = {leaf.lib for leaf in subject.recipe.leaves}
    if not hasattr(os, "fork") or libs - {NUMPY, PYTHON}:
        return None

    def attacked() -> bytes:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, _interrupt)
            for _ in range(6):
                if not _signalled(subject):
                    break
        return b"whole"

    child, mine = in_a_child(attacked)
    if child != mine:
        raise Mismatch(f"a child that got signals: {child!r}")
    return "signal at a random moment"


def _signalled(subject: Subject) -> bool:
    """Make a step with a signal in it; False if it says that it is torn."""
    values, _, tree = subject.gradients()
    before = subject.opt.steps
    try:
        signal.setitimer(signal.ITIMER_REAL, float(subject.random.uniform(1e-6, 2e-3)))
        subject.opt.step(tree)
        time.sleep(0.003)  # until it has come; one in a callback of a library is lost
    except KeyboardInterrupt:
        pass
    try:
        subject.opt.state_dict()
    except RuntimeError:
        return False
    subject.take(subject.opt.params)
    if subject.opt.steps != before:
        subject.follow(values)
    subject.check()
    return True


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
