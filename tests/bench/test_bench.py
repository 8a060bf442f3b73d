"""The benchmark measures the same Adam everywhere, counts right, and loses no value. No test
depends on how long anything takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import __main__ as command
from bench import cpu, harness, machine, results, workloads
from bench.competitors import ADAM, BETAS, CPU, LION, LR, OURS, TEXTBOOK, Lion, Make, MemoryLimit
from bench.workloads import Arrays

ROOT = Path(__file__).parents[2]
TREE = workloads.Workload("tree", "a small tree", ((7,), (3, 5), (1,), (4, 2, 3)))
STEPS = 5


def params() -> Arrays:
    """As small as a step is long, so that rounding them hides nothing."""
    return [np.float32(LR) * p for p in TREE.arrays(1)]


def grads(seed: int) -> Arrays:
    """Those of the first leaf are so small that it matters where epsilon stands."""
    first, *others = TREE.arrays(seed)
    return [np.float32(1e-7) * first, *others]


def stepped(make: Make, array: Callable[[Any], Any] = lambda x: x) -> Arrays:
    """The parameters after a few steps, with other gradients in the last two; or a skip."""
    try:
        runner = make(list(map(array, params())), list(map(array, grads(2))))
    except harness.MissingError as error:
        pytest.skip(str(error))
    try:
        runner.run(STEPS - 2)
        runner.give(list(map(array, grads(3))))
        runner.run(2)
        runner.finish()
        return [np.array(p) for p in runner.params()]
    finally:
        runner.close()


@pytest.fixture(scope="module")
def textbook() -> Arrays:
    return stepped(CPU[TEXTBOOK])


@pytest.mark.parametrize("name", ADAM)
def test_all_are_the_same_adam(name: str, textbook: Arrays) -> None:
    agree(stepped(CPU[name]), textbook)


def agree(found: Arrays, textbook: Arrays) -> None:
    for start, mine, theirs in zip(params(), found, textbook, strict=True):
        assert mine.dtype == np.float32
        assert np.all(mine != start)
        # The least exact take 1 - beta2**t in float32, which at t = 1 is eps / (1 - beta2) off.
        a_step = LR * np.finfo(np.float32).eps / (1 - BETAS[1])
        assert np.max(np.abs(mine - theirs)) <= STEPS * a_step


def test_the_rule_of_ones_own_is_lion() -> None:
    (beta1, beta2), lr = Lion().betas, Lion().lr
    expected = [p.astype(np.float64) for p in params()]
    m = [np.zeros_like(p) for p in expected]
    for step in range(STEPS):
        for i, g in enumerate(grads(2 if step < STEPS - 2 else 3)):
            expected[i] -= lr * np.sign(beta1 * m[i] + (1 - beta1) * g)
            m[i] = beta2 * m[i] + (1 - beta2) * g
    for mine, theirs in zip(stepped(CPU[LION]), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6 * lr)


@pytest.mark.parametrize("elements", [10, 1 << 16, (1 << 16) + 3])
def test_the_memory_limit_writes_three_arrays_throughout(elements: int) -> None:
    pytest.importorskip("numba")
    one = [np.zeros(elements, np.float32)]
    limit = MemoryLimit(one, one)
    before = limit.arrays[1].copy()
    limit.run(1)
    p, g, m, v = limit.arrays
    np.testing.assert_array_equal(g, before)
    for written in (p, m, v):
        np.testing.assert_array_equal(written, 2 * before)


def test_the_memory_limit_makes_several_passes_over_what_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(MemoryLimit, "LARGEST", 100)
    limit = MemoryLimit(TREE.arrays(1) * 10, [])
    assert limit.passes == 5
    assert abs(limit.passes * limit.arrays[0].size - 10 * TREE.elements) < limit.passes


def test_the_shapes_are_those_of_the_networks() -> None:
    counts = {key: (len(w.shapes), w.elements) for key, w in workloads.ON_CPU.items()}
    assert counts["resnet50"] == (161, 25_557_032)
    assert counts["gpt2"] == (148, 124_439_808)
    assert counts["200x64x64"] == (200, 819_200)
    assert counts["1x64M"] == (1, 64_000_000)


def test_arrays_are_float32_and_the_same_for_the_same_seed() -> None:
    for one, other, shape in zip(TREE.arrays(1), TREE.arrays(1), TREE.shapes, strict=True):
        assert one.dtype == np.float32 and one.shape == shape
        np.testing.assert_array_equal(one, other)


class Fake:
    """A runner that takes a known time on a clock of its own."""

    def __init__(self, name: str, cost: float, log: list[tuple[str, int]]) -> None:
        self.name, self.cost, self.log, self.closed = name, cost, log, False

    def run(self, steps: int) -> None:
        self.log.append((self.name, steps))

    def finish(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_competitors_take_turns_and_the_median_counts() -> None:
    log: list[tuple[str, int]] = []
    fakes = {"quick": Fake("quick", 1e-4, log), "slow": Fake("slow", 0.5, log)}

    def stopwatch(runner: harness.Runner, steps: int) -> float:
        assert isinstance(runner, Fake)
        runner.run(steps)
        third_turn = log.count(("quick", 2000)) == 3 and runner.name == "quick"
        return runner.cost * steps * (10 if third_turn else 1)  # something else ran

    quick, slow = harness.compare(
        {name: partial(lambda fake: fake, fake) for name, fake in fakes.items()},
        rounds=5,
        turn=0.2,
        stopwatch=stopwatch,
    )
    assert (quick.steps, slow.steps) == (2000, 1)
    assert log[-10:] == [("quick", 2000), ("slow", 1)] * 5
    assert quick.median == pytest.approx(1e-4) and slow.median == pytest.approx(0.5)
    assert len(quick.seconds) == 5 and max(quick.seconds) == pytest.approx(1e-3)
    assert all(fake.closed for fake in fakes.values())


def test_who_cannot_take_part_is_a_row_with_the_reason() -> None:
    def absent() -> harness.Runner:
        raise harness.MissingError("adamant is not installed")

    def broken() -> harness.Runner:
        raise OSError("no compiler\nand a long explanation")

    rows = harness.compare(
        {"absent": absent, "broken": broken, "here": lambda: Fake("here", 1.0, [])},
        rounds=2,
        stopwatch=lambda runner, steps: 1.0 * steps,
    )
    assert [row.missing for row in rows] == [
        "adamant is not installed",
        "OSError: no compiler",
        "",
    ]
    assert [row.median for row in rows] == [None, None, 1.0]


@pytest.fixture
def two_competitors(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a whole run takes no time, in the process as it is."""
    few = {name: CPU[name] for name in (OURS, TEXTBOOK)}
    monkeypatch.setattr(cpu, "CPU", few)
    monkeypatch.setattr(cpu, "ADAM", few)
    monkeypatch.setattr(cpu, "SUBNORMAL_ELEMENTS", 10)
    monkeypatch.setattr(machine, "use", lambda threads: None)


@pytest.mark.usefixtures("two_competitors")
def test_a_report_comes_back_equal_from_json(tmp_path: Path) -> None:
    ticks: list[str] = []
    parts = ("1x1k", cpu.SUBNORMALS)
    report = cpu.run(parts, threads=1, rounds=2, turn=1e-4, tick=ticks.append)
    report.comparisons[0].rows.append(results.Row("absent", missing="not installed"))
    report.figures.append(results.Figure("a figure", None, "s", "not measured"))
    report.save(tmp_path / "report.json")
    assert results.load(tmp_path / "report.json") == report
    assert report.slowdown[0].ratio is not None and len(report.slowdown[0].late) == 121

    (tmp_path / "other.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="no benchmark result of format"):
        results.load(tmp_path / "other.json")


@pytest.mark.usefixtures("two_competitors")
def test_the_progress_bar_ends_at_its_end() -> None:
    ticks: list[str] = []
    parts = ("1x1k", "1x100k", cpu.SUBNORMALS)
    cpu.run(parts, threads=1, rounds=3, turn=1e-4, tick=ticks.append)
    assert len(ticks) == cpu.ticks(parts, rounds=3)


@pytest.mark.usefixtures("two_competitors")
def test_a_run_prints_tables_and_writes_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    saved, picture = str(tmp_path / "r.json"), tmp_path / "r.png"
    assert command.main(["cpu", "--quick", "--only", "1x1k", "--json", saved]) == 0
    printed = capsys.readouterr().out
    assert f"| {TEXTBOOK}" in printed and "1 × 1 k" in printed and "µs" in printed
    assert command.main(["show", saved, "--plot", str(picture)]) == 0
    assert capsys.readouterr().out == printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_in_the_readme_is_the_result_that_is_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rich")
    assert command.main(["show", str(ROOT / "bench/results/cpu.json"), "--readme"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 7
    assert printed in (ROOT / "README.md").read_text(encoding="utf-8")


def test_an_interrupted_run_ends_cleanly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")

    def interrupted(*_: object, **__: object) -> SimpleNamespace:
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "use", lambda threads: None)
    monkeypatch.setattr(cpu, "run", interrupted)
    assert command.main(["cpu", "--quick"]) == 130
    assert capsys.readouterr().err.strip().endswith("interrupted")


@pytest.mark.parametrize(
    "seconds, text",
    [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (9.999e-4, "1.00 ms"), (3e-8, "0.0300 µs")],
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    pytest.importorskip("rich")
    from bench.report import duration

    assert duration(seconds) == text


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_without_a_gpu_there_is_one_sentence() -> None:
    done = bench("gpu")
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.endswith(".\n")


def test_without_a_command_there_is_help() -> None:
    done = bench()
    assert done.returncode == 0 and "usage: python -m bench" in done.stdout


def test_a_mistaken_command_is_refused_before_it_runs() -> None:
    assert "invalid choice: '1x1kk'" in bench("cpu", "--only", "1x1kk").stderr
    assert "there is no directory" in bench("cpu", "--json", "/nowhere/x.json").stderr
    assert "1 to" in bench("cpu", "--threads", "0").stderr
