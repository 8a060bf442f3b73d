"""Machine code that is kept for every later process, in files.

- A key stands for all that the content depends on, so a file never changes its meaning, and
  versions of the package, of Numba and of NVRTC leave each other's files alone.
- A file ends in the checksum of its content. One that is damaged, by whatever, is not read: it is
  made anew, as one that is missing.
- It appears all at once (written aside, then renamed), so processes may race.
- What nobody has read for a quarter of a year is deleted when something new is kept.
- Where there is no folder to trust (`private_folder`), nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import private_folder

#: Seconds: how often a file is marked as used at most, and how long it is kept unused.
DAY, LONG = 86400, 90 * 86400

_CHECKSUM = hashlib.sha256().digest_size
_PREFIX = "kernel_"


def key(*facts: str) -> str:
    """A key that stands for these facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def get_or_create(key: str, make: Callable[[], bytes]) -> bytes:
    """The content of a file; made, and kept, if there is none."""
    content = read(key)
    if content is None:
        content = make()
        keep(key, content)
    return content


def read(key: str) -> bytes | None:
    """The content of a file; None if there is none, or it is damaged."""
    path = _path(key)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            data, used = file.read(), os.fstat(file.fileno()).st_mtime
        if time.time() - used > DAY:
            os.utime(path)
    except OSError:
        return None
    content, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    return content if hashlib.sha256(content).digest() == checksum else None


def keep(key: str, content: bytes) -> None:
    """Keep content for later processes, if that is possible."""
    path = _path(key)
    if path is None:
        return
    with suppress(OSError):  # such as a full disk
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX)
        try:
            with open(handle, "wb") as file:
                file.write(content + hashlib.sha256(content).digest())
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
        _clean(path.parent)


def likely(beginning: str) -> bool:
    """Return whether there is a file for a key that begins so; not whether it can be used."""
    path = _path(beginning)
    if path is None:
        return False
    try:
        return any(name.startswith(path.name) for name in os.listdir(path.parent))
    except OSError:
        return False


def _path(key: str) -> Path | None:
    folder = private_folder.folder()
    return None if folder is None else folder / (_PREFIX + key)


def _clean(folder: Path) -> None:
    """Delete what has not been used for long. A process that wanted it now makes it anew."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > LONG:
                        os.unlink(entry.path)
