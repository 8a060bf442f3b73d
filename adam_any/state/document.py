"""The JSON document in a checkpoint's file: all of it but the arrays."""

from __future__ import annotations

import json
import numbers
from typing import Any

from ..words import shown


def dumps(values: dict[str, Any]) -> str:
    """The document of these values; ValueError for an option or number that it cannot hold."""
    for name, value in [*values["options"].items(), *values["hyperparameters"].items()]:
        try:
            survives = _frozen(json.loads(_json(value))) == value
        except TypeError:
            survives = False
        if not survives:
            raise ValueError(
                f"{name} is {shown(value)}, which a file cannot hold; it must be a number, a "
                "string, a bool, None or a tuple of these (state_dict can hold anything)"
            )
    return _json(values)


def _json(value: Any) -> str:
    def number(x: Any) -> int | float:  # NumPy's, say
        if isinstance(x, numbers.Real):
            return int(x) if isinstance(x, numbers.Integral) else float(x)
        raise TypeError

    return json.dumps(value, default=number)


def _frozen(value: Any) -> Any:
    """A JSON value with tuples for its lists: the fields of a frozen rule are tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def loads(text: str) -> dict[str, Any]:
    """The values of a document; ValueError for what is not one."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file is damaged: its metadata is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("the file is damaged: its metadata is not a JSON object")
    if isinstance(values.get("options"), dict):
        values["options"] = {name: _frozen(value) for name, value in values["options"].items()}
    return values
