"""Attacks by what a user passes and sets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..recipes import pick
from ..shadows import Mismatch
from ..subject import Subject


@dataclasses.dataclass(frozen=True)
class Falling:
    """A schedule."""

    first: float

    def __call__(self, count: int) -> float:
        """The rate of the update that follows `count` others."""
        return self.first / (1 + count)


def misfit(subject: Subject) -> str:
    """Pass a gradient of another shape, of another kind, or in a container of its own."""
    grads: list[Any] = [leaf.grad(leaf.numbers(subject.random)) for leaf in subject.recipe.leaves]
    at = int(subject.random.integers(len(grads)))
    grads[at] = pick(subject.random, [np.zeros((2, 3, 5, 7)), "text", [grads[at], grads[at]]])
    tree = subject.recipe.spec.unflatten(grads)
    subject.refuses(lambda: subject.opt.step(tree), TypeError, ValueError)
    return "bad gradient refused"


def infinite(subject: Subject) -> str | None:
    """Pass a gradient that is not finite where it is refused, or the step skipped."""
    leaves = subject.recipe.leaves
    values = [leaf.numbers(subject.random) for leaf in leaves]
    sizeable = [v for v in values if v.size]
    if not sizeable or subject.recipe.nonfinite == "propagate":
        return None
    pick(subject.random, sizeable).flat[0] = pick(subject.random, (np.inf, -np.inf, np.nan))
    grads = [leaf.grad(v) for leaf, v in zip(leaves, values, strict=True)]
    tree, skipped = subject.recipe.spec.unflatten(grads), subject.opt.skipped
    if subject.recipe.nonfinite == "raise":
        subject.refuses(lambda: subject.opt.step(tree), ValueError)
        return "non-finite gradient refused"
    subject.take(subject.opt.step(tree))
    if subject.opt.skipped != skipped + 1:
        raise Mismatch(f"skipped is {subject.opt.skipped}, not {skipped + 1}")
    return "non-finite gradient skipped"


def replaced(subject: Subject) -> str:
    """Set the parameters, to new arrays."""
    subject.put([-v for v in subject.values()])
    return "parameters set"


def taught(subject: Subject) -> str:
    """Set the learning rate, to a number or a schedule."""
    lr = 2.0 ** -int(subject.random.integers(4, 12))
    subject.learn(Falling(lr) if subject.random.random() < 0.4 else lr)
    return "learning rate set"
