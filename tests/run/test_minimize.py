"""A run: what it finds on every library, how it stops, what it keeps, and how it goes on."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, Stop, minimize, rules
from adam_any.run import CSVLog, Picture, Plateau, Record
from tests.helpers.bits import same
from tests.helpers.libraries import Lib
from tests.helpers.systems import needs_fork
from tests.state.test_faults import apart

TARGET = np.array([2.0, 3.0])
FAST = rules.Adam(lr=0.1)


def square(x: Any) -> tuple[float, Any]:
    return float(((x - TARGET) ** 2).sum()), 2 * (x - TARGET)


def by_hand(steps: int) -> Any:
    """A bare loop of the same rule, with the values on its way."""
    opt, values = Adam(np.zeros(2), lr=0.1), []
    for _ in range(steps):
        value, grads = square(opt.params)
        values.append(value)
        opt.step(grads)
    return opt.params, [*values, square(opt.params)[0]]


@pytest.mark.promise(
    "A run of `minimize` has the bits of the bare loop, and writes nothing it was given."
)
@pytest.mark.uses("operators")
def test_it_is_the_bare_loop_on_every_library(lib: Lib) -> None:
    steps = 3 if lib.slow else 30
    start, target = lib.array([0.0, 0.0]), lib.array(TARGET)

    def fun(tree: Any) -> tuple[Any, Any]:
        d = tree["x"] - target
        return (d * d).sum() if lib.name != "array_api_strict" else d[0] * d[0] + d[1] * d[1], {
            "x": 2 * d,
            "none": None,
        }

    result = minimize(fun, {"x": start, "none": None}, FAST, steps=steps)
    opt = Adam({"x": lib.array([0.0, 0.0])}, lr=0.1)
    for _ in range(steps):
        opt.step({"x": 2 * (opt.params["x"] - target)})
    np.testing.assert_allclose(lib.numpy(result.last["x"]), lib.numpy(opt.params["x"]), rtol=1e-12)
    assert lib.numpy(start).tolist() == [0, 0]
    assert result.params["none"] is None
    assert (result.nit, result.nfev, result.success, result.status) == (steps, steps + 1, True, 0)
    assert result.fun == pytest.approx(result.history.value.min())
    gradient = np.linalg.norm(2 * TARGET)
    assert result.history.gradient[0] == pytest.approx(gradient)


@pytest.mark.parametrize("every", [1, 7, 100])
def test_the_best_is_the_best_of_what_was_recorded(every: int) -> None:
    last, values = by_hand(60)
    result = minimize(square, np.zeros(2), FAST, steps=60, every=every)
    same(result.last, last)
    noted = sorted({*range(0, 61, every), 60})
    assert result.history.step.tolist() == noted
    assert result.history.value.tolist() == [values[i] for i in noted]
    assert result.fun == min(values[i] for i in noted) == square(result.x)[0]


def test_what_maximizes_keeps_the_largest() -> None:
    def fun(x: Any) -> tuple[float, Any]:
        value, grads = square(x)
        return -value, -grads

    result = minimize(fun, np.zeros(2), rules.Adam(0.1, maximize=True), stop=Stop(value=-1e-6))
    assert result.success and -1e-6 <= result.fun <= 0


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (Stop(value=1e-3), "has reached"),
        (Stop(gradient=1e-3), "gradient"),
        (Stop(change=0.5, patience=3), "value has changed"),
        (Stop(step=1e-4), "moved"),
        (Stop(patience=5), "no new best"),
        (Stop(seconds=0.0), "seconds"),
        (Stop(value=1e-3) & Stop(gradient=1e-2), "has reached"),
        (Stop(value=-1.0) | (lambda record: record.step == 4), "the stop condition holds"),
        ((lambda record: "enough" if record.step == 4 else None) | Stop(value=-1.0), "enough"),
        (lambda record: record.step == 4, "the stop condition holds"),
    ],
)
def test_it_stops_where_a_condition_holds(stop: Any, said: str) -> None:
    result = minimize(square, np.zeros(2), FAST, steps=5000, stop=stop)
    assert result.success and said in result.message
    if "4" in said:
        assert result.nit == 4


def test_it_says_where_none_has_held() -> None:
    result = minimize(square, np.zeros(2), FAST, steps=5, stop=Stop(value=-1.0))
    assert (result.success, result.status, result.nit) == (False, 1, 5)


def test_noise_is_not_taken_for_convergence() -> None:
    """Two neighbours are often equal here; eleven values are not before it has come to rest."""
    rng = np.random.default_rng(0)

    def fun(x: Any) -> tuple[float, Any]:
        value, grads = square(x)
        return value + 1 + float(rng.integers(0, 2)), grads

    result = minimize(fun, np.zeros(2), FAST, steps=300, stop=Stop(change=1e-3, patience=20))
    assert not result.success


def test_a_value_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    def fun(x: Any) -> tuple[float, Any]:
        value, grads = square(x)
        return (float("nan"), grads * np.nan) if value < 5 else (value, grads)

    result = minimize(fun, np.zeros(2), FAST, checkpoint=tmp_path / "f")
    assert (result.success, result.status) == (False, 2)
    assert "nan" in result.message
    assert result.fun == square(result.x)[0] > 5


def test_callbacks_of_every_kind() -> None:
    seen = []

    def scipys(intermediate_result: Any) -> None:
        seen.append((intermediate_result.fun, intermediate_result.x))
        if len(seen) == 4:
            raise StopIteration

    result = minimize(square, np.zeros(2), FAST, callback=scipys)
    assert (result.status, result.nit) == (99, 3)
    assert [fun for fun, _ in seen] == by_hand(3)[1]
    assert [square(x)[0] for _, x in seen] == by_hand(3)[1]  # copies, so they have stayed


def test_a_callback_may_set_parameters_and_rate() -> None:
    def clip(record: Record) -> None:
        record.optimizer.params = np.clip(record.params, 0, 1)
        record.optimizer.lr = 0.05

    result = minimize(square, np.zeros(2), FAST, steps=100, callback=clip)
    assert result.params.tolist() == pytest.approx([1, 1])
    assert result.history.lr[-1] == 0.05
    assert result.nfev > 101


def test_an_error_of_a_callback_is_passed_on() -> None:
    def callback(record: Record) -> None:
        if record.step == 3:
            raise ZeroDivisionError("for a test")

    with pytest.raises(ZeroDivisionError, match="for a test"):
        minimize(square, np.zeros(2), FAST, callback=callback)


def test_ready_callbacks(tmp_path: Path) -> None:
    plateau = minimize(
        square, np.zeros(2), rules.Adam(1.0), steps=200, callback=Plateau(0.5, patience=8)
    )
    assert plateau.history.lr[-1] < 0.1 and plateau.fun < 1e-6
    log = CSVLog(tmp_path / "log.csv")
    minimize(square, np.zeros(2), FAST, steps=4, callback=log)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "0", "1", "2", "3", "4"]
    assert [float(row.split(",")[1]) for row in rows[1:]] == by_hand(4)[1]
    picture = Picture(str(tmp_path / "{step}.png"), lambda x: x[None], steps=2)
    minimize(square, np.zeros(2), FAST, steps=4, callback=picture)
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["0.png", "2.png", "4.png"]
    with pytest.raises(TypeError, match="schedule"):
        minimize(square, np.zeros(2), rules.Adam(lambda count: 0.1), callback=Plateau())


@pytest.mark.promise("Ctrl-C ends a run in order, with the result so far.")
def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    calls = []

    def fun(x: Any) -> tuple[float, Any]:
        calls.append(x)
        if len(calls) == 11:
            os.kill(os.getpid(), signal.SIGINT)
        return square(x)

    result = minimize(fun, np.zeros(2), FAST, checkpoint=tmp_path / "f")
    assert (result.status, result.nit) == (3, 10)
    assert "interrupted after 10 steps" in result.message
    same(minimize(square, np.zeros(2), FAST, checkpoint=tmp_path / "f").last, by_hand(1000)[0])


# Errors -------------------------------------------------------------------------------------------


def returns(found: Any) -> Any:
    return lambda x: found


@pytest.mark.parametrize(
    ("fun", "error", "said"),
    [
        (returns(1.0), TypeError, r"fun returned a float.*value_and_grad"),
        (returns((1.0, 2.0, 3.0, 4.0)), TypeError, "4 values"),
        (returns((np.ones(2), np.ones(2))), TypeError, r"shape \(2,\)"),
        (returns(("x", np.ones(2))), TypeError, "one real number"),
        (returns((1j, np.ones(2))), TypeError, "one real number"),
        (returns((1.0, None)), ValueError, "every gradient is None"),
        (returns((1.0, np.ones(3))), ValueError, r"shape \(3,\)"),
        (None, TypeError, "callable"),
    ],
)
def test_a_function_that_returns_something_else(fun: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        minimize(fun, np.zeros(2))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"steps": -1}, ValueError, "steps is -1"),
        ({"every": 0}, ValueError, "every is 0"),
        ({"stop": Stop(patience=50), "steps": 20}, ValueError, "can never hold"),
        ({"stop": Stop(patience=5) | Stop(value=0), "every": 500}, ValueError, "can never hold"),
        ({"stop": 3}, TypeError, "stop is 3"),
        ({"callback": 3}, TypeError, "callback is 3"),
        ({"checkpoint": "missing/f"}, OSError, "nothing was written"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options: Any, error: Any, said: str) -> None:
    def never(x: Any) -> Any:
        raise AssertionError

    with pytest.raises(error, match=said):
        minimize(never, np.zeros(2), **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"value": np.nan}, {"value": -np.inf}, {"gradient": -1}, {"patience": 0}, {"step": "a"}],
)
def test_conditions_that_cannot_be(options: Any) -> None:
    with pytest.raises(ValueError):
        Stop(**options)


# Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [0, 1, 20, 33])
def test_a_run_goes_on_from_its_checkpoint(stopped: int, tmp_path: Path) -> None:
    def options(folder: str) -> dict[str, Any]:
        (tmp_path / folder).mkdir(exist_ok=True)
        stop = Stop(step=1e-4, patience=5)
        path = tmp_path / folder / "f"
        return {"stop": stop, "callback": Plateau(0.7, patience=3), "checkpoint": path}

    calls = []

    def fun(x: Any) -> Any:
        calls.append(x)
        if len(calls) == stopped + 1:
            raise ZeroDivisionError
        return square(x)

    whole = minimize(square, np.zeros(2), FAST, **options("whole"))
    with pytest.raises(ZeroDivisionError):
        minimize(fun, np.zeros(2), FAST, **options("stopped"))
    on = minimize(square, np.zeros(2), FAST, **options("stopped"))
    assert (on.nit, on.nfev, on.message, on.fun) == (
        *(whole.nit, whole.nfev, whole.message, whole.fun),
    )
    same(on.params, whole.params)
    same(on.last, whole.last)
    assert on.history.rows()[:, :-1].tobytes() == whole.history.rows()[:, :-1].tobytes()
    again = minimize(returns(None), np.zeros(2), FAST, **options("whole"))
    assert (again.message, again.fun, again.nfev) == (whole.message, whole.fun, whole.nfev)


def test_a_file_of_another_problem_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    minimize(square, np.zeros(2), FAST, steps=2, checkpoint=path)
    with pytest.raises(ValueError, match="F64 of"):
        minimize(square, np.zeros(3), FAST, checkpoint=path)
    with pytest.raises(ValueError, match="not a checkpoint of this problem"):
        minimize(square, {"x": np.zeros(2)}, FAST, checkpoint=path)
    opt = Adam(np.zeros(2))
    opt.load(path)  # it is an optimizer's state, too
    same(opt.params, by_hand(2)[0])
    opt.save(path)
    with pytest.raises(ValueError, match="no run"):
        minimize(square, np.zeros(2), FAST, checkpoint=path)


def run(path: Path | None) -> Any:
    return minimize(square, np.zeros(2), FAST, steps=40, checkpoint=path, progress=False)


@pytest.mark.promise(
    "A run that is killed goes on from its checkpoint, and ends with the bits it would have had."
)
@needs_fork
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(kills: int, tmp_path: Path) -> None:
    report = apart(killed, tmp_path, kills)
    assert report["killed"] >= kills and report["equal"] == report["runs"] > 0


def killed(folder: Path, kills: int) -> dict[str, int]:
    """Start a run, kill it at a random moment, start it again, until it ends; several times."""
    whole = run(None).last
    run(folder / "warm")
    began = time.perf_counter()
    run(folder / "usual")
    usual, rng = time.perf_counter() - began, random.Random(1)
    report = {"runs": 0, "killed": 0, "equal": 0}
    while report["killed"] < kills:
        path, status = folder / str(report["runs"]), -1
        while status != 0:
            process = os.fork()
            if process == 0:
                with contextlib.suppress(BaseException):
                    np.save(folder / "end.npy", run(path).last)
                    os._exit(0)
                os._exit(1)
            time.sleep(rng.uniform(0, usual))
            os.kill(process, signal.SIGKILL)  # a zombie, if it has ended
            status = os.waitpid(process, 0)[1]
            assert status in (0, signal.SIGKILL)
            report["killed"] += status != 0
        report["runs"] += 1
        report["equal"] += np.load(folder / "end.npy").tobytes() == whole.tobytes()
    return report


# What is shown ------------------------------------------------------------------------------------


def test_a_result_can_be_looked_at(tmp_path: Path) -> None:
    result = minimize(square, np.zeros(2), FAST, steps=20)
    figure = result.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_ylabel() for axes in figure.axes] == [
        *("value", "gradient norm", "learning rate"),
    ]
    assert "all 20 steps have been made" in repr(result)
    assert "<td style='text-align:left'>all 20 steps" in result._repr_html_()
    shown = result.optimizer._repr_html_()
    assert "Adam" in shown and ">20<" in shown and ">numpy<" in shown


def test_a_bar_where_standard_error_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pty", reason="Windows has no such terminals")
    mine, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("adam_any.run.progress.BAR", 0.0)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        minimize(square, np.zeros(2), FAST, steps=3)
        shown = ""
        while "3/3" not in shown and select.select([mine], [], [], 10.0)[0]:  # it comes in parts
            shown += os.read(mine, 1 << 16).decode(errors="replace")
    os.close(mine)
    assert "3/3" in shown and "steps/s" in shown and "value" in shown


def test_lines_where_standard_error_is_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    minimize(square, np.zeros(2), FAST, steps=3)
    assert capsys.readouterr().err == ""  # it took less than ten seconds
    monkeypatch.setattr("adam_any.run.progress.LINE", 0.0)
    minimize(square, np.zeros(2), FAST, steps=3)
    assert "minimize: step 3 of 3: value" in capsys.readouterr().err
    minimize(square, np.zeros(2), FAST, steps=3, progress=False)
    assert capsys.readouterr().err == ""


# Stores ------------------------------------------------------------------------------------------


class Kept:
    """A store that keeps copies in memory."""

    def __init__(self) -> None:
        self.saved: dict[int, Any] = {}

    def save(self, step: int, state: Any) -> None:
        assert step not in self.saved
        self.saved[step] = copy.deepcopy(state)

    def load(self, state: Any) -> Any:
        assert sorted(state) == ["best", "optimizer", "params", "run"]
        return copy.deepcopy(self.saved[max(self.saved)]) if self.saved else None


@pytest.mark.promise("A run that goes on from a store of shards ends with the bits of one run.")
@pytest.mark.parametrize("every", [1, 7])
def test_a_run_goes_on_from_a_store(every: int) -> None:
    def options() -> dict[str, Any]:
        return {"callback": Plateau(0.7, patience=3), "every": every, "progress": False}

    start = {"x": np.zeros(2), "none": None}
    whole = minimize(square_of_x, start, FAST, steps=42, **options())
    store = Kept()
    for steps in (14, 15, 42, 42):
        part = minimize(square_of_x, start, FAST, steps=steps, checkpoint=store, **options())
    same(part.last["x"], whole.last["x"])
    same(part.x["x"], whole.x["x"])
    assert part.nit == whole.nit and part.fun == whole.fun
    store.saved[43] = {**store.saved[42], "params": {}}
    with pytest.raises(ValueError, match=r"Kept.*is not a checkpoint of this problem: params"):
        minimize(square_of_x, start, FAST, checkpoint=store)


def square_of_x(params: Any) -> Any:
    value, gradient = square(params["x"])
    return value, {"x": gradient, "none": None}
