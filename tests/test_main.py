"""`python -m adam_any`: the demo, run as a user runs it, and its messages when it cannot run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adam_any import __main__ as command
from adam_any.__main__ import main
from adam_any.demo import digits, notebook, places, show, speed
from tests.helpers import ROOT

NUMPY = places.Place("numpy", np.__version__, "cpu")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "300"}  # wide enough for each row to be one line
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo in a process where a module cannot be imported."""
    program = (
        f"import sys; sys.modules[{module!r}] = None; "
        f"from adam_any.__main__ import main; sys.exit(main({list(arguments)!r}))"
    )
    return python("-c", program)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a demo that could not run, checked to be one line on stderr."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("python -m adam_any: ") and done.stderr.count("\n") == 1
    return done.stderr


# The whole demo -----------------------------------------------------------------------------------


def test_the_demo_runs_and_shows_what_it_found(tmp_path: Path) -> None:
    plot = tmp_path / "digits.png"
    job = python("-m", "adam_any", "--plot", str(plot))
    assert job.returncode == 0, job.stdout + job.stderr
    assert "python -m adam_any:" not in job.stderr
    check_libraries(job.stdout)
    check_digits(job.stdout)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", job.stdout)  # nothing but text into a pipe
    assert "epochs" not in job.stdout  # the progress bar
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = import_module("matplotlib.image").imread(plot)
    assert image.shape[0] >= 600 and np.ptp(image[..., :3]) > 0.5


def check_libraries(out: str) -> None:
    found, unusable = places.survey()
    libraries, _, experiment = out.partition("The notebook's experiment")
    assert {place.library for place in found} >= {"numpy"}
    for place in found:
        assert re.search(rf"^{place.library} +{re.escape(place.version)} ", libraries, re.M)
        row = re.search(rf"^{place.label} +(over )?(\d+) .* (\S+) *$", experiment, re.M)
        assert row is not None, place
        assert int(row[2]) == 280 if row[1] else int(row[2]) > 280
        assert float(row[3]) <= 1e-14
    assert re.search(r"^numpy +746 +0\.99999999999999\d+ +0\.99999999999999", experiment, re.M)
    for reason in unusable:
        assert reason in libraries


def check_digits(out: str) -> None:
    accuracy = re.search(r"^test accuracy +([\d.]+) %", out, re.M)
    assert accuracy is not None and float(accuracy[1]) >= 98
    assert re.search(r"^optimizer step +[\d.]+ ms ", out, re.M)
    engine = re.search(r"^engine +(\S+): ", out, re.M)
    assert engine is not None and engine[1] == NUMPY.explain()[0].engine


# When it cannot run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "arguments", "remedy"),
    [
        ("rich", (), "pip install 'adam-any[demo]'"),
        ("sklearn", (), "pip install 'adam-any[demo]'"),
        ("matplotlib", ("--plot", "a.png"), "pip install 'adam-any[demo]'"),
        ("cupy", ("--library", "cupy"), "pip install 'adam-any[cuda13]' (or cuda12)"),
        ("torch", ("--library", "torch"), "pip install torch"),
        ("jax", ("--library", "jax"), "pip install jax"),
    ],
)
def test_a_missing_package_is_a_sentence(
    module: str, arguments: tuple[str, ...], remedy: str
) -> None:
    said = one_sentence(without(module, *arguments))
    assert "not installed" in said and said.rstrip().endswith(remedy)
    assert not Path(ROOT, "a.png").exists()


@pytest.mark.parametrize("name", ["missing/a.png", "directory.png", "file/a.png", "a.pdf"])
def test_a_plot_that_cannot_be_written_is_a_sentence(name: str, tmp_path: Path) -> None:
    Path(tmp_path, "directory.png").mkdir()
    Path(tmp_path, "file").touch()
    path = str(tmp_path / name)
    assert path in one_sentence(python("-m", "adam_any", "--plot", path))


def test_cupy_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy can be imported without one, and fails at the first array."""
    cupy: Any = ModuleType("cupy")
    runtime: Any = ModuleType("cupy.cuda.runtime")
    runtime.CUDARuntimeError = type("CUDARuntimeError", (RuntimeError,), {})

    def count() -> int:
        raise runtime.CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    runtime.getDeviceCount = count
    cupy.__version__, cupy.cuda = "14.2.0", ModuleType("cupy.cuda")
    cupy.cuda.is_available, cupy.cuda.runtime = lambda: False, runtime
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(places.UnusableError, match=r"no CUDA-capable device.*driver.*cuda12"):
        places.places("cupy")


def test_a_broken_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path, "cupy.py").write_text("raise OSError('libcudart.so.13: not found')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        places.UnusableError, match=r"importing it fails with OSError.*libcudart.*\[cuda13\]"
    ):
        places.places("cupy")


def test_wrong_results_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(place: places.Place) -> notebook.Descent:
        raise ZeroDivisionError("for a test")

    monkeypatch.setattr(places, "survey", lambda: ([NUMPY], []))
    monkeypatch.setattr(digits, "EPOCHS", 1)
    monkeypatch.setattr(speed, "ELEMENTS", 1_000)
    monkeypatch.setattr(notebook, "NOTEBOOK", tuple(x + 1e-13 for x in notebook.NOTEBOOK))
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "numpy: weight or bias deviates by 1.0e-13 from the weights in the notebook" in said
    assert "numpy: the test accuracy is 9" in said and "at least 98 % is expected" in said

    monkeypatch.setattr(notebook, "descend", broken)
    assert main([]) == 1
    assert "numpy: ZeroDivisionError: for a test" in capsys.readouterr().err


def test_ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "run", interrupted)
    assert main([]) == 130
    assert capsys.readouterr() == ("", "python -m adam_any: interrupted\n")


def test_ctrl_c_that_python_dropped_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX registers a callback with `gc`, and Python drops what is raised in one."""
    repeated = threading.Event()
    monkeypatch.setattr("_thread.interrupt_main", repeated.set)
    dropped: Any = SimpleNamespace(exc_type=KeyboardInterrupt)
    command._interrupt_again(dropped)
    assert repeated.wait(10)


@pytest.mark.parametrize("library", list(places.LIBRARIES))
def test_the_classifier_is_trained_on_every_library(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        place = places.places(library)[-1]
    except places.UnusableError as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(digits, "EPOCHS", 1)
    classifier = digits.Classifier(place, digits.load_digits())
    assert [epoch.test_accuracy > 0.9 for epoch in classifier.train()] == [True]


def test_importing_the_package_imports_nothing_of_this() -> None:
    program = (
        "import sys, adam_any; "
        "print({'rich', 'sklearn', 'matplotlib', 'adam_any.demo'} & set(sys.modules))"
    )
    assert python("-c", program).stdout.strip() == "set()"


# Its parts ----------------------------------------------------------------------------------------


GOOD = notebook.Descent(746, True, 1.0, 1.0, 1e-16)


@pytest.mark.parametrize(
    ("descent", "failure"),
    [
        (GOOD, None),
        (GOOD._replace(converged=False, iterations=280, weight=0.9), None),  # stopped to save time
        (GOOD._replace(deviation=2e-14), "deviates by 2.0e-14"),
        (GOOD._replace(bias=float("nan"), deviation=float("nan")), "deviates by nan"),
        (GOOD._replace(bias=float("nan")), "bias nan should"),
        (GOOD._replace(weight=0.99), "weight 0.99 and"),
        (GOOD._replace(converged=False, iterations=2000), "not converged after 2000 iterations"),
    ],
)
def test_how_a_descent_can_fail(descent: notebook.Descent, failure: str | None) -> None:
    assert descent.failure is None if failure is None else failure in (descent.failure or "")


def test_jax_is_left_as_it_was() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    before = jax.config.jax_enable_x64
    assert notebook.descend(places.places("jax")[0]).failure is None
    assert jax.config.jax_enable_x64 is before


@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
def test_the_gradients_are_those_of_the_loss(library: str) -> None:
    """Compared with central differences, for every parameter."""
    xp = pytest.importorskip(library, reason=f"{library} is not installed")
    random = np.random.default_rng(3)
    shapes = {"hidden": {"w": (5, 4), "b": (4,)}, "output": {"w": (4, 3), "b": (3,)}}
    params = {
        layer: {name: random.standard_normal(shape) for name, shape in arrays.items()}
        for layer, arrays in shapes.items()
    }
    x = xp.asarray(random.standard_normal((6, 5)))
    y = xp.asarray(np.eye(3)[random.integers(0, 3, 6)])

    def run() -> tuple[Any, Any]:
        arrays = {k: {n: xp.asarray(a) for n, a in layer.items()} for k, layer in params.items()}
        return digits.loss_and_gradients(arrays, x, y)

    _, gradients = run()
    h = 1e-6
    for layer, arrays in params.items():
        for name, array in arrays.items():
            for index in np.ndindex(array.shape):
                middle, losses = array[index], []
                for moved in (middle + h, middle - h):
                    array[index] = moved
                    losses.append(float(run()[0]))
                array[index] = middle
                slope = (losses[0] - losses[1]) / (2 * h)
                assert float(gradients[layer][name][index]) == pytest.approx(slope, abs=1e-8)


def test_accuracy_is_the_share_of_correct_answers() -> None:
    params = {
        "hidden": {"w": np.eye(3), "b": np.zeros(3)},
        "output": {"w": np.eye(3), "b": np.zeros(3)},
    }
    assert digits.accuracy(params, np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 1, 2, 1]]) == 0.75
