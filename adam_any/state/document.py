"""The JSON document in a checkpoint's file: all of it but the arrays."""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterator
from typing import Any

from ..words import shown


def dumps(values: dict[str, Any]) -> str:
    """The document of these values; ValueError for an option or number that it cannot hold."""
    for level in _levels(values):
        for name, value in [*level["options"].items(), *level["hyperparameters"].items()]:
            try:
                like = _frozen(value) if isinstance(value, dict) else value  # of a schedule
                survives = _frozen(json.loads(_json(value))) == like
            except TypeError:
                survives = False
            if not survives:
                raise ValueError(
                    f"{name} is {shown(value)}, which a file cannot hold; it must be a number, a "
                    "string, a bool, None or a tuple of these (state_dict can hold anything)"
                )
    return _json(values)


def _levels(values: Any) -> Iterator[Any]:
    """All parts that describe one rule."""
    if not isinstance(values, dict):
        return
    if "options" in values and "hyperparameters" in values:
        yield values
    yield from _levels(values.get("held"))
    groups = values.get("groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        yield from _levels(group)


def _json(value: Any) -> str:
    def number(x: Any) -> int | float:  # NumPy's, say
        if isinstance(x, numbers.Real):
            return int(x) if isinstance(x, numbers.Integral) else float(x)
        raise TypeError

    return json.dumps(value, default=number)


def _frozen(value: Any) -> Any:
    """A JSON value with tuples for its lists: the fields of a frozen rule are tuples."""
    if isinstance(value, dict):
        return {key: _frozen(x) for key, x in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def loads(text: str) -> dict[str, Any]:
    """The values of a document; ValueError for what is not one."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file is damaged: its metadata is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("the file is damaged: its metadata is not a JSON object")
    for level in _levels(values):
        if isinstance(level["options"], dict):
            level["options"] = {name: _frozen(value) for name, value in level["options"].items()}
    return values
