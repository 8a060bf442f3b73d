"""Checkpoints in files, in the safetensors format: save and load.

- The old checkpoint or the new one is there, whole, whatever happens while one is saved.
- Loading checks everything, and a checksum over all of it, before anything changes. Whatever is
  wrong with the content is a ValueError; a file that cannot be read or written is an OSError.
- Nothing is unpickled or mapped, and no name in a file is ever used as a path.
- No memory is asked for whose dtype and shape this optimizer does not expect.
- Saving needs one array at a time on the host, for leaves on a device, for Dask, and for layouts
  other than C, and none for others. Loading needs one at a time, beside a copy of the new state.

The file holds for each leaf a tensor `path/param` and for each of its moments `path/moment`, in
their own precision, complex numbers as pairs in a last axis of two; and two strings. `adam_any` is
a JSON document: what `state_dict.head` has, and the step count of each path. `sha256` is the
checksum of that document and, in the order of their names, one line for each tensor: the JSON list
of its name, dtype, shape and the sha256 of its bytes. Format 1 had no parameters.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..check import shape_of
from ..dtypes import DTYPES
from ..leaf import Leaf
from ..words import named, shown
from . import document, state_dict
from .atomic_write import replacing
from .messages import same_names
from .safetensors import SIZES, Kind, Reader, header, in_order, write
from .state_dict import Restored

if TYPE_CHECKING:
    from ..contents import Contents

Path = str | os.PathLike[str]

PARAM = "param"

#: What a run has beside them (`state.run`).
BEST, HISTORY = "best", "history"

#: The checksum's names of dtypes, by the format's.
NAMES = {row.file: row.real for row in DTYPES.values()}


class Stored(NamedTuple):
    """An array of a leaf, its parameter or a moment, and what it is in a file."""

    leaf: Leaf
    what: str
    array: Any
    kind: Kind

    @property
    def name(self) -> str:
        """Its name in the file."""
        return f"{self.leaf.path}/{self.what}"


def save(
    path: Path,
    contents: Contents,
    run: Mapping[str, Any] | None = None,
    beside: Sequence[Stored] = (),
) -> None:
    """Write parameters and state to a file, or leave what was there as it was.

    `run` is an entry of the document about the run that they are from, `beside` its arrays.
    """
    leaves = contents.leaves
    for leaf in leaves:
        reason = leaf.library.unsaved(leaf.array)
        if reason is not None:
            raise ValueError(
                f"{named(leaf.path)} cannot be saved in one file: {reason}, which takes what "
                "state_dict() returns (docs/SCALING.md)"
            )
    every = [*(x for leaf in leaves for x in _stored(contents, leaf, params=True)), *beside]
    stored = {x.name: x for x in every}
    if len(stored) < len(every):
        raise ValueError("two arrays have the same name path/moment in the file; rename a key")
    _check_paths(leaves)
    steps = {leaf.path: leaf.steps for leaf in leaves}
    head = {**state_dict.head(contents.rule, params=True), "steps": steps}
    text = document.dumps(head if run is None else {**head, "run": run})
    kinds = {name: x.kind for name, x in stored.items()}

    def beginning(seal: str) -> bytes:
        return header(kinds, {"adam_any": text, "sha256": seal})

    placeholder = beginning(64 * "0")  # as long as with the checksum, which comes out last
    with replacing(path) as file:
        file.write(placeholder)
        lines = [_line(name, kinds[name], _write(file, stored[name])) for name in in_order(kinds)]
        file.seek(0)
        file.write(beginning(_seal(text, lines)))


def load(path: Path, contents: Contents, params: bool) -> tuple[Any, list[Restored]]:
    """The rules and the leaves' new state, as `state_dict.from_dict` gives them, from a file.

    With `params` also their new parameters.
    """
    return load_all(path, contents, params)[:2]


def load_all(
    path: Path,
    contents: Contents,
    params: bool,
    beside: Callable[[Any], list[Stored]] | None = None,
) -> tuple[Any, list[Restored], list[Any]]:
    """The same, and the arrays of a run that `beside` asks for, given the entry about it."""
    with _opened(path) as file:
        text, seal = _metadata(file)
        head = state_dict.current(document.loads(text))
        steps, run = head.pop("steps", None), head.pop("run", None)
        rule, leaves = state_dict.restored_rule(contents.rule, head), contents.leaves
        if params and not head["params"]:
            raise ValueError(
                "the file is of format 1, which has no parameters; put them back yourself, and "
                "pass params=False"
            )
        counts = state_dict.counts(leaves, steps)
        wanted = [x for leaf in leaves for x in _stored(contents, leaf, params)]
        others = [f"{leaf.path}/{PARAM}" for leaf in leaves if head["params"] and not params]
        more = [] if beside is None else beside(run)
        if run is not None and beside is None:
            others += [*(f"{leaf.path}/{BEST}" for leaf in leaves), f"run/{HISTORY}"]
        wanted += more
        _check_tensors(file, wanted, others)
        lines = [_line(name, file.kinds[name], file.read(name)) for name in others]
        new = {}
        for x in wanted:
            host = _empty(x)
            lines.append(_line(x.name, x.kind, file.read(x.name, _bytes(host))))
            new[x.name] = x.leaf.library.from_host(host, x.array)
    if _seal(text, lines) != seal:
        raise ValueError(f"{os.fsdecode(path)}: the checksum is wrong, so the file is damaged")
    restored = [
        Restored(
            leaf,
            count,
            tuple(new[f"{leaf.path}/{x}"] for x in contents.kind(leaf).rule.moments),
            new.get(f"{leaf.path}/{PARAM}"),
        )
        for leaf, count in zip(leaves, counts, strict=True)
    ]
    return rule, restored, [new[x.name] for x in more]


def _stored(contents: Contents, leaf: Leaf, params: bool) -> list[Stored]:
    """The moments of a leaf, and its parameter, where that is asked for."""
    compute = DTYPES[leaf.backend.compute].file
    found = [
        Stored(leaf, name, moment, Kind(compute, shape_of(moment)))
        for name, moment in zip(contents.kind(leaf).rule.moments, leaf.moments, strict=True)
    ]
    if params:
        kind = Kind(leaf.dtype.file, leaf.shape + (2,) * leaf.dtype.complex)
        found.append(Stored(leaf, PARAM, _unchanged(leaf), kind))
    return found


def _unchanged(leaf: Leaf) -> Any:
    """The parameter; TypeError or ValueError where it has changed under its own name."""
    x, library = leaf.array, leaf.library
    try:
        library.accept(x, "parameter")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{named(leaf.path)}: {error}") from None
    have, want = (library.dtype(x), shape_of(x)), (leaf.backend.dtype, leaf.shape)
    if have != want:
        raise TypeError(
            f"{named(leaf.path)}: the parameter has become {have[0]} of {have[1]}, but it was "
            f"{want[0]} of {want[1]}; change it back, or make a new optimizer, and load this one's "
            "state_dict() with hyperparameters=False"
        )
    return x


def _line(name: str, kind: Kind, digest: str) -> str:
    """The line of one tensor, which the checksum covers."""
    return json.dumps([name, NAMES[kind.dtype], kind.shape, digest])


def _seal(document: str, lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join([document, *sorted(lines)]).encode()).hexdigest()


def _bytes(host: Any) -> memoryview:
    """The memory of an array in C order."""
    return memoryview(host.reshape(-1).view("uint8"))


# Writing -----------------------------------------------------------------------------------------


def _write(file: IO[bytes], stored: Stored) -> str:
    # Not ascontiguousarray, which makes a 0-d array one of one dimension.
    data = _bytes(np.asarray(stored.leaf.library.to_host(stored.array), order="C"))
    if len(data) != stored.kind.nbytes:
        raise ValueError(f"{named(stored.leaf.path)}: {stored.what} is not {stored.kind}")
    return write(file, data)


def _check_paths(leaves: Iterable[Leaf]) -> None:
    for leaf in leaves:
        try:
            leaf.path.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{shown(leaf.path)}: this path has surrogates, halves of characters, which a "
                "file cannot hold; rename the key"
            ) from None


# Reading -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Reader]:
    """An open file of the format."""
    name = os.fsdecode(path)
    if not stat.S_ISREG(os.stat(name).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
    with open(name, "rb") as file:
        yield Reader(file)


def _metadata(file: Reader) -> tuple[str, str]:
    """The document and the checksum."""
    match file.metadata:
        case {"adam_any": str(document), "sha256": str(seal)} if len(file.metadata) == 2:
            return document, seal
    raise ValueError("the file was not written by adam_any: it has other metadata")


def _check_tensors(file: Reader, wanted: Sequence[Stored], others: Sequence[str]) -> None:
    """Raise unless the file has just these tensors, the wanted ones of their dtypes and shapes.

    Only the header has been read.
    """
    same_names("the file", file.kinds, [*(x.name for x in wanted), *others])
    for x in wanted:
        have = file.kinds[x.name]
        if have != x.kind:
            hint = ", or pass params=False" if x.what == PARAM else ""
            raise ValueError(
                f"{named(x.leaf.path)}: {x.what} is {have} in the file; it must be {x.kind}{hint}"
            )
    for name in others:
        if file.kinds[name].dtype not in SIZES:
            raise ValueError(
                f"{name!r} is {file.kinds[name]} in the file; not one of {', '.join(SIZES)}"
            )


def _empty(stored: Stored) -> Any:
    """Memory on the host for the numbers of an array, of its dtype.

    Where NumPy has no such dtype (torch's bfloat16) for unsigned integers of the same bits.
    """
    dtype = getattr(stored.array, "dtype", float)
    if not isinstance(dtype, np.dtype | type):
        name = stored.leaf.library.dtype(stored.array)
        dtype = "uint16" if name == "bfloat16" else name
    return np.empty(shape_of(stored.array), dtype)
