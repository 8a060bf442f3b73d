"""One fixture, `lib`, over every library and engine; what is missing is skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.helpers import emulated
from tests.helpers.libraries import LIBRARIES, TOOLS, Lib, params, ready, require, tool
from tests.helpers.promises import Collected

# Seeded by the test itself, so that a run can be repeated; timing decides nothing.
settings.register_profile("adam_any", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("adam_any")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-library",
        action="append",
        default=[],
        metavar="NAME",
        help="fail, instead of skipping, where this library or tool is lacking (repeatable)",
    )
    parser.addoption(
        "--full-faults",
        action="store_true",
        help="run state/test_faults.py in full: hundreds of kills, ten thousands of damaged files",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Collected(), "promises")
    required = set(config.getoption("--require-library"))
    unknown = required - {lib.name for lib in LIBRARIES} - set(TOOLS)
    if unknown:
        raise pytest.UsageError(f"--require-library: no library under test is named {unknown}")


@pytest.fixture
def emulation(request: pytest.FixtureRequest) -> Iterator[type[emulated.Device]]:
    """CuPy arrays in the host's memory, stepped by the CUDA engine on the CPU."""
    tool(request.config, "emulated")
    with emulated.emulated() as made:
        yield made


@pytest.fixture(params=params())
def lib(request: pytest.FixtureRequest) -> Iterator[Lib]:
    """A library and engine, ready to use."""
    require(request.config, request.param)
    for mark in request.node.iter_markers("uses"):
        for what in set(mark.args) & set(request.param.lacks):
            pytest.skip(f"{request.param} has no {what} without a GPU")
    with ready(request.param) as lib:
        yield lib


@pytest.fixture
def torch_() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch")
