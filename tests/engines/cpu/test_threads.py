"""Threads and what is around them: interrupts, cooperative threads, modes of arithmetic, groups."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adam_any.engines.cpu import compiler

if compiler.missing() is not None:
    pytest.skip(f"threads are for compiled kernels: {compiler.missing()}", allow_module_level=True)

import numpy as np

from adam_any import Adam
from adam_any.engines.cpu import work_queue, workers
from tests.helpers.bits import differ, same

COMMON = """
import sys, threading, time
import numpy as np
from adam_any import Adam
from adam_any.engines.cpu import payoff, work_queue, workers

payoff.LOADING = payoff.COMPILING = 0
workers.SHARE = workers.WAKE = 1000
workers.threads = lambda: 2
p, g = np.zeros(100_000, np.float32), np.ones(100_000, np.float32)

def jobs():
    return workers._helpers.words[work_queue.COUNT // 8]

def idle():
    "The part of a core that this process takes while it does nothing."
    time.sleep(0.02)
    begun, used = time.perf_counter(), time.process_time()
    time.sleep(0.05)
    return (time.process_time() - used) / (time.perf_counter() - begun)
"""


def run(code: str) -> list[str]:
    """The words that a process prints, which must end well, and in time."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.promise("An interrupt at any moment leaves no thread spinning.")
def test_an_interrupt_between_any_two_lines_leaves_no_helper_spinning_and_no_leader() -> None:
    lines, interrupted, spinning, alone = map(
        int,
        run(
            COMMON
            + """
Adam(p).step(g)  # what is imported and compiled at first is
left = 0
def trace(frame, event, argument):
    global left
    if not frame.f_code.co_filename.endswith("workers.py"):
        return None
    if event == "line":
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
    return trace

lines, interrupted, spinning, alone = 0, 0, 0, 0
while interrupted == lines:
    lines += 1
    left = lines
    workers._helpers = workers._Helpers()
    opt = Adam(p)
    sys.settrace(trace)
    try:
        opt.step(g)
    except KeyboardInterrupt:
        interrupted += 1
    finally:
        sys.settrace(None)
    spinning += idle() > 0.5
    before = jobs()
    Adam(p).step(g)
    alone += jobs() == before
print(lines, interrupted, spinning, alone)
"""
        ),
    )
    assert lines == interrupted + 1 > 10
    assert (spinning, alone) == (0, 0)


COOPERATIVE = """
opt = Adam(p)
for _ in range(3):
    opt.step(g)
assert len(set(p.tolist())) == 1
assert idle() < 0.5
"""


@pytest.mark.promise("A step ends where threads take turns in one, as gevent has it.")
def test_where_threads_take_turns_in_one_a_step_ends() -> None:
    """As gevent has it: a thread runs in the one that starts it, until it would wait."""
    run(
        COMMON
        + """
class Waits(BaseException):
    pass

class Lock:
    def __init__(self):
        self.taken = False
    def acquire(self):
        if self.taken:
            raise Waits
        self.taken = True
        return True
    def release(self):
        self.taken = False
    def locked(self):
        return self.taken

class Thread:
    def __init__(self, *, target, args=(), **how):
        self.run = lambda: target(*args)
    def start(self):
        try:
            self.run()
        except Waits:
            pass

class Cooperative:
    Lock, Thread = Lock, Thread

workers.threading = Cooperative
"""
        + COOPERATIVE
    )


@pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed: pip install gevent"
)
def test_gevents_threads_do_not_keep_a_step_from_ending() -> None:
    run("from gevent import monkey\nmonkey.patch_all()\n" + COMMON + COOPERATIVE)


def _libm() -> Any:
    return ctypes.CDLL(ctypes.util.find_library("m"))


#: FE_UPWARD, as the C library of this processor has it.
UPWARD = {"x86_64": 0x800, "AMD64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}


@pytest.fixture(params=["rounding upward", "flushing to zero"])
def mode(request: pytest.FixtureRequest) -> Iterator[Callable[[], object]]:
    """Switches this thread to another mode of arithmetic, which is undone afterwards."""
    if request.param == "flushing to zero":
        torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
        yield lambda: torch.set_flush_denormal(True) or pytest.skip("this processor cannot flush")
        torch.set_flush_denormal(False)
    else:
        if platform.machine() not in UPWARD or sys.platform == "win32":
            pytest.skip("how to round upward is not known here")
        yield lambda: _libm().fesetround(UPWARD[platform.machine()])
        _libm().fesetround(0)


@pytest.mark.promise("Every thread rounds and flushes as the one that steps.")
def test_a_helper_computes_in_the_mode_of_its_leader(
    monkeypatch: pytest.MonkeyPatch, mode: Callable[[], object]
) -> None:
    rng = np.random.default_rng(0)
    start, g = rng.standard_normal(5000), 1e-160 * rng.standard_normal(5000)

    def stepped() -> list[Any]:
        p = start.copy()
        opt = Adam(p, lr=0.1, eps=1e-170)
        opt.step(g)
        return [p, *opt._contents.leaves[0].moments]

    usual = stepped()
    board = workers._Helpers().board
    with ThreadPoolExecutor(1) as other:
        other.submit(int).result()  # a thread begins in the mode of the one that starts it

        def by_a_helper(run: Any, job: int, elements: int) -> None:
            assert work_queue.begin(board, id(run), job, 1)
            other.submit(run, workers.HELP, 0, board, id(run), 0).result()
            work_queue.end(board)

        mode()
        alone = stepped()
        assert any(differ(x, y) for x, y in zip(alone, usual, strict=True))
        with monkeypatch.context() as patch:
            patch.setattr(workers, "runner", lambda *job: partial(by_a_helper, *job))
            for x, y in zip(stepped(), alone, strict=True):
                same(x, y)
        for x, y in zip(other.submit(stepped).result(), usual, strict=True):
            same(x, y)  # it is back in its own


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ({"cpu.max": "100000 100000", "a/cpu.max": "900000 100000"}, 1),
        ({"a/b/c/cpu.max": "300000 100000", "a/b/cpu.max": "900000 100000"}, 3),
        ({"other/cpu.max": "100000 100000"}, 1 << 20),
    ],
)
def test_a_quota_of_a_group_around_it_counts(
    tmp_path: Path, groups: dict[str, str], expected: int
) -> None:
    for name, text in groups.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "me").write_text("0::/a/b/c")
    assert workers.quota(str(tmp_path / "cgroup"), str(tmp_path / "me")) == expected
