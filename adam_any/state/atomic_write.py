"""A file that takes another's place at once, or not at all.

- Whoever reads finds the old file or the new one, whole, whenever the writer is killed, fails, or
  finds the disk full.
- The new file is on the disk before it takes the old one's name; the name is before we return,
  unless the folder may not be read.
- The old file keeps its permissions; of a symbolic link, the file it points to is replaced.
- Whatever fails, no temporary file stays. Only a killed process can leave one, `.adam_any-*` beside
  the file; it may be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import IO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file to write to, which takes the place of `path` on normal exit.

    Raises OSError, of the class that fits, where it could not be written.
    """
    target = os.path.realpath(os.fsdecode(path))
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "not a regular file, so it cannot be replaced", target)
    folder = os.path.dirname(target)
    new = os.path.join(folder, f".adam_any-{secrets.token_hex(8)}")
    try:
        old = stat.S_IMODE(os.stat(target).st_mode) if os.path.exists(target) else None
        with open(new, "xb", opener=_opener(0o666 if old is None else old)) as file:
            yield file
            file.flush()
            if old is not None:
                os.chmod(new, old)  # the bits that new files do not get here, too
            os.fsync(file.fileno())
        os.replace(new, target)
    except OSError as error:
        text = "nothing was written, and what was there is unchanged"
        raise OSError(error.errno, f"{text}: {error.strerror or error}", target) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(new)
    _flush(folder)


def _opener(mode: int) -> Callable[[str, int], int]:
    """Nobody may read the new file, from its beginning, who may not read the old one."""
    return lambda path, flags: os.open(path, flags, mode)


def _flush(folder: str) -> None:
    """Bring a renaming to the disk, where the system can, and lets us open the folder."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
