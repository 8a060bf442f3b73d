"""The README: every example in it runs, and its two commands are there."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from tests.helpers import ROOT
from tests.helpers.libraries import LIBRARIES, require

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NEEDS = {"cupy": "cupy", "jax": "jax", "dask": "dask"}


def library_of(example: str) -> str:
    return next((name for name in NEEDS if f"import {name}" in example), "numpy")


def run(example: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    return out.getvalue()


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(e, marks=[pytest.mark.cuda] if library_of(e) == "cupy" else [])
        for e in EXAMPLES
    ],
    ids=[library_of(e) + str(i) for i, e in enumerate(EXAMPLES)],
)
def test_examples_run_and_print_what_they_say(example: str, request: pytest.FixtureRequest) -> None:
    name = library_of(example)
    require(request.config, next(lib for lib in LIBRARIES if lib.name == name))
    printed = run(example)
    for promised in re.findall(r"^print\(.*\)  # (.*)$", example, re.MULTILINE):
        assert promised in printed


def test_the_gpu_example_is_the_cpu_example_with_one_word_changed() -> None:
    first, second = EXAMPLES[:2]
    changed = [(a, b) for a, b in zip(first.split(), second.split(), strict=True) if a != b]
    assert changed == [("numpy", "cupy")]


def test_the_two_commands_are_each_one_line() -> None:
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert [c.count("\n") for c in commands[:2]] == [1, 1]
    assert commands[0].endswith("python -m adam_any\n")
    assert "python -m pytest" in commands[1]


def test_it_is_short() -> None:
    assert README.count("\n") <= 150


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
