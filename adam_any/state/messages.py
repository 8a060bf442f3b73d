"""The agreement of a checkpoint with its optimizer, and messages about where it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..libraries import Library
from ..words import a, few, named, shown


def acceptable(path: str, library: Library, x: Any, name: str) -> None:
    """Raise ValueError for a moment whose memory or operators are unusual."""
    try:
        library.accept(x, name)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{named(path)}: {error}") from None


def equal(what: str, have: Any, want: Any) -> None:
    """Raise ValueError unless a part of a checkpoint is what this optimizer needs."""
    if have != want:
        raise ValueError(f"{what} is {shown(have)} in the state; this optimizer needs {want!r}")


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
