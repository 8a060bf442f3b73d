"""Attacks by which there are suddenly two of an optimizer."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import pickle
import select
import signal
from collections.abc import Callable
from typing import Any

from ...helpers.bits import snapshot
from ..recipes import JAX, NUMPY, PYTHON, pick
from ..shadows import Mismatch
from ..subject import Subject

#: Seconds after which a forked child is taken to hang. It needs some hundredths.
PATIENCE = 60.0


def copied(subject: Subject) -> str:
    """Go on with a copy, or with the original; what is left behind steps alone, to no effect."""
    ways: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy]
    if all(leaf.lib is not JAX for leaf in subject.recipe.leaves):
        # JAX unpickles to no device in particular, for which it would have to compile anew.
        ways.append(lambda opt: pickle.loads(pickle.dumps(opt)))
    stays, goes = subject.opt, pick(subject.random, ways)(subject.opt)
    if subject.random.random() < 0.5:
        stays, goes = goes, stays
    goes.step(subject.gradients()[-1])
    subject.adopt(stays)
    return "copied or pickled"


def forked(subject: Subject) -> str | None:
    """Let a child make the same steps as its parent; it must end with the same bits.

    It leaves other libraries than NumPy alone: their threads are not there.
    """
    libs = {leaf.lib for leaf in subject.recipe.leaves}
    if not hasattr(os, "fork") or libs - {NUMPY, PYTHON}:
        return None

    def steps() -> bytes:
        subject.steps()
        return hashlib.sha256(repr(snapshot(subject.opt)).encode()).digest()

    child, mine = in_a_child(steps)
    if child != mine:
        raise Mismatch(f"a forked child: {child!r}")
    return "forked"


def in_a_child(work: Callable[[], bytes]) -> tuple[bytes, bytes]:
    """What `work` returns in a forked child, or how it failed there, and what it returns here."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gc.disable()  # what other threads have left must not be ended here
            os.write(theirs, work())
        except BaseException as error:
            os.write(theirs, f"{type(error).__name__}: {error}".encode()[:1000])
        finally:
            os._exit(0)
    try:
        mine = work()
        answer = os.read(ours, 1000) if select.select([ours], [], [], PATIENCE)[0] else b"it hangs"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ours)
        os.close(theirs)
    return answer, mine
