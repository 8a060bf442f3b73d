"""Compiled kernels on the disk: shared by processes, kept from others, done without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Adam
from adam_any.engines.cpu import compiler as compiled
from adam_any.engines.kernels import disk_cache as cache
from tests.helpers.systems import needs_posix_files

pytestmark = pytest.mark.usefixtures("numba")


STEP = """
import numpy as np
from adam_any import Adam
p = np.zeros(1000, np.float32)
Adam(p, lr=1.0).step(np.ones(1000, np.float32))
assert p.tolist() == [-1.0] * 1000, p[:3]
import sys
if "numba" in sys.modules:
    import os
    print(os.path.dirname(next(m.__file__ for n, m in sys.modules.items() if n[:7] == "kernel_")))
"""


def started(home: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "NUMBA_"))}
    homes = {"HOME": str(home), "USERPROFILE": str(home)}
    environment |= {**homes, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", STEP],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out.strip()


def test_processes_that_start_at_once_share_one_file_and_its_machine_code(tmp_path: Path) -> None:
    where = {finished(process) for process in [started(tmp_path) for _ in range(3)]}
    kept = tmp_path / ".cache" / "adam_any"
    assert where == {str(kept)}
    assert len(list(kept.glob("*.py"))) == 1
    assert [path.stat().st_mtime_ns for path in kept.glob("*.py")] == [0]
    code = {path.name: path.stat().st_mtime_ns for path in kept.rglob("*.nbc")}
    assert code
    finished(started(tmp_path))
    assert {path.name: path.stat().st_mtime_ns for path in kept.rglob("*.nbc")} == code


@needs_posix_files
def test_a_home_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.write_text("")  # no directory can be made in it, not even by root
    other.mkdir()
    assert Path(finished(started(home, TMPDIR=str(other)))).parent == other


@needs_posix_files
def test_code_is_not_run_from_a_directory_that_others_can_write(tmp_path: Path) -> None:
    kept = tmp_path / ".cache" / "adam_any"
    kept.mkdir(parents=True)
    kept.chmod(0o777)
    other = tmp_path / "other"
    other.mkdir()
    assert Path(finished(started(tmp_path, TMPDIR=str(other)))).parent == other


def test_where_nothing_can_be_written_it_is_compiled_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(cache, "write", full)
    monkeypatch.setattr(compiled, "_kernels", {})
    p = np.zeros(5, np.float32)
    Adam(p, lr=1.0).step(np.ones(5, np.float32))
    assert p.tolist() == [-1.0] * 5
