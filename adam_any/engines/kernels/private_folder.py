"""The folder for machine code, which is run: one that nobody but this user can write or replace.

`$XDG_CACHE_HOME/adam_any`, or `~/.cache/adam_any`; where that cannot be written or trusted,
`adam_any-<user number>` among the temporary files; where that cannot either, none. It may be
deleted at any time. Nothing is put, or run, where another user could have put it:

- The folder is this user's own, is not a link, and others cannot write there.
- So that it cannot be renamed away and replaced, each folder above it, and each link on the way,
  belongs to this user or root, and others cannot write there, unless the sticky bit keeps them to
  what is their own, as in /tmp. A group counts as others unless it is this user's alone.
- A relative XDG_CACHE_HOME, which would mean the working directory, is ignored, as its standard
  asks; so is NUMBA_CACHE_DIR.
"""

from __future__ import annotations

import os
import stat
import tempfile
from functools import cache
from pathlib import Path


@cache
def folder() -> Path | None:
    """The folder, made if need be; None if there is none to trust."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path(os.path.expanduser("~"), ".cache")
    temporary = Path(tempfile.gettempdir())
    user = os.getuid() if hasattr(os, "getuid") else "user"
    for place, name in ((base, "adam_any"), (temporary, f"adam_any-{user}")):
        if not place.is_absolute():  # a user without a home
            continue
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            real = place.resolve(strict=True)
            if all(map(_safe, {place, *place.parents, real, *real.parents})):
                path = real / name
                path.mkdir(mode=0o700, exist_ok=True)
                if _private(path):
                    with tempfile.TemporaryFile(dir=path):
                        return path
        except (OSError, RuntimeError):  # RuntimeError: links in a circle
            continue
    return None


def _private(path: Path) -> bool:
    """Return whether a folder is this user's, and nobody else can write there."""
    if not hasattr(os, "getuid"):
        return True  # Windows keeps both places by user
    at = path.lstat()
    return stat.S_ISDIR(at.st_mode) and at.st_uid == os.getuid() and not _shared(at)


def _safe(path: Path) -> bool:
    """Return whether only this user and root can rename things in a folder, or turn a link."""
    if not hasattr(os, "getuid"):
        return True
    at = path.lstat()
    if at.st_uid not in (0, os.getuid()):
        return False
    return stat.S_ISLNK(at.st_mode) or bool(at.st_mode & stat.S_ISVTX) or not _shared(at)


def _shared(at: os.stat_result) -> bool:
    """Return whether others may write: all, or a group that is not this user's alone."""
    if at.st_mode & stat.S_IWOTH:
        return True
    return bool(at.st_mode & stat.S_IWGRP) and not _alone(at.st_gid)


def _alone(group: int) -> bool:
    """Return whether a group is the one that many systems make for each user."""
    import grp
    import pwd

    try:
        name, members = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return members.gr_name == name and set(members.gr_mem) <= {name}
