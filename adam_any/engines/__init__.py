"""The choice of an engine for each leaf, or why not: a fast one takes it, else `eager` does.

Engine modules, and the libraries they serve, load when first chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .. import rule as rules
from ..leaf import Leaf
from ..words import named
from .kernels.program import Traced
from .protocol import Engine, Plan

if TYPE_CHECKING:
    from ..groups import Kind

REFERENCE = "eager"


class Choice(NamedTuple):
    """The rule of a leaf, the engine that runs it, and why."""

    path: str
    library: str
    device: str
    dtype: str
    rule: str
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


def choose(kind: Kind, leaf: Leaf, engine: str | None) -> Choice:
    """The engine for one leaf, `engine` where the user forces it."""
    facts = leaf.backend
    if kind.frozen:
        name, reason = "none", "frozen: its rule is None"
    else:
        name, why = _chosen(kind.traced, leaf, engine)
        # The summary may import a compiler, to say how it will run.
        reason = load(name).summary(leaf) if why is None else why
        remark = leaf.library.remark(leaf.array)
        reason = reason if remark is None else f"{reason}; {remark}"
    rule = "None" if kind.frozen else rules.shown(kind.rule)
    return Choice(leaf.path, facts.library, str(facts.device), facts.dtype, rule, name, reason)


def _chosen(traced: Traced, leaf: Leaf, engine: str | None) -> tuple[str, str | None]:
    """The name of the engine, and why there is no faster one."""
    if engine is not None:
        return engine, "asked for"
    fast = leaf.library.engine(leaf.backend.device)
    if fast is None:
        return REFERENCE, f"the reference; no faster engine serves {leaf.backend.library}"
    refusal = load(fast).refusal(traced, leaf)
    return (fast, None) if refusal is None else (REFERENCE, refusal)


def explain(kinds: Sequence[Kind], leaves: Iterable[Leaf], engine: str | None) -> Explanation:
    """The choices for all leaves."""
    return Explanation(choose(kinds[leaf.kind], leaf, engine) for leaf in leaves)


def plans(kinds: Sequence[Kind], leaves: Sequence[Leaf], engine: str | None) -> list[Plan]:
    """Plans that together hold every leaf, those that write in place last.

    There is one for each engine, backend and program.
    """
    groups: dict[Any, tuple[Traced, list[Leaf]]] = {}
    for leaf in leaves:
        traced = kinds[leaf.kind].traced
        name, _ = _chosen(traced, leaf, engine)
        key = name, leaf.backend, load(name).key(traced, leaf)
        groups.setdefault(key, (traced, []))[1].append(leaf)
    made = [load(name).Plan(*group) for (name, *_), group in groups.items()]
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
