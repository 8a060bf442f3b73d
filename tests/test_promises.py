"""docs/PROMISES.md and the tests agree, both ways: a table that lies fails."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest

from tests.helpers import ROOT
from tests.helpers.libraries import LIBRARIES, Lib

#: Modules in which every test runs on one engine.
ONE_ENGINE = {
    "engines/cuda/test_codegen": "cuda",
    "engines/cuda/test_compiler": "cuda",
    "engines/cuda/test_device": "cuda",
    "engines/cuda/test_engine": "cuda",
    "engines/cpu/test_workers": "cpu",
    "engines/test_scaling": "xla",
    "engines/test_xla": "xla",
    "libraries/test_dask": "eager",
}


class Row(NamedTuple):
    """A line of the table."""

    promise: str
    defect: str
    met_in: str
    test: str
    engines: str


TEXT = (ROOT / "docs" / "PROMISES.md").read_text(encoding="utf-8")
LINES = [line.strip("| ").split("|") for line in TEXT.splitlines() if line.startswith("|")]
ROWS = [Row(*(cell.strip(" `") for cell in line)) for line in LINES[2:]]


@cache
def docstrings(module: str) -> dict[str, str]:
    """The tests of a module and what they say, read without importing it."""
    tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8"))
    functions = [item for item in tree.body if isinstance(item, ast.FunctionDef)]
    return {f.name: ast.get_docstring(f) or "" for f in functions if f.name.startswith("test_")}


def engine(lib: Lib) -> str:
    return f"{lib.runs} without Numba" if lib.tiles else lib.runs


def libraries(value: Any) -> Iterator[Lib]:
    """Each library in the parameters of a test."""
    if isinstance(value, Lib):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from libraries([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, list | tuple):  # pytest.param is a tuple, too
        for item in value:
            yield from libraries(item)


def engines(module: str, name: str) -> str:
    """What the table must say of a test: the engines among its parameters."""
    if module in ONE_ENGINE:
        return ONE_ENGINE[module]
    test = getattr(importlib.import_module(f"tests.{module.replace('/', '.')}"), name)
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    names = inspect.signature(test).parameters
    found = set(libraries([mark.args[1] for mark in marks]))
    if not found and "lib" in names:
        found = set(LIBRARIES)
    if found == set(LIBRARIES):
        return "every"
    kernels = ["cpu", "cpu without Numba", "cuda"] if "kernel" in names else []
    order = ["eager", "cpu", "cpu without Numba", "xla", "cuda"]
    return ", ".join(sorted({*map(engine, found), *kernels}, key=order.index)) or "—"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.test)
def test_a_row_is_true(row: Row) -> None:
    module, name = row.test.split("::")
    docstring = docstrings(module)[name]
    defect = re.match(r"D\d+\b", docstring)
    assert row.defect == (defect[0] if defect else "")
    assert re.findall(r"[\w.-]+#\d+", docstring) == re.findall(r"[\w.-]+#\d+", row.met_in)
    try:
        assert row.engines == engines(module, name)
    except pytest.skip.Exception as missing:
        pytest.skip(f"that module: {missing}")


def test_every_test_of_a_defect_is_in_the_table_and_no_test_twice() -> None:
    named = [row.test for row in ROWS]
    assert len(set(named)) == len(named)
    assert {f"test_defects::{name}" for name in docstrings("test_defects")} <= set(named)


def test_every_defect_has_a_test_of_its_own() -> None:
    held = [row.defect for row in ROWS if row.test.startswith("test_defects::")]
    assert list(dict.fromkeys(held)) == [f"D{i}" for i in range(1, 26)]
    assert all(row.promise and len(row) == 5 for row in ROWS)
