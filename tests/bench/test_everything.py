"""All that a GPU is needed for, on the emulated device: everything but time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any.engines.cuda import compiler as nvrtc
from bench import __main__ as command
from bench import contact, cuda, everything, gpu, results, sweep
from bench.competitors import OURS
from bench.everything import FAILED, LATE, PASSED, SKIPPED, Findings, Step, found, run
from bench.harness import MissingError
from bench.results import DEVICE_TIME, END_TO_END, HOST_TIME, WRAPPED_TIME
from bench.wrapped import NORM, WHOLE
from tests.helpers import emulated
from tests.helpers.pretend import Pretended

from .test_bench_gpu import Host
from .test_bench_gpu import small as small

CODE = sys.executable, "-c"
IGNORE = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "


def step(name: str, share: int, code: str) -> Step:
    return Step(name, f"the step {name}", share, (code,))


def test_a_step_that_fails_or_hangs_stops_none_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(everything, "GRACE", 0.3)
    steps = [
        step("good", 40, "print('all is well')"),
        step("bad", 40, "print('so far so good'); raise SystemExit('then not')"),
        step("crash", 40, "import os; print('begun', flush=True); os.kill(os.getpid(), 11)"),
        step("none", 40, "print('it is not installed'); raise SystemExit(2)"),
        step("hang", 4, "import time; print('begun', flush=True); time.sleep(60)"),
        step("stubborn", 4, IGNORE + "print('never', flush=True); time.sleep(60)"),
        step("last", 40, "print('here, too')"),
    ]
    assert run({"device": "A GPU"}, tmp_path / "out", seconds=8, steps=steps, python=CODE) == 1
    report = json.loads((tmp_path / "out/report.json").read_text())
    taken = {x["name"]: x for x in report["steps"]}
    assert [x["outcome"] for x in report["steps"]] == [
        *(PASSED, FAILED, FAILED, SKIPPED, LATE, LATE, PASSED)
    ]
    assert taken["good"]["reason"] == "all is well"
    assert taken["bad"]["reason"] == "exit status 1: then not"
    assert taken["crash"]["reason"] == "signal 11: begun"
    assert taken["none"]["reason"] == "it is not installed"
    assert taken["stubborn"]["reason"].endswith("its last words: never")
    assert "KeyboardInterrupt" in taken["hang"]["said"]  # it is asked before it is killed
    assert all(x["seconds"] < 4 for x in report["steps"])
    assert sum(x["seconds"] for x in report["steps"]) < 10
    page = (tmp_path / "out/report.md").read_text()
    assert page.startswith("# adam_any on A GPU\n") and "| the step crash |" in page
    assert "so far so good" in (tmp_path / "out/log.txt").read_text()
    assert "stubborn: out of time" in capfd.readouterr().err


def test_what_is_left_of_the_time_is_shared(tmp_path: Path) -> None:
    steps = [step(f"{k}", share, "pass") for k, share in enumerate((1, 1, 2))]
    assert run({}, tmp_path, seconds=40, steps=steps, python=CODE) == 0
    first, second, third = (
        x["limit"] for x in json.loads((tmp_path / "report.json").read_text())["steps"]
    )
    assert first == pytest.approx(10, abs=0.5)
    assert second == pytest.approx(40 / 3, abs=0.5)
    assert third == pytest.approx(40, abs=1.5)


def test_the_steps_fit_into_ten_minutes() -> None:
    assert everything.SECONDS + 3 * everything.GRACE <= 590
    assert {x.name for x in everything.STEPS if not x.module and not x.tool} < {*everything.HERE}


def test_a_report_is_written_as_it_goes(tmp_path: Path) -> None:
    look = f"print(len(__import__('json').load(open({str(tmp_path / 'report.json')!r}))['steps']))"
    run({}, tmp_path, seconds=20, steps=[step("a", 1, "pass"), step("b", 1, look)], python=CODE)
    assert json.loads((tmp_path / "report.json").read_text())["steps"][1]["reason"] == "1"


def test_a_step_that_is_ended_while_it_writes_spoils_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tear = f"""
import sys; sys.path.insert(0, '.')
from pathlib import Path
from bench.everything import Findings
out = Path({str(tmp_path / "out")!r})
findings = Findings(out, 'a')
findings.add('first', '1')
(out / 'gpu.json').write_text('{{')
with (out / 'findings.jsonl').open('a') as file:
    file.write('{{"step"')
findings.add('torn', '2'), findings.add('last', '3')
"""
    assert run({}, Path("out"), seconds=20, steps=[step("a", 1, tear)], python=CODE) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [x["what"] for x in report["findings"]] == ["first", "last"]
    page = (tmp_path / "out/report.md").read_text()
    assert "| last | 3 |" in page and "gpu.json cannot be shown: JSONDecodeError" in page


def test_without_the_sanitizer_its_steps_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everything, "which", lambda name, path=None: None)
    steps = [x for x in everything.STEPS if x.tool]
    assert run({}, tmp_path, seconds=9, steps=steps) == 0
    taken = json.loads((tmp_path / "report.json").read_text())["steps"]
    assert {(x["outcome"], x["reason"]) for x in taken} == {
        (SKIPPED, "compute-sanitizer is not installed")
    }


def test_the_sanitizer_is_told_what_to_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everything, "which", lambda name, path=None: f"/bin/{name}")
    (racecheck,) = (x for x in everything.STEPS if x.name == "racecheck")
    assert everything._command(racecheck, tmp_path, 9.0, ("python", "-m")) == [
        *("/bin/compute-sanitizer", "--tool", "racecheck", "--error-exitcode", "86"),
        *("python", "-m", "bench.everything", "odd", str(tmp_path), "9.0"),
    ]


def test_without_a_device_it_says_so_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise MissingError("CuPy finds no CUDA device")

    monkeypatch.setattr(cuda, "Cuda", none)
    assert command.main(["gpu", "--everything", str(tmp_path / "out")]) == 2
    said = "The GPU benchmark needs a CUDA device and CuPy: CuPy finds no CUDA device.\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "out").exists()
    assert everything.main("one", str(tmp_path), "9") == 2


# The steps themselves.


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    return Findings(tmp_path, "a step")


CONTACTS: dict[str, Any] = {
    "one": contact.one,
    "digits": lambda *given: contact.digits(*given, steps=30),
    "odd": lambda *given: contact.odd(*given, leaves=70),
}


@pytest.mark.parametrize("name", CONTACTS)
def test_the_first_contact_has_the_bits_of_the_reference(
    emulation: Any, findings: Findings, name: str
) -> None:
    pytest.importorskip("sklearn" if name == "digits" else "ml_dtypes")
    device = Pretended()
    CONTACTS[name](device, findings, 9.0)
    lines = found(findings.out)
    assert findings.wrong == 0 and {x["outcome"] for x in lines} <= {"ok", ""}
    assert len(lines) >= {"one": 12, "digits": 3, "odd": 13}[name]
    assert device.apart is (name == "odd")


@pytest.mark.parametrize("name", CONTACTS)
def test_another_bit_is_found(
    emulation: Any, findings: Findings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn" if name == "digits" else "ml_dtypes")
    change = staticmethod(lambda text: text.replace("c_alpha * t10", "c_alpha * t10 * real(1.1)"))
    monkeypatch.setattr(emulation, "change", change)
    CONTACTS[name](Pretended(), findings, 9.0)
    assert findings.wrong > 0
    assert any("differ" in x["is"] for x in found(findings.out))


SOME = [
    sweep.FIRST,
    sweep.FIRST._replace(threads=512, width=8),
    sweep.FIRST._replace(chunk=2048, unroll=2, streamed=True),
]


def test_geometries_have_the_same_bits_and_are_timed(emulation: Any, findings: Findings) -> None:
    sweep.sweep(Pretended(), findings, 1e9, sizes=(70_000, 30_001), chosen=SOME)
    lines = found(findings.out)
    assert findings.wrong == 0
    assert [x["is"] for x in lines if x["what"].startswith("geometries")] == ["3"]
    assert sum("raw" in x for x in lines) == 2 * (1 + len(SOME)) * sweep.ROUNDS
    best = [x for x in lines if "best of 3" in x["what"]]
    assert len(best) == 2 * 3 and all("of the copy's bandwidth" in x["is"] for x in best)


def test_a_geometry_with_other_bits_is_not_timed(
    emulation: Any, findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(text: str) -> str:
        return text.replace("c_w2 * t4", "c_w1 * t4") if "__launch_bounds__(512)" in text else text

    monkeypatch.setattr(emulation, "change", staticmethod(change))
    sweep.sweep(Pretended(), findings, 1e9, sizes=(5000,), chosen=SOME)
    assert [x["what"] for x in found(findings.out) if x["outcome"] == "wrong"] == [str(SOME[1])]
    assert not any("raw" in x and str(SOME[1]) in x["what"] for x in found(findings.out))


def test_a_sweep_ends_when_its_time_is_over(emulation: Any, findings: Findings) -> None:
    sweep.sweep(Pretended(), findings, 0.0, sizes=(5000,), chosen=SOME)
    assert findings.wrong == 0 and not any("raw" in x for x in found(findings.out))


def test_the_sweep_begins_with_what_is_built_in() -> None:
    made = sweep.geometries()
    assert len(made) == len({*made}) == 96 and made[0] == sweep.FIRST
    changed = [sum(a != b for a, b in zip(x, sweep.FIRST, strict=True)) for x in made]
    assert changed[1:10] == [1] * 9 and min(changed[10:]) == 2
    assert "#pragma unroll 2\n        for (int i = threadIdx.x * 4" in sweep.text(SOME[2])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
def test_every_geometry_compiles_without_spills(architecture: int) -> None:
    if (reason := nvrtc.missing()) is not None:
        pytest.skip(f"nvrtc: {reason}")
    for text in {sweep.text(geometry) for geometry in sweep.geometries()}:
        log = nvrtc.compiled(text, architecture, "--ptxas-options=-v").log
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log


@pytest.mark.usefixtures("small")
def test_the_benchmark_says_what_is_met_and_what_is_short(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(gpu, "PARTS", (gpu.WRAPPERS, "1x100M"))
    monkeypatch.setattr(everything, "HOW", {"rounds": 1, "turn": 1e-4})
    everything.benchmark(Host(), findings, 1e9)  # type: ignore[arg-type]
    targets = found(findings.out)
    assert all(x["wanted"] and x["outcome"] in ("met", "short") for x in targets)
    about = [x["what"] for x in targets]
    assert "device copy / adam_any" in about[0] and f"{WHOLE} / {OURS}" in about
    report = results.load(findings.out / "gpu.json")
    measures = [x.measure for x in report.comparisons]
    assert measures[:3] == [DEVICE_TIME, HOST_TIME, END_TO_END]  # 1x100M is the first
    (wrapped,) = (x for x in report.comparisons if x.measure == WRAPPED_TIME)
    assert wrapped.ratio(WHOLE, OURS) is not None and wrapped.ratio(NORM, OURS) is not None
    (line,) = (x for x in targets if x["what"] == f"{WHOLE} / {OURS}")
    assert (line["outcome"] == "met") is (wrapped.ratio(WHOLE, OURS) <= 1.35)


@pytest.mark.slow
def test_the_whole_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is a process; the tool that watches is a script that does what it is told."""
    for module in ("sklearn", "rich", "ml_dtypes"):
        pytest.importorskip(module)
    if (reason := emulated.missing()) is not None:
        pytest.skip(reason)
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\nshift 4\nexec "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(everything, "which", lambda name, path=None: str(tool))
    some = [x for x in everything.STEPS if x.name in ("one", "digits", "memcheck", "demo")]
    pretend = sys.executable, "-m", "tests.helpers.pretend"
    status = run(Pretended().describe(), tmp_path / "out", seconds=300, steps=some, python=pretend)
    report = json.loads((tmp_path / "out/report.json").read_text())
    outcomes = {x["name"]: x["outcome"] for x in report["steps"]}
    assert outcomes == {"one": PASSED, "demo": SKIPPED, "digits": PASSED, "memcheck": PASSED}
    assert status == 0 and "same bits" in (tmp_path / "out/report.md").read_text()
    assert np.all([x["outcome"] != "wrong" for x in report["findings"]])
