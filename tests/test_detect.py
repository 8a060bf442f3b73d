"""The detector, the choice of engines, and what is imported when."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import adam_any
from adam_any import Adam, detect
from tests.helpers.libraries import Lib

ARRAY_LIBRARIES = {"numpy", "cupy", "torch", "jax", "dask", "array_api_strict", "numba"}


def test_backend_of_each_library(lib: Lib) -> None:
    for dtype in lib.dtypes:
        facts = detect.backend(lib.array([1.0], dtype))
        assert facts is not None
        assert (facts.library, facts.dtype) == (lib.name, dtype)
        assert facts.writable is lib.in_place
        assert (
            str(facts.device)
            .replace("CPU_DEVICE", "cpu")
            .lower()
            .count(lib.device.replace("emulated", "cuda"))
        )
        wide = dtype in ("float64", "complex128")
        assert facts.compute == ("float64" if wide else "float32")


@pytest.mark.parametrize(
    "x", [1, True, 1j, "a", None, [1.0], object(), np.ndarray], ids=lambda x: type(x).__name__
)
def test_what_is_no_array_is_not_taken_for_one(x: Any) -> None:
    assert detect.backend(x) is None


def test_python_floats_and_numpy_scalars() -> None:
    assert detect.library(1.0).name == "python"
    assert detect.library(np.float64(1.0)).name == "numpy"
    facts = detect.backend(np.float32(1.0))
    assert facts is not None and not facts.writable


def test_explain_is_a_table(lib: Lib) -> None:
    opt = Adam({"w": lib.array([1.0], "float32"), "x": 1.0}, engine=lib.engine)
    choices = opt.explain()
    assert [choice.path for choice in choices] == ["w", "x"]
    assert choices[0].library == lib.name and choices[0].dtype == "float32"
    assert choices[1].library == "python" and choices[1].engine == (lib.engine or "cpu")
    assert choices[0].engine == lib.runs  # so what a test holds on `lib`, it holds of that engine
    assert (choices[0].reason == "asked for") is (lib.engine is not None)
    lines = str(choices).splitlines()
    assert lines[0].split() == ["PATH", "LIBRARY", "DEVICE", "DTYPE", "RULE", "ENGINE", "REASON"]
    assert len(lines) == 3 and all(choice.reason in str(choices) for choice in choices)


def test_repr_shows_options_leaves_and_elements() -> None:
    text = repr(Adam({"w": np.ones((30, 40)), "b": None, "c": 1.0}, lr=0.5, eps=1e-6))
    assert text.startswith("<Adam(lr=0.5, betas=(0.9, 0.999), eps=1e-06, weight_decay=0.0, ")
    assert "amsgrad=False, maximize=False" in text
    assert text.endswith("): 2 leaves, 1,201 elements>")


def test_the_public_names_are_those_listed() -> None:
    public = {name for name in dir(adam_any) if not name.startswith("_")}
    modules = {name for name in public if type(getattr(adam_any, name)).__name__ == "module"}
    assert set(adam_any.__all__) - modules == public - modules


def loaded_after(program: str) -> set[str]:
    code = f"import sys\n{program}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()} & ARRAY_LIBRARIES


@pytest.mark.promise("Importing the package imports no array library.")
def test_importing_the_package_imports_no_array_library() -> None:
    assert loaded_after("import adam_any") == set()


def test_using_numpy_imports_no_other_array_library() -> None:
    program = """
import numpy as np
from adam_any import AdamW
opt = AdamW({"w": np.ones(3), "z": np.ones(2, complex), "x": 1.0}, amsgrad=True)
opt.step({"w": np.ones(3), "z": np.ones(2, complex), "x": 1.0})
opt.load_state_dict(opt.state_dict())
str(opt.explain()), repr(opt), opt.params, opt.steps
"""
    assert loaded_after(program) - {"numba"} == {"numpy"}
