"""A run goes on from one file: the documented example, stopped and killed at any moment."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW
from tests.helpers import ROOT
from tests.helpers.bits import same
from tests.helpers.libraries import Lib, named, ready, require
from tests.helpers.optimizers import schedule
from tests.helpers.systems import needs_fork
from tests.state.test_faults import apart

PAGES = [ROOT / "docs" / "resume.md"]
BLOCKS = re.findall(
    r"```python\n(.*?)```", "\n".join(page.read_text(encoding="utf-8") for page in PAGES), re.DOTALL
)
(EXAMPLE,) = (block for block in BLOCKS if "opt.load(" in block and "opt.save(" in block)
PROMISED = re.findall(r"^print\(.*\)  # (.*)$", EXAMPLE, re.MULTILINE)


def run(folder: Path, example: str = EXAMPLE) -> tuple[str, Any]:
    """The example in a folder: what it prints, and where it ends."""
    out, names = io.StringIO(), {"__name__": "example"}
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        exec(compile(example, "resume.md", "exec"), names)
    opt: Any = names["opt"]
    return out.getvalue(), opt.params["x"]


def fresh(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def test_the_example_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    assert len(EXAMPLE.splitlines()) <= 12
    printed, x = run(tmp_path)
    assert [printed.strip()] == PROMISED
    again, y = run(tmp_path)  # which has nothing left to do
    assert again == printed
    same(x, y)


@pytest.mark.parametrize("step", [1, 49, 50, 51, 333])
def test_the_example_stopped_at_a_step_ends_in_the_same_bits(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, left, steps = run(fresh(tmp_path, "whole"))[1], [step], Adam.step

    def stopped(self: Adam, grads: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return steps(self, grads)

    monkeypatch.setattr(Adam, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(fresh(tmp_path, "stopped"))
    same(run(tmp_path / "stopped")[1], whole)


@needs_fork
def test_the_example_killed_at_any_moment_ends_in_the_same_bits(tmp_path: Path) -> None:
    report = apart(killed, tmp_path)
    assert report["killed"] >= 3 and report["equal"] == report["runs"]


def killed(folder: Path) -> dict[str, int]:
    """Start the example, kill it at a random moment, start it again, until it ends; several times.

    A save after every second step makes most of the kills come while one goes on.
    """
    often = EXAMPLE.replace("% 50 == 0", "% 2 == 0").replace("< 500", "< 40")
    rng = random.Random(1)
    whole = run(fresh(folder, "warm"), often)[1]  # whatever is compiled at first
    began = time.perf_counter()
    run(fresh(folder, "whole"), often)
    usual = time.perf_counter() - began
    report = {"runs": 5, "killed": 0, "equal": 0}
    for i in range(report["runs"]):
        place, status = fresh(folder, str(i)), -1
        while status != 0:
            process = os.fork()
            if process == 0:
                with contextlib.redirect_stdout(io.StringIO()):
                    np.save(place / "end.npy", run(place, often)[1])
                os._exit(0)
            time.sleep(rng.uniform(0, 0.7 * usual))
            os.kill(process, signal.SIGKILL)  # a zombie, if it has ended
            status = os.waitpid(process, 0)[1]
            report["killed"] += status != 0
        report["equal"] += np.load(place / "end.npy").tobytes() == whole.tobytes()
    return report


def tree(lib: Lib, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "w": lib.array(rng.normal(size=(3, 5)), "float32"),
        "z": lib.array(rng.normal(size=4) + 1j, "complex128"),
    }


def optimizer(lib: Lib, seed: int) -> Adam:
    return AdamW(tree(lib, seed), lr=schedule, weight_decay=0.1, amsgrad=True, engine=lib.engine)


@pytest.mark.parametrize(
    ("first", "second"),
    [("numpy", "torch"), ("torch", "dask"), ("dask", "numpy-eager"), ("numpy", "cupy-emulated")],
)
def test_a_run_goes_on_from_its_file_on_another_library(
    first: str, second: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of those that promise the same bits; nothing but the file crosses over."""
    libs = named(first), named(second)
    for lib in libs:
        require(request.config, lib)
    ends = []
    for halves in ((libs[0], libs[0]), libs):
        for half, lib in enumerate(halves):
            with ready(lib):
                opt = optimizer(lib, seed=half)
                if half:
                    opt.load(tmp_path / "f")
                for step in range(5):
                    opt.step(tree(lib, 100 + 5 * half + step))
                opt.save(tmp_path / "f")
        ends.append((tmp_path / "f").read_bytes())
    assert ends[0] == ends[1]
