"""Words for messages: the name of a leaf, a class with its article, what may be long."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Any


def named(path: str) -> str:
    """The name of a leaf: its path in quotes; a bare array, whose path is empty, has none."""
    return repr(path) if path else "the parameter"


def at(path: str) -> str:
    """The beginning of a message about what is found at a path, which goes on with a noun."""
    return f"{path!r}: " if path else ""


def a(kind: type) -> str:
    """A class with its article."""
    return f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"


def few(names: Collection[Any]) -> str:
    """A list of names, of which a long one is cut short."""
    first = ", ".join(map(shown, islice(names, 5)))
    return f"[{first}, and {len(names) - 5:,} more]" if len(names) > 5 else f"[{first}]"


def shown(value: Any) -> str:
    """A value as Python shows it, of which a long one is cut short."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python will print
        return f"{a(type(value))} that is too long to print"
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text):,} characters)"
