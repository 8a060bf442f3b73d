"""The safetensors format: named tensors and a few strings in one file.

A file is the length of the header in 8 bytes, little-endian; the header, a JSON object; and the
data, without holes. The header has for each tensor its dtype, its shape, and where in the data it
begins and ends, and under `__metadata__` the strings.

Files are read and written plainly. The format's own library maps them, and a mapped file that
somebody overwrites kills whoever reads it; it also wants all tensors at once, and NumPy's dtypes.
What is read or written is hashed on the way, a piece at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from io import BufferedReader
from typing import IO, Any, NamedTuple

from ..dtypes import DTYPES

#: The bytes of a number, by the format's name of its dtype.
SIZES = {row.file: row.size for row in DTYPES.values()}

#: The longest header that the format allows, in bytes.
LONGEST = 100_000_000

PIECE = 1 << 20


class Kind(NamedTuple):
    """The dtype and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size, where its dtype is one of ours."""
        return math.prod(self.shape) * SIZES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype[:20]} of {str(self.shape)[:100]}"


def in_order(kinds: Mapping[str, Kind]) -> list[str]:
    """The names in the order of their data: large numbers first, so that each is aligned."""
    return sorted(kinds, key=lambda name: (-SIZES[kinds[name].dtype], name))


def header(kinds: Mapping[str, Kind], strings: Mapping[str, str]) -> bytes:
    """The beginning of a file, after which the data follow, `in_order`."""
    entries: dict[str, Any] = {"__metadata__": strings}
    end = 0
    for name in in_order(kinds):
        begin, end = end, end + kinds[name].nbytes
        dtype, shape = kinds[name]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST:
        raise ValueError(
            f"a file cannot hold this state: {len(text):,} bytes of names and shapes are a header "
            f"too large; the format allows {LONGEST:,}"
        )
    return len(text).to_bytes(8, "little") + text


def write(file: IO[bytes], data: memoryview) -> str:
    """Write the bytes of a tensor, and return their sha256."""
    digest = hashlib.sha256()
    for at in range(0, len(data), PIECE):
        piece = data[at : at + PIECE]
        digest.update(piece)
        file.write(piece)
    return digest.hexdigest()


class Reader:
    """A file that is open for reading. ValueError for one that is not of this format, or damaged.

    What the header says is read, and compared with the length of the file.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST):
            raise self._damaged("its header is longer than the file")
        self._data = 8 + length
        try:
            entries = _parsed(file.read(length))
            #: The strings, whatever they are.
            self.metadata = entries.pop("__metadata__", None)
            tensors = {name: _tensor(entry) for name, entry in entries.items()}
        except ValueError as error:
            raise self._damaged(str(error)) from None
        #: What each tensor is, by name.
        self.kinds = {name: tensor.kind for name, tensor in tensors.items()}
        self._tensors = tensors
        if not _whole(tensors.values(), size - self._data):
            raise self._damaged("its data are not as long as its header says, or have holes")

    def read(self, name: str, out: memoryview | None = None) -> str:
        """Read a tensor, of a dtype of ours, into memory or nowhere; return its sha256."""
        kind, begin, end = self._tensors[name]
        size = end - begin
        if size != kind.nbytes:
            raise self._damaged(f"a tensor has {size} bytes, but is {kind}")
        self._file.seek(self._data + begin)
        digest = hashlib.sha256()
        for at in range(0, size, PIECE):
            n = min(PIECE, size - at)
            piece = memoryview(bytearray(n)) if out is None else out[at : at + n]
            if self._file.readinto(piece) < n:
                raise self._damaged("it ends early")
            digest.update(piece)
        return digest.hexdigest()

    def _damaged(self, text: str) -> ValueError:
        name = os.fsdecode(self._file.name)
        return ValueError(f"{name}: not a checkpoint, or damaged: {text}")


class _Tensor(NamedTuple):
    """The kind of a tensor, and where in the data it begins and ends."""

    kind: Kind
    begin: int
    end: int


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not valid JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError("its header is not a JSON object")
    return entries


def _tensor(entry: Any) -> _Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            if all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and len(entry) == 3:
                return _Tensor(Kind(dtype, tuple(shape)), begin, end)
    raise ValueError("what its header says of a tensor has no meaning")


def _whole(tensors: Iterable[_Tensor], size: int) -> bool:
    """Return whether the tensors follow one another and fill the data."""
    last = 0
    for begin, end in sorted((tensor.begin, tensor.end) for tensor in tensors):
        if begin != last or end < begin:
            return False
        last = end
    return last == size
