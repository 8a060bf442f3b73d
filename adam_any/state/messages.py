"""What a checkpoint must agree with, and messages of a bounded length about what does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..tree import a


def equal(what: str, have: Any, want: Any) -> None:
    """Raise ValueError unless a part of a checkpoint is what this optimizer needs."""
    if have != want:
        raise ValueError(f"{what} is {shortened(have)} in the state; this optimizer needs {want!r}")


def same_names(where: str, given: Any, wanted: list[str]) -> None:
    """Raise ValueError unless `given` is a mapping with just the names that are wanted."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: it is {a(type(given))}; it must be a dict")
    known = set(wanted)
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in known]
    if missing or extra:
        raise ValueError(
            f"{where}: missing {few(missing)}, not known {few(extra)}; the names must be equal"
        )


def few(names: Sequence[Any]) -> str:
    """The first of several names, and how many more there are."""
    shown = [shortened(name) for name in names[:5]]
    more = [f"and {len(names) - 5:,} more"] if len(names) > 5 else []
    return f"[{', '.join(shown + more)}]"


def shortened(value: Any) -> str:
    """A value as a message shows it: the beginning, if it is long."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
