"""Attacks in the middle of a step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import adam_any

from ..recipes import Random
from ..subject import Subject

PACKAGE = str(Path(adam_any.__file__).parent)


def interrupted(subject: Subject) -> str:
    """Interrupt a step at one of the package's lines. It is not made, or wholly made, or the
    optimizer says that it is torn, and goes on from a checkpoint."""
    kept, before = subject.values(), subject.opt.steps
    subject.opt.save(subject.file)
    values, _, grads = subject.gradients()
    cut = _interrupted(lambda: subject.opt.step(grads), subject.random)
    try:
        subject.opt.state_dict()
    except RuntimeError:
        subject.restore(kept)
        return "step torn, and restored"
    subject.take(subject.opt.params)
    if subject.opt.steps != before:
        subject.follow(values)
    return "step interrupted" if cut else "step traced to its end"


def _interrupted(call: Callable[[], Any], random: Random) -> bool:
    """Call, and interrupt it at a random line of the package, or of an engine's step. False if it
    had come to its end by then."""
    counting = random.random() < 0.3
    lines = int(2 ** random.uniform(0, 10 if counting else 5))

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal counting, lines
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not file.startswith(PACKAGE):
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
