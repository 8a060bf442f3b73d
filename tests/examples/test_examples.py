"""The gallery: each example runs, without a warning, and does as well as its text says."""

from __future__ import annotations

import operator
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.helpers import ROOT

EXAMPLES = sorted(p.stem for p in ROOT.glob("examples/plot_*.py"))
#: In what an example prints: its number, another's, and how they compare.
CLAIMS: dict[str, tuple[str, str, Callable[[float, float], bool]]] = {
    "plot_tomography": (r"adam_any (\S+) dB", r"filtered back-projection (\S+) dB", operator.gt),
    "plot_deconvolution": (r"adam_any (\S+) dB", r"Richardson-Lucy (\S+) dB", operator.gt),
    "plot_ptychography": (r"correlates by (\S+)", r"ePIE: ([\d.]+\d)", operator.gt),
    "plot_phase_retrieval": (r"adam_any (\S+) rad", r"Gerchberg-Saxton ([\d.]+\d)", operator.lt),
    "plot_inpainting": (r"adam_any (\S+) dB", r"biharmonic (\S+) dB", operator.gt),
    "plot_wave_inversion": (r"Rprop (\S+) m/s", r"Adam (\S+) m/s", operator.lt),
    "plot_ode": (r"adam_any: (\S+)", r"optax, compiled: (\S+)", operator.eq),
    "plot_bayes": (r"Bayes: test loss (\S+);", r"Laplace: test loss (\S+);", operator.lt),
    "plot_time_series": (r"adam_any (\S+)", r"L-BFGS-B (\S+)", operator.lt),
    "plot_from_scratch": (r"adam_any has both to ([^,]+)", r"b = (nan)", operator.ne),
}


def test_every_example_makes_a_claim() -> None:
    if EXAMPLES:  # not in the sdist
        assert sorted(CLAIMS) == EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_does_as_well_as_it_says(name: str) -> None:
    path = ROOT / "examples" / f"{name}.py"
    imports = re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.M)
    for module in imports:
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, "-W", "error:::__main__", str(path)],
        # BLAS with a thread for each core, in each of several processes, waits more than it works.
        env=os.environ
        | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs, compare = CLAIMS[name]
    found = [re.search(pattern, done.stdout) for pattern in (ours, theirs)]
    assert all(found), done.stdout
    assert compare(*(float(match[1]) for match in found if match)), done.stdout
