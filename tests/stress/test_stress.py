"""The stress test passes on this package, and fails on one that is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adam_any.engines.cpu import compiler as compiled

from ..helpers.libraries import Lib, require
from . import memory
from .attacks import ATTACKS
from .recipes import JAX, NUMPY, PYTHON, TORCH, leaf

ROOT = Path(__file__).parents[2]
#: So that a broken package is found out in little time.
ALONE = "import sys; sys.modules['jax'] = sys.modules['torch'] = None\n"
MAIN = "\nfrom tests.stress.__main__ import main; sys.exit(main())"


def stress(*arguments: str, broken: str = "") -> subprocess.CompletedProcess[str]:
    how = ["-c", ALONE + broken + MAIN] if broken else ["-m", "tests.stress"]
    command = [sys.executable, *how, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_short_one_passes(tmp_path: Path) -> None:
    done = stress("--minutes", "0.1", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["problems"] == [] and 0 < found["strain"] <= 1
    assert found["done"]["steps"] > 100 and len(found["attacks"]) >= len(ATTACKS)


BROKEN = {
    "a load that forgets a moment": """
from adam_any.state import file as files
real = files.load
def load(*arguments):
    rule, restored = real(*arguments)
    return rule, [r._replace(moments=(r.leaf.moments[0], *r.moments[1:])) for r in restored]
files.load = load
""",
    "a kernel with another operation": """
from adam_any.engines.cpu import compiler as compiled
real = compiled.numba_source
compiled.numba_source = lambda *a, **k: real(*a, **k).replace(" * ", " + ", 1)
""",
    "a rule that all engines state wrongly": """
from adam_any import rules
real = rules.Adam.coefficients
rules.Adam.coefficients = lambda self, t: real(self, t + 1)
""",
    "a torn optimizer that does not say so": """
from adam_any import Adam
Adam._whole = lambda self: self._contents
""",
    "a list that every step leaves behind": """
from adam_any import Adam
real, kept = Adam.step, []
Adam.step = lambda self, grads: kept.append([]) or real(self, grads)
""",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_package_is_found_out(what: str) -> None:
    if "kernel" in what and compiled.missing() is not None:
        pytest.skip(str(compiled.missing()))
    done = stress("--minutes", "0", broken=BROKEN[what])
    assert done.returncode == 1, done.stdout + done.stderr
    assert ("Python blocks grew" if "behind" in what else "Mismatch: ") in done.stdout


@pytest.mark.parametrize("lib", [NUMPY, PYTHON, TORCH, JAX], ids=str)
def test_aleaf_holds_its_numbers_exactly_in_every_layout(
    lib: Lib, request: pytest.FixtureRequest
) -> None:
    if lib is not PYTHON:
        require(request.config, lib)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        drawn = leaf(rng, lib)
        numbers = drawn.numbers(rng)
        for x in (drawn.parameter(numbers), drawn.grad(numbers)):
            np.testing.assert_array_equal(lib.numpy(x), numbers, strict=True)


@pytest.mark.parametrize("slope, grew", [(0, False), (10, False), (200, True), (-200, False)])
def test_growth_is_more_than_noise_after_the_first_fifth(slope: int, grew: bool) -> None:
    diary = memory.Diary()
    for i in range(20):
        for values in diary.held.values():
            # A warm-up that takes much, and then noise.
            values.append((1 << 30) + (1 << 20) * min(i, 4) + i * slope * (1 << 10) + 50 * (i % 3))
    for name, value in diary.growth().items():
        assert (value > memory.NOISE[name]) == (grew or (slope > 0 and name == memory.BLOCKS))
    assert memory.Diary().growth() == {}
