"""The soak passes on this package, and fails on one that is broken. The long form is a command:

python -m bench soak --minutes 10 --json bench/results/soak.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adam_any.engines.cpu import compiler as compiled
from bench.soak import faults, memory
from bench.soak.leaves import DTYPES, host, leaf
from bench.soak.oracle import Options, Oracle

from . import oracle

pytest.importorskip("rich")

ROOT = Path(__file__).parents[1]
#: So that a broken package is found out in little time.
ALONE = "import sys; sys.modules['jax'] = sys.modules['torch'] = None\n"
MAIN = "\nfrom bench.__main__ import main; sys.exit(main(sys.argv[1:]))"


def soak(*arguments: str, broken: str = "") -> subprocess.CompletedProcess[str]:
    how = ["-c", ALONE + broken + MAIN] if broken else ["-m", "bench"]
    command = [sys.executable, *how, "soak", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_short_one_passes(tmp_path: Path) -> None:
    done = soak("--minutes", "0.1", "--json", str(tmp_path / "soak.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["passed"] and not found["mismatches"] and 0 < found["strain"] <= 1
    assert found["done"]["steps"] > 100 and found["done"]["saves"] > found["done"]["loads"] > 0
    assert len(found["faults"]) >= len(faults.ALL)


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
rules.Adam.coefficients = lambda self, t, lr: real(self, t + 1, lr)
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
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_broken_package_is_found_out(what: str) -> None:
    if "kernel" in what and compiled.missing() is not None:
        pytest.skip(str(compiled.missing()))
    done = soak("--minutes", "0", broken=BROKEN[what])
    assert done.returncode == 1, done.stdout + done.stderr
    expected = "Python blocks grew" if "behind" in what else "MismatchError: "
    assert expected in done.stdout


def test_the_oracle_is_that_of_the_tests() -> None:
    rng = np.random.default_rng(0)
    for options in (
        Options(weight_decay=0.1, amsgrad=True),
        Options((0.5, 0.9), 1e-6, 0.1, decoupled=True, maximize=True),
    ):
        p, grads = rng.standard_normal(5), rng.standard_normal((6, 5))
        mine = Oracle(options, p)
        for g in grads:
            mine.step(g, lambda count: 0.1 / (1 + count))
        theirs = oracle.run(p, grads, lr=lambda count: 0.1 / (1 + count), **vars(options))[-1]
        assert mine.strain(theirs.p, 2.0**-52) <= 1
        assert mine.strain(theirs.p + 1e-9, 2.0**-52) > 1


@pytest.mark.parametrize("library", DTYPES)
def test_a_leaf_holds_its_values_exactly_in_every_layout(library: str) -> None:
    if library != "python":
        pytest.importorskip(library)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        drawn = leaf(rng, library)
        values = drawn.values(rng)
        for x in (drawn.parameter(values), drawn.grad(values)):
            np.testing.assert_array_equal(host(x), values, strict=False)
            assert host(x).shape == values.shape


@pytest.mark.parametrize("slope, grew", [(0, False), (10, False), (200, True), (-200, False)])
def test_growth_is_more_than_noise_after_the_first_fifth(slope: int, grew: bool) -> None:
    diary = memory.Diary()
    for i in range(20):
        diary.steps.append(1000 * i)
        for values in diary.held.values():
            # A warm-up that takes much, and then noise.
            values.append((1 << 30) + (1 << 20) * min(i, 4) + i * slope * (1 << 10) + 50 * (i % 3))
    for growth in diary.growth():
        assert growth.grew == (grew or (slope > 0 and growth.name == memory.BLOCKS))
        assert growth.slope == pytest.approx(slope * (1 << 10), rel=0.1, abs=20)
    assert memory.Diary().growth() == []
