"""Checkpoints in files, in the safetensors format: save and load.

- The old checkpoint or the new one is there, whole, whatever happens while one is saved.
- Loading checks everything, and a checksum over all of it, before anything changes. Whatever is
  wrong with the content is a ValueError; a file that cannot be read or written is an OSError.
- Nothing is unpickled, and no name in a file is ever used as a path.
- Nothing is read, nor memory asked for, whose dtype and shape this optimizer does not expect.
- Saving needs one host copy of the state for leaves on a device, for Dask, and for layouts other
  than C, and none for others. Loading needs one moment at a time on the host, beside the new state.

The file holds a tensor `path/moment` for each moment of each leaf, and two strings of metadata:
`adam_any` is a JSON document with format, rule, options, hyperparameters and the step count of each
path; `sha256` is the checksum of that document and, in the order of their names, one line for each
tensor: the JSON list of its name, dtype, shape and the sha256 of its bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import numbers
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from safetensors import SafetensorError, safe_open

from ..check import shape_of
from ..dtypes import DTYPES
from ..leaf import Leaf
from ..rule import Rule
from ..words import named
from . import state_dict
from .atomic_write import replacing
from .state_dict import Restored

Path = str | os.PathLike[str]


def save(path: Path, rule: Rule, leaves: Sequence[Leaf]) -> None:
    """Write the state of `leaves` to a file, or leave what was there as it was."""
    tensors = {
        _name(leaf, moment): _host(leaf, x)
        for leaf in leaves
        for moment, x in zip(rule.moments, leaf.moments, strict=True)
    }
    if len(tensors) < len(leaves) * len(rule.moments):
        raise ValueError("two moments have the same name path/moment in the file; rename a key")
    steps = {leaf.path: leaf.steps for leaf in leaves}
    document = _document({**state_dict.head(rule), "steps": steps})
    seal = _seal(document, (_line(name, tensor) for name, tensor in tensors.items()))
    with replacing(path) as new:
        _write(new, tensors, {"adam_any": document, "sha256": seal})


def load(path: Path, rule: Rule, leaves: Sequence[Leaf]) -> tuple[Rule, list[Restored]]:
    """The rule and the leaves' new state, as `state_dict.from_dict` gives them, from a file."""
    with _opened(path) as file:
        document, seal = _metadata(file)
        head = _parsed(document)
        steps = head.pop("steps", None)
        rule = state_dict.restored_rule(rule, head)
        counts = state_dict.counts(leaves, steps)
        _check_tensors(file, rule, leaves)
        lines: list[str] = []
        restored = [
            Restored(leaf, count, tuple(_moments(file, rule, leaf, lines)))
            for leaf, count in zip(leaves, counts, strict=True)
        ]
    if _seal(document, lines) != seal:
        raise ValueError(f"{os.fsdecode(path)}: the checksum is wrong, so the file is damaged")
    return rule, restored


def _name(leaf: Leaf, moment: str) -> str:
    return f"{leaf.path}/{moment}"


def _line(name: str, tensor: Any) -> str:
    """The line of one tensor, which the checksum covers."""
    data = hashlib.sha256(tensor.reshape(-1).view("uint8")).hexdigest()
    return json.dumps([name, tensor.dtype.name, tensor.shape, data])


def _seal(document: str, lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join([document, *sorted(lines)]).encode()).hexdigest()


# Writing -----------------------------------------------------------------------------------------


def _host(leaf: Leaf, moment: Any) -> Any:
    import numpy as np

    # safetensors writes the memory of an array from its first byte on, whatever its strides.
    # Not ascontiguousarray, which makes a 0-d array one of one dimension.
    return np.asarray(leaf.library.to_host(moment), order="C")


def _document(values: dict[str, Any]) -> str:
    """The JSON document; ValueError for an option or hyperparameter that would not survive it."""
    for name, value in [*values["options"].items(), *values["hyperparameters"].items()]:
        try:
            survives = _frozen(json.loads(_json(value))) == value
        except TypeError:
            survives = False
        if not survives:
            raise ValueError(
                f"{name} is {value!r}, which a file cannot hold; it must be a number, a string, a "
                "bool, None or a tuple of these (state_dict can hold anything)"
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


def _write(new: str, tensors: Mapping[str, Any], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    try:
        save_file(dict(tensors), new, metadata=metadata)
    except SafetensorError as error:
        # An error of the system's has its number in the message only.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise ValueError(f"a file cannot hold this state: {error}") from None
        raise OSError(int(number[1]), str(error)) from error


# Reading -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file, whose own errors become ValueErrors."""
    name = os.fsdecode(path)
    if not stat.S_ISREG(os.stat(name).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
    open(name, "rb").close()  # for Python's own errors, which say more
    try:
        # Not mapped: where another machine replaces a file that is mapped, reading it kills us.
        with safe_open(name, framework="numpy", backend="pread") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{name}: not a checkpoint, or damaged: {error}") from None


def _metadata(file: Any) -> tuple[str, str]:
    """The document and the checksum."""
    found = file.metadata() or {}
    if sorted(found) != ["adam_any", "sha256"]:
        raise ValueError("the file was not written by adam_any: it has other metadata")
    return found["adam_any"], found["sha256"]


def _parsed(document: str) -> dict[str, Any]:
    try:
        values = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file is damaged: its metadata is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("the file is damaged: its metadata is not a JSON object")
    if isinstance(values.get("options"), dict):
        values["options"] = {name: _frozen(value) for name, value in values["options"].items()}
    return values


def _check_tensors(file: Any, rule: Rule, leaves: Sequence[Leaf]) -> None:
    """Raise unless the file has just the tensors that the leaves need, of their dtypes and shapes.

    Only the header is read.
    """
    wanted = [_name(leaf, moment) for leaf in leaves for moment in rule.moments]
    state_dict.same_names("the file", dict.fromkeys(file.keys()), wanted)
    for leaf in leaves:
        for moment, like in zip(rule.moments, leaf.moments, strict=True):
            found = file.get_slice(_name(leaf, moment))
            have = found.get_dtype(), tuple(found.get_shape())
            want = DTYPES[leaf.backend.compute].file, shape_of(like)
            if have != want:
                raise ValueError(
                    f"{named(leaf.path)}: {moment} is {have[0]} of {have[1]} in the file; it must "
                    f"be {want[0]} of {want[1]}"
                )


def _moments(file: Any, rule: Rule, leaf: Leaf, lines: list[str]) -> Iterator[Any]:
    """The moments of one leaf, each read, noted for the checksum, and copied to its place."""
    for moment, like in zip(rule.moments, leaf.moments, strict=True):
        tensor = file.get_tensor(_name(leaf, moment))
        lines.append(_line(_name(leaf, moment), tensor))
        yield leaf.library.from_host(tensor, like)
