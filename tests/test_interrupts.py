"""Ctrl-C at any moment: what was completed is counted, and only what is half done is torn."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, detect
from adam_any.journal import BUSY
from tests.helpers import emulated, oracle
from tests.helpers.bits import snapshot
from tests.helpers.libraries import LIBRARIES, Lib, on

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="Windows has no timer that sends a signal"
)

SIZE, LR = 300_000, 1e-3

#: Those that are one plan whose kernel says itself that it is done.
KERNELS = [
    lib
    for lib in LIBRARIES
    if lib.in_place and not lib.tiles and lib.runs in ("cpu", "cuda") and lib.device != "cuda"
]


@on(KERNELS)
@pytest.mark.parametrize("tries", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_an_interrupt_at_a_random_moment_tears_nothing(lib: Lib, tries: int) -> None:
    """The steps that are counted are those that were done: the parameters tell."""
    p, g = lib.array(np.zeros(SIZE), "float32"), lib.array(np.ones(SIZE), "float32")
    opt = Adam(p, lr=LR)
    opt.step(g)
    rng = np.random.default_rng(0)
    interrupted = 0
    for _ in range(tries):
        delay = float(rng.uniform(1e-4, 1e-2))
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            while True:
                opt.step(g)
        except KeyboardInterrupt:
            interrupted += 1
        opt.state_dict()  # not torn
    assert interrupted == tries
    steps = opt.steps[""]
    # With a gradient of ones every step is lr.
    assert lib.numpy(p)[[0, -1]] == pytest.approx(-LR * steps, rel=1e-3)
    assert np.unique(lib.numpy(p)).size == 1


@pytest.fixture(autouse=True)
def alarm() -> Any:
    """SIGALRM is Ctrl-C."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# At every line ------------------------------------------------------------------------------------

#: The modules whose lines are interrupted; not the one that lets a call in, where Python handles no
#: signal between the lines in question.
LINES = ("optimizer", "contents", "tree", "leaf", "check", "short_way", "floats")
LINES += ("state_dict", "file", "safetensors", "document", "messages")


def interrupt_at(line: int, call: Any) -> bool:
    """Make a call that is interrupted before a line of the package; False if it has fewer."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("adam_any.") or name.rpartition(".")[2] not in LINES:
            return None if event == "call" else trace
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def pair() -> Any:
    return {"a": np.zeros(3), "b": [np.zeros(2), 1.0], "n": None}


def arrays() -> Any:
    """All of them stay where they are, and so do the plans."""
    return {"a": np.zeros(3), "b": [np.zeros(2), np.zeros(1)], "n": None}


def set_arrays(opt: Adam) -> None:
    opt.params = {"a": np.ones(3), "b": [np.ones(2), np.ones(1)], "n": None}


def set_params(opt: Adam) -> None:
    opt.params = {"a": np.ones(3), "b": [np.ones(2), 2.0], "n": None}


def set_rate(opt: Adam) -> None:
    opt.lr = 0.5


def load(opt: Adam) -> None:
    other = Adam(pair(), lr=0.5)
    other.step(pair())
    other.step(pair())
    opt.load_state_dict(other.state_dict())


def mixed() -> Any:
    """Arrays that are written and floats that are replaced; their fifth step goes the short way."""
    return {"a": np.ones(3), "b": [np.ones(2), 1.0]}


def step(opt: Adam) -> None:
    opt.step(mixed())


@pytest.mark.promise(
    "A setter, load or step that is interrupted at any line changes all or nothing."
)
@pytest.mark.parametrize(
    ("change", "tree"),
    [(set_params, pair), (set_arrays, arrays), (set_rate, pair), (load, pair), (step, mixed)],
)
def test_a_change_interrupted_at_any_line_is_whole_or_none(change: Any, tree: Any) -> None:
    def made() -> Adam:
        opt = Adam(tree(), lr=0.1)
        for _ in range(4):
            opt.step(tree())
        return opt

    def seen(opt: Adam) -> Any:
        return snapshot(opt), opt.lr

    before, after = made(), made()
    change(after)
    line, hits = 1, set()
    while True:
        opt = made()
        held = opt.params["a"], opt.params["b"][0]
        interrupted = interrupt_at(line, lambda opt=opt: change(opt))
        now = seen(opt)
        assert now in (seen(before), seen(after)), line
        hits.add(now == seen(after))
        opt.step(tree())  # every leaf that the user holds
        assert opt.params["a"] is held[0] and opt.params["b"][0] is held[1]
        if not interrupted:
            break
        line += 1
    assert hits == {True, False} and line > 10


def test_an_assignment_interrupted_while_it_copies_is_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Most of its time is in the copies; a handler runs when one of them returns."""
    x, y = np.zeros(3), np.zeros(2)
    opt = Adam([x, y])
    numpy = detect.load("numpy")
    write, written = numpy.write, []

    def interrupted(array: Any, new: Any) -> None:
        write(array, new)
        written.append(1)
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(numpy, "write", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        opt.params = [np.ones(3), np.ones(2)]
    assert x.tolist() == [1.0] * 3 and y.tolist() == [1.0] * 2  # nobody has asked the optimizer


# One call at a time -------------------------------------------------------------------------------

CALLS = {
    "step": lambda opt, g: opt.step(g),
    "state_dict": lambda opt, g: opt.state_dict(),
    "load_state_dict": lambda opt, g: opt.load_state_dict({}),
    "params": lambda opt, g: setattr(opt, "params", g),
    "lr": lambda opt, g: setattr(opt, "lr", 0.5),
    "save": lambda opt, g: opt.save("nowhere"),
    "load": lambda opt, g: opt.load("nowhere"),
    "pickle": lambda opt, g: opt.__getstate__(),
}


@pytest.mark.promise("One call at a time: a second one is refused, and changes nothing.")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_schedule_cannot_call_its_own_optimizer(lib: Lib, call: Any) -> None:
    """It would replace, or free, what the step is working on."""
    g = lib.array([1.0, 2.0])
    tried = []

    def schedule(count: int) -> float:
        if not tried:
            tried.append(count)
            with pytest.raises(RuntimeError) as error:
                call(opt, g)
            assert str(error.value) == BUSY
        return 0.1

    opt = Adam(lib.array([0.0, 0.0]), lr=schedule, engine=lib.engine)
    opt.step(g)
    assert tried == [0] and opt.steps == {"": 1}
    assert lib.numpy(opt.params) == pytest.approx([-0.1, -0.1])


def test_a_second_thread_is_refused_and_nothing_is_lost() -> None:
    p = np.zeros(200_000, "float32")
    g = np.ones_like(p)
    opt = Adam(p, lr=LR)
    stop, refused, done = time.monotonic() + 0.5, [0, 0], [0, 0]

    def work(i: int) -> None:
        while time.monotonic() < stop:
            try:
                opt.step(g)
                done[i] += 1
            except RuntimeError as error:
                assert str(error) == BUSY
                refused[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opt.steps == {"": sum(done)} and sum(done) > 0
    want = oracle.run(0.0, [1.0] * sum(done), lr=LR)[-1].p
    assert np.unique(p).size == 1 and p[0] == pytest.approx(want, rel=1e-3)


def test_a_handler_that_saves_during_a_step_is_told_so(tmp_path: Any) -> None:
    p = np.zeros(2_000_000, "float32")
    opt = Adam(p)
    opt.step(p)
    told: list[str] = []

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            opt.save(tmp_path / "state")
        except RuntimeError as error:
            told.append(str(error))

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
    for _ in range(30):
        opt.step(p)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert set(told) <= {BUSY} and opt.steps == {"": 31}
    opt.save(tmp_path / "state")
    opt.load(tmp_path / "state")


def test_the_emulated_device_is_among_those_interrupted() -> None:
    if emulated.missing() is None:
        assert any(lib.device == "emulated" for lib in KERNELS)
