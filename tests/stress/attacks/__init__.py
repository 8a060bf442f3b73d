"""What is done to an optimizer between two comparisons, and must not show in its numbers.

An attack is a function of a `Subject`, whose methods say what can be done. It returns the name
under which it is counted, or None where it does not apply to this one; it raises Mismatch where the
package takes what it must refuse. What it leaves behind is compared with the shadows afterwards, so
whatever changes the optimizer on purpose (`put`, `learn`, `follow`) tells them, too.

To add one, write it in the module that it fits, or a new one, and name it in ATTACKS.
"""

from __future__ import annotations

from collections.abc import Callable

from ..recipes import pick
from ..subject import Subject
from . import files, inputs, interrupts, processes

ATTACKS: tuple[Callable[[Subject], str | None], ...] = (
    files.saved_and_loaded,
    files.rewound,
    files.damaged,
    inputs.misfit,
    inputs.infinite,
    inputs.replaced,
    inputs.taught,
    interrupts.interrupted,
    processes.copied,
    processes.forked,
)


def burst(subject: Subject) -> None:
    """Make some steps, and attack; all is compared before and after."""
    subject.steps()
    name = None
    while name is None:
        name = pick(subject.random, ATTACKS)(subject)
    subject.attacks[name] += 1
    subject.check()
