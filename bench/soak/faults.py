"""What happens to an optimizer between two comparisons, and must not show in its numbers.

Each fault returns its name, under which it is counted: what was planned may not come about.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import pickle
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import adam_any
from adam_any import Adam

from .leaves import Random, pick
from .shadows import MismatchError, Values
from .subject import Subject

#: Seconds after which a forked child is taken to hang. It needs some hundredths.
PATIENCE = 60.0

HERE = str(Path(adam_any.__file__).parent)


@dataclasses.dataclass(frozen=True)
class Falling:
    """A schedule."""

    first: float

    def __call__(self, count: int) -> float:
        """The rate of the update that follows on so many."""
        return self.first / (1 + count)


def saved_and_loaded(subject: Subject) -> str:
    """Into the same optimizer, or a fresh one, through a file or a dict."""
    opt = subject.opt if subject.random.random() < 0.5 else subject.made(subject.values())
    if subject.random.random() < 0.8:
        _save(subject)
        opt.load(subject.file)
        subject.done["loads"] += 1
    else:
        opt.load_state_dict(subject.opt.state_dict())
    subject.adopt(opt)
    return "state saved and loaded"


def rewound(subject: Subject) -> str:
    """Steps are taken back: parameters by hand, the rest from a file."""
    kept = subject.values()
    _save(subject)
    for _ in range(3):
        subject.take(subject.opt.step(subject.gradients()[1]))
    _restore(subject, kept)
    return "steps taken back"


def damaged(subject: Subject) -> str:
    """A file that has lost its end, or in which a bit has turned, is refused."""
    _save(subject)
    content = bytearray(subject.file.read_bytes())
    at = int(subject.random.integers(len(content)))
    if subject.random.random() < 0.5:
        del content[at:]
    else:
        content[at] ^= 1 << int(subject.random.integers(8))
    subject.file.write_bytes(content)
    _refused(lambda: subject.opt.load(subject.file), ValueError)
    return "damaged file refused"


def misfit(subject: Subject) -> str:
    """A gradient of another shape, of another kind, or in a container of its own, is refused."""
    grads: list[Any] = [leaf.grad(leaf.values(subject.random)) for leaf in subject.recipe.leaves]
    at = int(subject.random.integers(len(grads)))
    grads[at] = pick(subject.random, [np.zeros((2, 3, 5, 7)), "text", [grads[at], grads[at]]])
    tree = subject.recipe.spec.unflatten(grads)
    _refused(lambda: subject.opt.step(tree), TypeError, ValueError)
    return "bad gradient refused"


def infinite(subject: Subject) -> str:
    """A gradient that is not finite is refused, or the step skipped, where that is asked for; where
    it is not, nothing is the same again, and so the parameters are set instead."""
    leaves = subject.recipe.leaves
    values = [leaf.values(subject.random) for leaf in leaves]
    hit = [v for v in values if v.size]
    if not hit or subject.recipe.nonfinite == "propagate":
        return replaced(subject)
    pick(subject.random, hit).flat[0] = pick(subject.random, (np.inf, -np.inf, np.nan))
    grads = [leaf.grad(v) for leaf, v in zip(leaves, values, strict=True)]
    tree, skipped = subject.recipe.spec.unflatten(grads), subject.opt.skipped
    if subject.recipe.nonfinite == "raise":
        _refused(lambda: subject.opt.step(tree), ValueError)
        return "non-finite gradient refused"
    subject.take(subject.opt.step(tree))
    if subject.opt.skipped != skipped + 1:
        raise MismatchError(f"skipped is {subject.opt.skipped}, not {skipped + 1}")
    return "non-finite gradient skipped"


def interrupted(subject: Subject) -> str:
    """A step is interrupted at one of the package's lines. Then it is not made, or wholly made, or
    the optimizer says that it is torn, and goes on from a checkpoint."""
    kept, before = subject.values(), subject.opt.steps
    _save(subject)
    values, grads = subject.gradients()
    cut = _interrupted(lambda: subject.opt.step(grads), subject.random)
    try:
        subject.opt.state_dict()
    except RuntimeError:
        _restore(subject, kept)
        return "step torn, and restored"
    subject.take(subject.opt.params)
    if subject.opt.steps != before or all(v is None for v in values):
        subject.follow(values)
    return "step interrupted" if cut else "step traced to its end"


def copied(subject: Subject) -> str:
    """A copy goes on, or the original does; what is left behind steps alone, to no effect."""
    ways: list[Callable[[Adam], Adam]] = [copy.copy, copy.deepcopy]
    if all(leaf.library != "jax" for leaf in subject.recipe.leaves):
        # JAX unpickles to no device in particular, for which it would have to compile anew.
        ways.append(lambda opt: pickle.loads(pickle.dumps(opt)))
    stays, goes = subject.opt, pick(subject.random, ways)(subject.opt)
    if subject.random.random() < 0.5:
        stays, goes = goes, stays
    goes.step(subject.gradients()[1])
    subject.adopt(stays)
    return "copied or pickled"


def forked(subject: Subject) -> str:
    """A child makes the same steps as its parent, and ends with the same bits.

    It leaves other libraries than NumPy alone: their threads are not there.
    """
    if any(leaf.library not in ("numpy", "python") for leaf in subject.recipe.leaves):
        return replaced(subject)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _child(subject, theirs)
    try:
        subject.steps()
        answer = os.read(ours, 1000) if select.select([ours], [], [], PATIENCE)[0] else b"it hangs"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ours)
        os.close(theirs)
    if answer != subject.digest():
        raise MismatchError(f"a forked child: {answer!r}")
    return "forked"


def _child(subject: Subject, answer: int) -> None:
    """What the child does; it does not return."""
    try:
        gc.disable()  # what other threads have left must not be ended here
        subject.steps()
        os.write(answer, subject.digest())
    except BaseException as error:
        os.write(answer, f"{type(error).__name__}: {error}".encode()[:1000])
    finally:
        os._exit(0)


def replaced(subject: Subject) -> str:
    """The user sets the parameters, to new arrays."""
    values: Values = [np.negative(v, out=v) for v in subject.values()]
    pairs = zip(subject.recipe.leaves, values, strict=True)
    subject.arrays = [leaf.parameter(v) for leaf, v in pairs]
    subject.opt.params = subject.recipe.spec.unflatten(subject.arrays)
    subject.shadows.put(values)
    return "parameters set"


def taught(subject: Subject) -> str:
    """The user sets the learning rate, to a number or a schedule."""
    lr = 2.0 ** -int(subject.random.integers(4, 12))
    subject.lr = Falling(lr) if subject.random.random() < 0.4 else lr
    subject.opt.lr = subject.lr
    subject.shadows.learn(subject.lr)
    return "learning rate set"


ALL: tuple[Callable[[Subject], str], ...] = (
    saved_and_loaded,
    rewound,
    damaged,
    misfit,
    infinite,
    interrupted,
    copied,
    forked,
    replaced,
    taught,
)


def _save(subject: Subject) -> None:
    subject.opt.save(subject.file)
    subject.done["saves"] += 1


def _restore(subject: Subject, kept: Any) -> None:
    """Put parameters back, in place where they were written in place, and load the state saved."""
    for i, (leaf, values) in enumerate(zip(subject.recipe.leaves, kept, strict=True)):
        was = leaf.parameter(values)
        if leaf.in_place:
            subject.arrays[i][...] = was
        else:
            subject.arrays[i] = was
    subject.opt.params = subject.recipe.spec.unflatten(subject.arrays)
    subject.opt.load(subject.file)
    subject.done["loads"] += 1


def _refused(call: Callable[[], Any], *errors: type[Exception]) -> None:
    try:
        call()
    except errors:
        return
    raise MismatchError("what should have been refused was taken")


def _interrupted(call: Callable[[], Any], random: Random) -> bool:
    """Call, and interrupt it at some line of the package, or of an engine's step; whether it was
    still at work then."""
    counting = random.random() < 0.3
    lines = int(2 ** random.uniform(0, 10 if counting else 5))

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal counting, lines
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not file.startswith(HERE):
            return None
        counting = counting or (name == "step" and "engines" in file)
        lines -= counting and event == "line"
        # Not while another error is handled: Python (3.11) loses one that a trace interrupts there,
        # and with it all that its frames hold.
        if lines < 0 and sys.exc_info()[1] is None:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False
