"""Helpers: whoever steps, wherever, with however many threads, gets the same bits, and gets on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adam_any.engines.cpu import compiler as compiled

if compiled.missing() is not None:
    pytest.skip(f"threads are for compiled kernels: {compiled.missing()}", allow_module_level=True)

import numpy as np

from adam_any import Adam
from adam_any.engines.cpu import work_queue as team
from adam_any.engines.cpu import workers as threads
from tests.helpers.systems import needs_affinity, needs_fork

#: Python 3.12 warns of every fork of a process that has threads; that it goes well is tested here.
FORKING = "ignore:This process:DeprecationWarning"

COMMON = """
import hashlib, os, sys, threading
import numpy as np
from adam_any import Adam
from adam_any.engines.cpu import payoff
from adam_any.engines.cpu import workers as helpers

payoff.LOADING = payoff.COMPILING = 0
helpers.SHARE = helpers.WAKE = 1000
NUMBER = int(os.environ.get("NUMBER", "3"))
if NUMBER:
    helpers.threads = lambda: NUMBER

def job(seed, steps=30):
    rng = np.random.default_rng(seed)
    p = rng.standard_normal(100_003).astype(np.float32)
    opt = Adam(p, lr=0.1, amsgrad=bool(seed % 2))
    for _ in range(steps):
        opt.step(rng.standard_normal(p.size).astype(np.float32))
    return hashlib.sha256(p.tobytes()).hexdigest()
"""


def run(code: str, **variables: Any) -> list[str]:
    """The words that a process prints, which must end well."""
    environment = os.environ | {k: str(v) for k, v in variables.items()}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", FORKING, "-c", COMMON + code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


ALONE = "print(*(job(seed) for seed in range(4)))"


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What one thread computes."""
    return run(ALONE, NUMBER=1)


@pytest.mark.promise("Any number of threads gives the same bits.")
@pytest.mark.parametrize("number", [2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(expected: list[str], number: int) -> None:
    assert run(ALONE, NUMBER=number) == expected


@pytest.mark.promise("Several optimizers may step in several threads at once.")
def test_several_threads_step_different_optimizers_at_once(expected: list[str]) -> None:
    found = run("""
found = [None] * 4
def go(seed):
    found[seed] = job(seed)
together = [threading.Thread(target=go, args=(seed,)) for seed in range(4)]
[t.start() for t in together]
[t.join() for t in together]
print(*found)
""")
    assert found == expected


@pytest.mark.promise("Optimizers may step in forked child processes.")
@needs_fork
def test_a_forked_child_steps_after_its_parent_has(expected: list[str]) -> None:
    found = run("""
first = job(0)
children = []
for seed in (1, 2):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, job(seed).encode())
        names = [t.name for t in threading.enumerate()]
        os._exit(0 if names.count("adam_any") == NUMBER - 1 else 1)
    children.append(ours)
last = job(3)
print(first, *(os.read(child, 64).decode() for child in children), last)
assert [os.wait()[1] for _ in children] == [0, 0]
""")
    assert found == expected


@needs_fork
def test_a_fork_waits_for_a_compilation_in_another_thread(expected: list[str]) -> None:
    found = run("""
import signal
from adam_any.engines.cpu import compiler as compiled

compiling, compile_ = threading.Event(), compiled._compile
def slowly(*args):
    compiling.set()
    threading.Event().wait(0.2)
    return compile_(*args)
compiled._compile = slowly

results = {}
thread = threading.Thread(target=lambda: results.update(first=job(0)))
thread.start()
compiling.wait()
ours, theirs = os.pipe()
if os.fork() == 0:
    signal.alarm(60)  # a child that waits for its parent's compiler would wait for ever
    os.write(theirs, job(1).encode())
    os._exit(0)
assert os.wait()[1] == 0
thread.join()
print(results["first"], os.read(ours, 64).decode())
""")
    assert found == expected[:2]


def test_helpers_take_a_part() -> None:
    started, joined = run("""
import ctypes, time
from adam_any.engines.cpu import work_queue as team
board = (ctypes.c_int64 * 64).from_address(helpers._helpers.board)
p, g = (np.ones(10_000_000, np.float32) for _ in range(2))
opt, seen, done = Adam(p), set(), False
def watch():
    while not done:
        seen.add(board[team.ACTIVE // 8])
        time.sleep(0)
watching = threading.Thread(target=watch)
watching.start()
for _ in range(500):
    opt.step(g)
    if max(seen, default=0) > 0:
        break
done = True
watching.join()
print(len([t for t in threading.enumerate() if t.name == "adam_any"]), max(seen) > 0)
""")
    assert (started, joined) == ("2", "True")


def test_a_job_has_so_many_seats_and_no_helper_joins_it_twice_or_for_another_kernel() -> None:
    board = np.zeros(64, np.int64)
    at = board.ctypes.data
    team.begin(at, 11, 77, 1)
    assert team.join(at, 12, 0) == (0, 0)  # another kernel
    number, job = team.join(at, 11, 0)
    assert (number, job) == (1, 77)
    assert team.join(at, 11, 0) == (0, 0)  # no seat left
    team.leave(at)
    assert team.join(at, 11, number) == (0, 0)  # this helper has been there
    team.end(at)
    assert team.join(at, 11, 0) == (0, 0)  # closed
    team.begin(at, 11, 78, 1)
    assert team.join(at, 11, number) == (2, 78)
    assert board[team.ACTIVE // 8] == 1


def test_numbas_number_of_threads_is_respected_and_none_of_them_started() -> None:
    counts = run(
        """
import numba
print(helpers.threads())
job(0, 2)
try:
    numba.threading_layer()
    print("started")
except ValueError:
    print("quiet")
numba.set_num_threads(1)
print(helpers.threads())
""",
        NUMBER=0,
        NUMBA_NUM_THREADS=2,
    )
    assert counts == [str(min(2, threads.processors(), threads.quota())), "quiet", "1"]
    assert run("print(helpers.threads())", NUMBER=0, NUMBA_NUM_THREADS=1) == ["1"]


@needs_fork
@pytest.mark.promise("A forked process that is killed does not stop a step of its parent.")
def test_a_child_that_ends_with_numbas_lock_stops_no_step() -> None:
    words = run(
        """
import multiprocessing
import numba
multiprocessing.set_start_method("fork")  # what Numba makes its lock with
numba.set_num_threads(2)
from numba.np.ufunc import parallel
if not (child := os.fork()):
    parallel._backend_init_process_lock.acquire()
    os._exit(0)
os.waitpid(child, 0)
print(helpers.threads(), job(0, 2) != "")
""",
        NUMBER=0,
        NUMBA_NUM_THREADS=2,
    )
    assert words == [str(min(2, threads.processors(), threads.quota())), "True"]


@needs_affinity
def test_affinity_is_respected() -> None:
    code = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(helpers.threads())"
    assert run(code, NUMBER=0) == ["1"]


@pytest.mark.parametrize(
    ("me", "files", "expected"),
    [
        ("0::/a", {"a/cpu.max": "150000 100000"}, 2),
        ("0::/a", {"a/cpu.max": "max 100000"}, 1 << 20),
        ("0::/", {"cpu.max": "400000 100000"}, 4),
        ("0::/gone", {"cpu.max": "50000 100000"}, 1),
        ("4:cpu,cpuacct:/b\n0::/", {"cpu,cpuacct/b/cpu.cfs_quota_us": "300000",
                                    "cpu,cpuacct/b/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu,cpuacct:/b", {"cpu,cpuacct/b/cpu.cfs_quota_us": "-1",
                              "cpu,cpuacct/b/cpu.cfs_period_us": "100000"}, 1 << 20),
        ("", {}, 1 << 20),
    ],
)  # fmt: skip
def test_a_cgroup_limits_the_threads(
    tmp_path: Path, me: str, files: dict[str, str], expected: int
) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "me").write_text(me)
    assert threads.quota(str(tmp_path / "cgroup"), str(tmp_path / "me")) == expected


def test_where_no_thread_can_be_started_a_step_is_done_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_helpers", threads._Helpers())
    monkeypatch.setattr(threads, "SHARE", 10)
    monkeypatch.setattr(threads, "WAKE", 10)
    monkeypatch.setattr(threads, "threads", lambda: 4)
    monkeypatch.setattr(threads.threading.Thread, "start", refuse)
    p = np.zeros(1000, np.float32)
    Adam(p, lr=1.0).step(np.ones(1000, np.float32))
    assert set(p.tolist()) == {-1.0}
