"""Everything that a GPU is needed for, in one call: `python -m bench gpu --everything OUT`.

- Each step is a process of its own, so a fault that spoils its context, or a hang, harms no other;
  it is ended when its time is over. What one leaves of its time, those after it share.
- `OUT/report.json` and the page `OUT/report.md` are written anew after each step. What a step has
  found until then is in `OUT/findings.jsonl`, all that it printed in `OUT/log.txt`, and what the
  benchmark has measured in `OUT/gpu.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from time import perf_counter
from typing import Any, NamedTuple

from . import contact, cuda, gpu, machine, sweep
from .harness import MissingError, reason
from .page import page

#: All steps together, so that with the start of the machine's software it is ten minutes at most.
SECONDS = 560.0
#: What a process is given to end by itself when its time is over, and once more when it is killed.
GRACE = 5.0

#: How the benchmark is run.
HOW: Mapping[str, Any] = {"rounds": 3, "turn": 0.1}

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable, "-m"
PASSED, FAILED, LATE, SKIPPED = "passed", "failed", "out of time", "skipped"


class Step(NamedTuple):
    """A step: what it shows, its share of the time, and the module and arguments that do it.

    Without a module it is one of `HERE`. `tool` is the part of compute-sanitizer to run it under.
    """

    name: str
    title: str
    share: int
    module: tuple[str, ...] = ()
    tool: str = ""


SUITE = (
    *("-m", "cuda and not slow", "-q", "-ra", "--tb=short", "-o", "faulthandler_timeout=60"),
    *("--require-library", "cupy"),  # that all were skipped would be no success
)
if find_spec("xdist"):  # most of it is compiling; and what faults takes one process of these
    SUITE = (*SUITE, "-n", "6")

STEPS = (
    Step("one", "A step of one element of each dtype has the bits of the reference", 3),
    Step("suite", "The tests that need a GPU", 22, ("pytest", *SUITE)),
    Step("demo", "python -m adam_any", 5, ("adam_any", "--library", "cupy")),
    Step("digits", "200 steps of the digits have the bits of NumPy, on one side and on both", 4),
    Step("sweep", "The geometry of the kernel, against a copy of as many bytes", 15),
    Step("benchmark", "The benchmark, and what is to be reached", 31),
    Step("memcheck", "No access beyond an array", 8, tool="memcheck"),
    Step("racecheck", "No race", 6, tool="racecheck"),
    Step("initcheck", "Nothing is read before it is written", 6, tool="initcheck"),
)


def run(
    about: Mapping[str, Any],
    out: Path,
    *,
    seconds: float = SECONDS,
    steps: Sequence[Step] = STEPS,
    python: Sequence[str] = PYTHON,
) -> int:
    """Take these steps, each in its share of the time; 1 if one of them has not passed, else 0."""
    out = out.resolve()  # steps begin in another folder
    out.mkdir(parents=True, exist_ok=True)
    for name in ("findings.jsonl", "log.txt", "gpu.json"):
        (out / name).unlink(missing_ok=True)
    report: dict[str, Any] = {
        "date": machine.now(),
        "device": dict(about),
        "versions": machine.versions(),
        "seconds": seconds,
        "steps": [],
    }
    end = perf_counter() + seconds
    for i, step in enumerate(steps):
        limit = max(0.0, end - perf_counter()) * step.share / sum(x.share for x in steps[i:])
        print(f"{step.name}: {step.title} ({limit:.0f} s at most)", file=sys.stderr, flush=True)
        taken = attempt(step, out, limit, python)
        report["steps"].append(taken)
        report["findings"] = found(out)
        (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        (out / "report.md").write_text(page(report, out / "gpu.json"))
        print(f"{step.name}: {taken['outcome']}: {taken['reason']}", file=sys.stderr, flush=True)
    return int(any(taken["outcome"] not in (PASSED, SKIPPED) for taken in report["steps"]))


def attempt(step: Step, out: Path, limit: float, python: Sequence[str]) -> dict[str, Any]:
    """Take one step; how that came out, in words."""
    started = perf_counter()
    log = out / "log.txt"
    with log.open("ab") as file:
        file.write(f"\n=== {step.name}: {step.title}\n".encode())
        file.flush()
        begin = file.tell()
        try:
            command = _command(step, out, limit, python)
            status = _ended(command, file, limit)
        except (MissingError, OSError) as error:
            status = None
            file.write(f"{reason(error)}\n".encode())
    said = log.read_bytes()[begin:].decode(errors="replace").strip()
    last = next(iter(said.splitlines()[-1:]), "")
    if status is None:
        outcome, why = SKIPPED, last
    elif status == LATE:
        outcome, why = LATE, f"it was ended after {limit:.0f} s; its last words: {last}"
    elif status == 0:
        outcome, why = PASSED, last
    elif status == 2 and step.module[:1] != ("pytest",):  # as all commands here say it
        outcome, why = SKIPPED, last
    else:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        outcome, why = FAILED, f"{how}: {last}"
    return {
        "name": step.name,
        "title": step.title,
        "seconds": round(perf_counter() - started, 1),
        "limit": round(limit, 1),
        "outcome": outcome,
        "reason": why,
        "said": said[-4000:],
    }


def _command(step: Step, out: Path, limit: float, python: Sequence[str]) -> list[str]:
    """The command of a step. Raises MissingError where its tool is not installed."""
    if step.module:
        return [*python, *step.module]
    work = [*python, "bench.everything", "odd" if step.tool else step.name, str(out), str(limit)]
    if not step.tool:
        return work
    found = which("compute-sanitizer") or which("compute-sanitizer", path="/usr/local/cuda/bin")
    if found is None:
        raise MissingError("compute-sanitizer is not installed")
    return [found, "--tool", step.tool, "--error-exitcode", "86", *work]


def _ended(command: Sequence[str], log: Any, limit: float) -> Any:
    """The exit status of a command; LATE if it had to be ended."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        # JAX would take three quarters of the device's memory for itself.
        env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return LATE
    finally:  # after an interrupt, too
        for number in (signal.SIGINT, signal.SIGKILL):  # at the first, pytest tells what it has
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(GRACE)


class Findings:
    """What a step finds, a line each, written at once: it may be ended at any time."""

    def __init__(self, out: Path, step: str) -> None:
        self.out, self._step, self.wrong = out, step, 0

    def add(self, what: str, value: str, outcome: str = "", **more: Any) -> None:
        """Note a value. The outcome is empty, or `ok` or `wrong`, or `met` or `short`."""
        self.wrong += outcome == "wrong"
        line = {"step": self._step, "what": what, "is": value, "outcome": outcome, **more}
        with (self.out / "findings.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def check(self, what: str, differing: int, number: int) -> None:
        """Note whether all of a number of numbers have the bits that they should have."""
        value = f"{differing} of {number} differ" if differing else f"{number} have the same bits"
        self.add(what, value, "wrong" if differing else "ok")
        print(f"{what}: {value}", flush=True)


def found(out: Path) -> list[dict[str, Any]]:
    """All that the steps have found so far."""
    path, lines = out / "findings.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # of a step that was ended while it wrote
            lines.append(json.loads(line))
    return lines


def benchmark(device: cuda.Cuda, findings: Findings, seconds: float) -> None:
    """Measure part after part, those that matter most first, while there is time."""
    from .report import reached

    about = {**machine.describe(machine.available()), **device.describe()}
    report = machine.report("gpu", about, **HOW)
    end, longest = perf_counter() + seconds, 0.0
    for part in sorted(
        gpu.PARTS, key=lambda part: gpu.FIRST.index(part) if part in gpu.FIRST else 9
    ):
        begun = perf_counter()
        if begun + longest > end:
            findings.add(part, "not measured: there was no time left")
            continue
        new = gpu.run(device, [part], **HOW, tick=lambda text: None).comparisons
        report.comparisons += new
        report.save(findings.out / "gpu.json")
        for what, wanted, value, answer in reached(replace(report, comparisons=new)):
            findings.add(what, value, "met" if answer == "yes" else "short", wanted=wanted)
        longest = max(longest, perf_counter() - begun)
        print(f"{part}: measured", flush=True)


#: The steps that are functions of this package: of the device, what is found, and the time.
HERE: dict[str, Callable[[Any, Any, float], None]] = {
    "one": contact.one,
    "digits": contact.digits,
    "odd": contact.odd,
    "sweep": sweep.sweep,
    "benchmark": benchmark,
}


def main(name: str, out: str, seconds: str) -> int:
    """Take one step in this process; 1 if something is wrong, 2 if something is missing."""
    findings = Findings(Path(out), name)
    try:
        HERE[name](cuda.Cuda(), findings, float(seconds))
    except MissingError as error:
        print(error)
        return 2
    print(f"{findings.wrong} wrong" if findings.wrong else "nothing wrong")
    return int(findings.wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
