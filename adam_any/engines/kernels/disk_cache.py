"""Files that are generated once and kept for every later process, by content.

- In `$XDG_CACHE_HOME/adam_any`, or `~/.cache/adam_any`; where that cannot be written, among the
  temporary files. Code is run from here, so never in a directory that others can write.
- A file appears all at once (written aside, then renamed), and is the same whoever writes it, its
  time of change included, by which Numba knows its machine code. So processes may race.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def load(text: str, version: str = "") -> ModuleType:
    """The module with this text, imported from its file. `version` stands for what it imports.

    Raises OSError where no file can be kept.
    """
    name = f"kernel_{hashlib.sha256((version + text).encode()).hexdigest()[:24]}"
    spec = spec_from_file_location(name, write(f"{name}.py", text.encode()))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # Numba looks for a function's module by its name
    spec.loader.exec_module(module)
    return module


def get_or_create(name: str, make: Callable[[], bytes]) -> Path:
    """The path of a file whose content is made if there is none; the name must determine it."""
    path = _directory() / name
    return path if path.is_file() else write(name, make())


def write(name: str, content: bytes) -> Path:
    """The path of a file with this content, to which the name must be unique."""
    path = _directory() / name
    if not path.is_file() or path.read_bytes() != content:
        handle, aside = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.utime(aside, (0, 0))
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
    return path


@cache
def _directory() -> Path:
    """A directory that can be written, and that belongs to this user alone."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    who = str(os.getuid()) if hasattr(os, "getuid") else "user"
    for path in (Path(base) / "adam_any", Path(tempfile.gettempdir()) / f"adam_any-{who}"):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _ours(path):
                with tempfile.TemporaryFile(dir=path):
                    return path
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="adam_any-"))


def _ours(path: Path) -> bool:
    if not hasattr(os, "getuid"):
        return True  # Windows keeps temporary files by user
    facts = path.stat()
    return facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
