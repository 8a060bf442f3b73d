"""The choice of an engine for each leaf, or why not: a fast one takes it, else `eager` does.

Engine modules, and the libraries they serve, load when first chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import NamedTuple, cast

from ..detect import Backend
from ..leaf import Leaf
from ..words import named
from .kernels.program import Traced
from .protocol import Engine, Plan

REFERENCE = "eager"


class Choice(NamedTuple):
    """The engine that runs a leaf, and why."""

    path: str
    library: str
    device: str
    dtype: str
    engine: str
    reason: str


class Explanation(tuple[Choice, ...]):
    """The choice for every leaf; it is shown as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [tuple(name.upper() for name in Choice._fields)]
        rows += ((choice.path or named(""), *choice[1:]) for choice in self)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)

    __repr__ = __str__


def choose(traced: Traced, leaf: Leaf, engine: str | None) -> Choice:
    """The engine for one leaf, `engine` where the user forces it."""
    facts = leaf.backend
    name, reason = _chosen(traced, leaf, engine)
    if reason is None:
        reason = load(name).summary()  # which may import a compiler, to say how it will run
    return Choice(leaf.path, facts.library, str(facts.device), facts.dtype, name, reason)


def _chosen(traced: Traced, leaf: Leaf, engine: str | None) -> tuple[str, str | None]:
    """The name of the engine, and why there is no faster one."""
    if engine is not None:
        return engine, "asked for"
    fast = leaf.library.engine(leaf.backend.device)
    if fast is None:
        return REFERENCE, f"the reference; no faster engine serves {leaf.backend.library}"
    refusal = load(fast).refusal(traced, leaf)
    return (fast, None) if refusal is None else (REFERENCE, refusal)


def explain(traced: Traced, leaves: Iterable[Leaf], engine: str | None) -> Explanation:
    """The choices for all leaves."""
    return Explanation(choose(traced, leaf, engine) for leaf in leaves)


def plans(traced: Traced, leaves: Sequence[Leaf], engine: str | None) -> list[Plan]:
    """Plans that together hold every leaf, those that write in place last.

    There is one for each engine and backend.
    """
    groups: dict[tuple[str, Backend], list[Leaf]] = {}
    for leaf in leaves:
        key = _chosen(traced, leaf, engine)[0], leaf.backend
        groups.setdefault(key, []).append(leaf)
    made = [load(name).Plan(traced, group) for (name, _), group in groups.items()]
    return sorted(made, key=lambda plan: plan.in_place)


def load(name: str) -> Engine:
    """The module of an engine."""
    return cast(Engine, import_module(f".{name}", __name__))


def valid(engine: str | None) -> str | None:
    """`engine`, if it may be asked for."""
    if engine not in (None, REFERENCE):
        raise ValueError(
            f"engine is {engine!r}; it must be None, which chooses the fastest for each leaf, "
            f"or {REFERENCE!r}, the reference"
        )
    return engine
