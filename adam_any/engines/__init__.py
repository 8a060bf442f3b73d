"""The choice of an engine for each leaf, or why not: a fast one takes it, else `eager` does.

Engine modules, and the libraries they serve, load when first chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import groupby
from typing import NamedTuple, cast

from ..detect import Backend
from ..rules import Rule
from .base import Engine, Leaf, Plan

REFERENCE = "eager"

#: The fast engine that serves a library, where one does.
_FAST = {"numpy": "cpu", "torch": "cpu", "cupy": "cuda", "jax": "xla"}


class Choice(NamedTuple):
    """Which engine runs a leaf, and why."""

    path: str
    library: str
    device: str
    dtype: str
    engine: str
    reason: str


class Explanation(tuple[Choice, ...]):
    """The choice for every leaf; `str` of it is a table."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [tuple(name.upper() for name in Choice._fields), *self]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)


def choose(rule: Rule, leaf: Leaf, engine: str | None) -> Choice:
    """The engine for one leaf, `engine` where the user forces it."""
    facts = leaf.backend
    name, reason = REFERENCE, f"the reference; no faster engine serves {facts.library}"
    if engine is not None:
        name, reason = engine, "asked for"
    elif (fast := _fast(facts)) is not None:
        refusal = load(fast).refusal(rule, leaf)
        if refusal is None:
            name, reason = fast, load(fast).merit()
        else:
            reason = refusal
    return Choice(leaf.path, facts.library, str(facts.device), facts.dtype, name, reason)


def _fast(facts: Backend) -> str | None:
    on_cuda = facts.library == "torch" and facts.device.type == "cuda"
    return "cuda" if on_cuda else _FAST.get(facts.library)


def explain(rule: Rule, leaves: Iterable[Leaf], engine: str | None) -> Explanation:
    """The choices for all leaves."""
    return Explanation(choose(rule, leaf, engine) for leaf in leaves)


def plans(rule: Rule, leaves: Sequence[Leaf], engine: str | None) -> list[Plan]:
    """Plans that together hold every leaf, one for each engine and backend."""

    def kind(leaf: Leaf) -> tuple[str, str]:
        return choose(rule, leaf, engine).engine, repr(leaf.backend)

    return [
        load(name).Plan(rule, list(members))
        for (name, _), members in groupby(sorted(leaves, key=kind), key=kind)
    ]


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
