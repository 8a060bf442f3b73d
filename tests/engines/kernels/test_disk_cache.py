"""Machine code on the disk: shared by processes, made anew where it is damaged, done without."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Adam
from adam_any.engines.cpu import compiler
from adam_any.engines.kernels import disk_cache, private_folder

needs_numba = pytest.mark.skipif(compiler.missing() is not None, reason=str(compiler.missing()))

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "short": lambda data: data[:7],
    "half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "random": lambda data: np.random.default_rng(0).bytes(len(data)),
    "one bit": lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    "another file's": lambda data: b"something else",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(private_folder, "folder", lambda: tmp_path)
    yield tmp_path


@pytest.mark.promise("Machine code that is damaged is made anew.")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(folder: Path, damage: str) -> None:
    content = b"machine code" * 99
    for _ in range(2):
        assert disk_cache.get_or_create("k", lambda: content) == content
        assert disk_cache.get_or_create("k", pytest.fail) == content
        (path,) = folder.iterdir()
        path.write_bytes(DAMAGES[damage](path.read_bytes()))


def test_what_cannot_be_kept_is_used_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert disk_cache.get_or_create("k", lambda: b"code") == b"code"
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(private_folder, "folder", lambda: None)
    assert disk_cache.get_or_create("k", lambda: b"code") == b"code"


def test_what_nobody_has_used_for_long_is_deleted(folder: Path) -> None:
    ages = {"kernel_old": 200, "kernel_used": 200, "kernel_new": 50, "others": 200}
    for name in ages:
        disk_cache.keep(name.removeprefix("kernel_"), b"code")
    (folder / "kernel_others").rename(folder / "others")
    for name, days in ages.items():
        long_ago = time.time() - days * disk_cache.DAY
        os.utime(folder / name, (long_ago, long_ago))
    assert disk_cache.read("used") == b"code"
    disk_cache.keep("another", b"code")
    names = {path.name for path in folder.iterdir()}
    assert names == {"kernel_used", "kernel_new", "kernel_another", "others"}


@pytest.fixture
def anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A step of a process that has compiled nothing yet."""

    def step() -> None:
        monkeypatch.setattr(compiler, "_kernels", {})
        p = np.zeros(5, np.float32)
        Adam(p, lr=1.0).step(np.ones(5, np.float32))
        assert p.tolist() == [-1.0] * 5

    return step


@needs_numba
def test_another_version_of_numba_keeps_its_own(
    folder: Path, anew: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew()
    first = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("numba.__version__", "99.0")
    anew()
    assert len(first) == 1
    assert len(list(folder.iterdir())) == 2
    assert {path: path.read_bytes() for path in first} == first


@needs_numba
def test_a_file_that_numba_cannot_use_is_made_anew(folder: Path, anew: Any) -> None:
    anew()
    (path,) = folder.iterdir()
    key, other = path.name.removeprefix("kernel_"), b"whole, but of another kind"
    disk_cache.keep(key, other)
    anew()
    assert disk_cache.read(key) not in (None, other)


STEP = """
import sys
import numpy as np
from adam_any import Adam
from adam_any.engines.cpu import payoff
payoff.LOADING = payoff.COMPILING = 0
p = np.zeros(1000, np.float32)
Adam(p, lr=1.0).step(np.ones(1000, np.float32))
assert p.tolist() == [-1.0] * 1000, p[:3]
assert "numba" in sys.modules
"""


def started(home: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "NUMBA_"))}
    homes = {"HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(home / "tmp")}
    (home / "tmp").mkdir(exist_ok=True)
    environment |= {**homes, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", STEP],
        env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> None:
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error


@needs_numba
def test_processes_share_one_file_wherever_numbas_own_would_go(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "numba")
    for process in [started(tmp_path, NUMBA_CACHE_DIR=elsewhere) for _ in range(2)]:
        finished(process)
    kept = tmp_path / ".cache" / "adam_any"
    assert {path.name for path in tmp_path.iterdir()} == {".cache", "tmp"}
    (path,) = kept.iterdir()
    before = path.stat().st_mtime_ns
    finished(started(tmp_path))
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"")
    finished(started(tmp_path))
    assert path.stat().st_size > 1000


@needs_numba
def test_where_no_folder_can_be_trusted_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("")  # no folder can be made in it, not even by root
    (tmp_path / "tmp").mkdir()
    user = os.getuid() if hasattr(os, "getuid") else "user"
    (tmp_path / "tmp" / f"adam_any-{user}").write_text("")
    finished(started(tmp_path))
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [f"adam_any-{user}"]
