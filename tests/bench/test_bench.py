"""The benchmark measures the same Adam everywhere, counts right, and loses no value. No test
depends on how long anything takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench
from adam_any import rules
from adam_any.engines.cpu import compiler as compiled
from bench import __main__ as command
from bench import cpu, figures, harness, machine, results, workloads
from bench.competitors import ADAM, BETAS, CPU, LION, LR, NO_NUMBA, OURS, TEXTBOOK, Lion
from bench.workloads import Arrays
from bench.wrapped import CHAIN, PASSES, WHOLE, WRAPPED
from tests.helpers import oracle

ROOT = Path(bench.__file__).parents[1]
TREE = workloads.Workload("tree", "a small tree", ((7,), (3, 5), (1,), (4, 2, 3)))
STEPS = 5


def same(x: Any) -> Any:
    return x


def params() -> Arrays:
    """As small as a step is long, so that rounding them hides nothing."""
    return [np.float32(LR) * p for p in TREE.arrays(1)]


def grads(step: int) -> Arrays:
    """Others in the last two steps. The first leaf's are so small that it matters where epsilon
    stands."""
    first, *others = TREE.arrays(2 if step < STEPS - 2 else 3)
    return [np.float32(1e-7) * first, *others]


def stepped(make: Any, array: Callable[[Any], Any] = same, host: Any = np.from_dlpack) -> Arrays:
    """The parameters after a few steps, or a skip."""
    try:
        runner = make([array(p) for p in params()], [array(g) for g in grads(0)])
    except harness.MissingError as error:
        pytest.skip(str(error))
    try:
        runner.run(STEPS - 2)
        runner.give([array(g) for g in grads(STEPS)])
        runner.run(2)
        runner.finish()
        return [np.array(host(p)) for p in runner.params()]
    finally:
        runner.close()


def agree(found: Arrays) -> None:
    for start, mine, theirs in zip(params(), found, stepped(CPU[TEXTBOOK]), strict=True):
        assert mine.dtype == np.float32
        assert np.all(mine != start)
        # The least exact take 1 - beta2**t in float32, which at t = 1 is eps / (1 - beta2) off.
        a_step = LR * np.finfo(np.float32).eps / (1 - BETAS[1])
        assert np.max(np.abs(mine - theirs)) <= STEPS * a_step


@pytest.mark.parametrize("name", ADAM)
def test_all_are_the_same_adam(name: str) -> None:
    agree(stepped(CPU[name]))


@pytest.mark.parametrize("name", [WHOLE, PASSES, CHAIN])
def test_all_put_the_same_around_adam(name: str) -> None:
    if name == WHOLE and not hasattr(rules, "Averaged"):
        pytest.skip("the wrappers are not here yet")
    by_hand = [p.astype(float) for p in params()]
    states = [oracle.start(p) for p in by_hand]
    for step in range(STEPS):
        given = grads(0 if step < STEPS - 2 else STEPS)
        for i, g in enumerate(given):
            state = oracle.step(states[i], np.clip(g, -1, 1), lr=LR)
            states[i] = state._replace(p=np.clip(state.p, 0, 1))
    for mine, state in zip(stepped(WRAPPED[name]), states, strict=True):
        assert mine.min() >= 0 and mine.max() > 0
        a_step = LR * np.finfo(np.float32).eps / (1 - BETAS[1])
        assert np.max(np.abs(mine - state.p)) <= STEPS * a_step


def test_without_numba_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "Kernel", lambda *arguments: 1 / 0)
    agree(stepped(CPU[NO_NUMBA]))


def test_the_rule_of_ones_own_is_lion() -> None:
    (beta1, beta2), lr = Lion().betas, Lion().lr
    expected = [p.astype(np.float64) for p in params()]
    m = [np.zeros_like(p) for p in expected]
    for step in range(STEPS):
        for i, g in enumerate(grads(step)):
            expected[i] -= lr * np.sign(beta1 * m[i] + (1 - beta1) * g)
            m[i] = beta2 * m[i] + (1 - beta2) * g
    for mine, theirs in zip(stepped(CPU[LION]), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6 * lr)


@pytest.mark.parametrize("largest, passes", [(1 << 26, 1), (1 << 17, 2), (100, 1967)])
def test_the_memory_limit_writes_three_arrays_throughout(
    largest: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = pytest.importorskip("bench.limit", reason="it needs Numba")
    monkeypatch.setattr(limit.MemoryLimit, "LARGEST", largest)
    runner = limit.MemoryLimit([np.zeros(n, np.float32) for n in ((1 << 17) + 3, 1 << 16)], [])
    before = runner.arrays[1].copy()
    assert runner.passes == passes and 0 <= 3 * (1 << 16) + 3 - passes * before.size < passes
    runner.run(1)
    p, g, m, v = runner.arrays
    np.testing.assert_array_equal(g, before)
    for written in (p, m, v):
        np.testing.assert_allclose(written, (1 + passes) * before, rtol=1e-4)


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


class Fake(harness.Runner):
    """A runner that takes a known time on a clock of its own."""

    def __init__(self, name: str, cost: float, log: list[tuple[str, int]]) -> None:
        self.name, self.cost, self.log, self.closed = name, cost, log, False

    def run(self, steps: int) -> None:
        self.log.append((self.name, steps))

    def close(self) -> None:
        self.closed = True


def test_competitors_take_turns_and_the_median_counts() -> None:
    log: list[tuple[str, int]] = []
    fakes = Fake("quick", 1e-4, log), Fake("slow", 0.5, log)

    def stopwatch(runner: Any, steps: int) -> float:
        runner.run(steps)
        third_turn = log.count(("quick", 2000)) == 3 and runner.name == "quick"
        cost: float = runner.cost * steps * (10 if third_turn else 1)  # something else ran
        return cost

    makers = {fake.name: lambda fake=fake: fake for fake in fakes}
    rows = harness.compare(makers, rounds=5, turn=0.2, stopwatch=stopwatch)
    assert [row.steps for row in rows] == [2000, 1]
    assert log[-10:] == [("quick", 2000), ("slow", 1)] * 5
    assert len(rows[0].seconds) == 5 and max(rows[0].seconds) == pytest.approx(1e-3)
    both = results.Comparison("", "", 0, 0, rows)
    assert both.median("quick") == pytest.approx(1e-4) and both.median("slow") == 0.5
    assert both.ratio("slow", "quick") == pytest.approx(5000)
    assert all(fake.closed for fake in fakes)


def test_who_cannot_take_part_is_a_row_with_the_reason() -> None:
    def raising(error: Exception) -> harness.Runner:
        raise error

    rows = harness.compare(
        {
            "absent": lambda: harness.needed("adamant"),
            "broken": lambda: raising(OSError("no compiler\nand a long explanation")),
            "here": lambda: Fake("here", 1.0, []),
        },
        rounds=2,
        stopwatch=lambda runner, steps: 1.0 * steps,
    )
    assert rows[0].missing.startswith("adamant is not installed")
    assert [row.missing for row in rows[1:]] == ["OSError: no compiler", ""]
    assert [row.seconds for row in rows] == [[], [], [1.0, 1.0]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run takes no time, in the process as it is."""
    few = {name: CPU[name] for name in (OURS, TEXTBOOK)}
    monkeypatch.setattr(cpu, "CPU", few)
    monkeypatch.setattr(figures, "ADAM", few)
    monkeypatch.setattr(figures, "SUBNORMAL_ELEMENTS", 10)
    monkeypatch.setattr(figures, "first_step", lambda: 1 / 0)
    monkeypatch.setattr(figures, "extra_memory", list)
    monkeypatch.setattr(machine, "use", lambda threads: 1)
    for key, workload in workloads.ON_CPU.items():
        tiny = workloads.Workload(key, workload.title, TREE.shapes)
        monkeypatch.setitem(workloads.ON_CPU, key, tiny)


@pytest.mark.usefixtures("small")
def test_a_report_comes_back_equal_from_json(tmp_path: Path) -> None:
    parts = ("1x1k", cpu.SUBNORMALS, cpu.FIGURES)
    report = cpu.run(parts, threads=1, rounds=2, turn=1e-4, tick=lambda text: None)
    report.comparisons[0].rows.append(results.Row("absent", missing="not installed"))
    report.save(tmp_path / "report.json")
    assert results.load(tmp_path / "report.json") == report
    ours, textbook, first, per_leaf, *_ = report.figures
    assert ours.value and textbook.value and per_leaf.value is not None
    assert first.value is None and first.how.startswith("ZeroDivisionError")

    (tmp_path / "other.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="not a benchmark result of format"):
        results.load(tmp_path / "other.json")


@pytest.mark.usefixtures("small")
def test_a_run_prints_tables_and_writes_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    saved, picture = str(tmp_path / "r.json"), tmp_path / "r.png"
    assert command.main(["cpu", "--quick", "--only", "1x1k", "subnormals", "--json", saved]) == 0
    printed = capsys.readouterr().out
    for part in (f"| {TEXTBOOK}", "1 × 1 k", "µs", "Subnormal moments"):
        assert part in printed
    assert command.main(["show", saved, "--plot", str(picture)]) == 0
    assert capsys.readouterr().out == printed
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("result", "page", "lines"), [("cpu", "speed", 7), ("cpu_rules", "family", 6)]
)
def test_the_table_in_the_docs_is_the_result_that_is_kept(
    capsys: pytest.CaptureFixture[str], result: str, page: str, lines: int
) -> None:
    pytest.importorskip("rich")
    assert command.main(["show", str(ROOT / f"bench/results/{result}.json"), "--table"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == lines
    assert printed in (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")


def test_other_rules_take_as_long_as_their_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    assert command.main(["show", str(ROOT / "bench/results/cpu_rules.json")]) == 0
    said = re.search(r"^Time per byte.*Adam's: (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert said is not None
    assert said[1] in (ROOT / "docs/family.md").read_text(encoding="utf-8")
    assert all(float(ratio) <= 1.1 for ratio in re.findall(r"\d\.\d+", said[1]))


def test_an_interrupted_run_ends_cleanly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "use", lambda threads: 1)
    monkeypatch.setattr(cpu, "run", interrupted)
    assert command.main(["cpu", "--quick"]) == 130
    assert capsys.readouterr().err.strip().endswith("interrupted")


@pytest.mark.parametrize(
    "seconds, text",
    [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (9.999e-4, "1.00 ms"), (3e-8, "0.0300 µs")],
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert pytest.importorskip("bench.report", reason="it needs rich").duration(seconds) == text


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    how = ["-c", f"{code}; from bench.__main__ import main; sys.exit(main())"]
    program = [sys.executable, *(how if code else ["-m", "bench"]), *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


def test_without_cupy_there_is_one_sentence() -> None:
    done = run("gpu", code="import sys; sys.modules['cupy'] = None")
    assert done.returncode == 2 and "cupy is not installed" in done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.endswith(".\n")


@pytest.mark.parametrize("how", [[], ["--table"]], ids=str)
def test_whoever_reads_may_have_seen_enough(how: list[str]) -> None:
    pytest.importorskip("rich")
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-m", "bench", "show", "bench/results/cpu.json", *how]
    done = subprocess.run(program, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b""


def test_a_mistaken_command_is_refused_before_it_runs() -> None:
    assert "usage: python -m bench" in run().stdout
    assert "invalid choice: '1x1kk'" in run("cpu", "--only", "1x1kk").stderr
    assert "there is no directory" in run("cpu", "--json", "/nowhere/x.json").stderr
    assert "1 to" in run("cpu", "--threads", "0").stderr
