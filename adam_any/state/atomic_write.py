"""A file that takes another's place at once, or not at all.

- Whoever reads finds the old file or the new one, whole, whenever the writer is killed, fails, or
  finds the disk full.
- The new file is on the disk before it takes the old one's name, and the name is before we return.
- The old file keeps its permissions; of a symbolic link, the file it points to is replaced.
- Whatever fails, no temporary file stays. Only a killed process can leave a directory named
  `.adam_any-*` beside the file; it may be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path to write a new file to, which takes the place of `path` on normal exit.

    Raises OSError, of the class that fits, where it could not be written.
    """
    target = os.path.realpath(os.fsdecode(path))
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "not a regular file, so it cannot be replaced", target)
    folder = os.path.dirname(target)
    try:
        # A directory, since a library that writes the file may have a temporary one of its own.
        with tempfile.TemporaryDirectory(
            prefix=".adam_any-", dir=folder, ignore_cleanup_errors=True
        ) as beside:
            new = os.path.join(beside, "new")
            mode = _mode(target, new)
            yield new
            os.chmod(new, mode)
            with open(new, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(new, target)
    except OSError as error:
        text = "nothing was written, and what was there is unchanged"
        raise OSError(error.errno, f"{text}: {error.strerror}", target) from error
    _flush(folder)


def _mode(target: str, new: str) -> int:
    """The permissions of the old file; where there is none, those that a new file gets."""
    with open(new, "xb") as file:
        made = os.fstat(file.fileno())
    return stat.S_IMODE((os.stat(target) if os.path.exists(target) else made).st_mode)


def _flush(folder: str) -> None:
    """Bring a renaming to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
