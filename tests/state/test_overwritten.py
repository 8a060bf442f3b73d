"""Files that others change meanwhile, and folders that may not be read."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from adam_any import Adam
from tests.helpers.bits import snapshot
from tests.helpers.systems import needs_fork, needs_posix_files
from tests.state.test_faults import apart

LOADS = 300


@needs_fork
def test_a_file_overwritten_in_place_while_it_is_loaded_harms_nobody(tmp_path: Path) -> None:
    """As `cp` and `rsync --inplace` do. A process that has mapped it would be killed (SIGBUS)."""
    assert 0 < apart(overwritten, tmp_path / "f")["refused"] <= LOADS


def overwritten(path: Path) -> dict[str, int]:
    """Load a file with a long header while another process writes it anew, again and again."""
    opt = Adam({"x" * 1_000_000: 1.0})
    opt.save(path)
    before, whole = snapshot(opt), path.read_bytes()
    parent, writer = os.getpid(), os.fork()
    while writer == 0 and os.getppid() == parent:
        with open(path, "r+b", buffering=0) as file:
            file.truncate(0)
            file.write(whole)
    if writer == 0:  # the parent has been killed
        os._exit(0)
    refused = 0
    try:
        for _ in range(LOADS):
            try:
                opt.load(path)
            except ValueError:
                refused += 1
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert snapshot(opt) == before
    return {"refused": refused}


@needs_posix_files
def test_a_folder_that_may_not_be_read_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser may read everything, so the system's answer is played here."""
    whole = os.open

    def refused(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(13, "Permission denied", path)
        return whole(path, flags, *more, **named)

    opt = Adam(1.0, lr=0.5)
    monkeypatch.setattr(os, "open", refused)
    opt.save(tmp_path / "f")
    monkeypatch.undo()
    other = Adam(2.0)
    other.load(tmp_path / "f")
    assert other.params == 1.0 and os.listdir(tmp_path) == ["f"]


@needs_posix_files
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o664])
def test_nobody_may_read_a_new_file_before_it_is_whole_who_may_not_read_the_old(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt = Adam(1.0)
    opt.save(tmp_path / "f")
    (tmp_path / "f").chmod(mode)
    seen: list[int] = []

    def looked(new: str, mode: int) -> None:
        seen.append(os.stat(new).st_mode & 0o777)

    monkeypatch.setattr(os, "chmod", looked)
    opt.save(tmp_path / "f")
    assert len(seen) == 1 and not seen[0] & ~mode
