"""One fixture, `lib`, over every library and engine; what is missing is skipped with its reason."""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from adam_any.engines.cpu import compiler as compiled
from tests.helpers import emulated
from tests.helpers.dense import KERNELS
from tests.helpers.devices import DEVICES
from tests.helpers.libraries import LIBRARIES, TOOLS, Lib, named, params, ready, require
from tests.helpers.promises import Collected

# Examples are derived from the test itself, so that a run can be repeated; timing decides nothing.
# CI asks for more of them: --hypothesis-profile=thorough
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=20)
settings.register_profile("thorough", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-library",
        action="append",
        default=[],
        metavar="NAME",
        help="fail, instead of skipping, where this library or tool is lacking (repeatable)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Collected(), "promises")
    required = set(config.getoption("--require-library"))
    unknown = required - {lib.name for lib in LIBRARIES} - set(TOOLS)
    if unknown:
        raise pytest.UsageError(f"--require-library: no library under test is named {unknown}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests ran, and why others did not: a line a library, not a line a test."""
    stats = terminalreporter.stats
    skipped: dict[str, Counter[str]] = defaultdict(Counter)
    for report in stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        skipped[reason.split()[0].lower()][reason] += 1
    ran = sum(len(stats.get(outcome, [])) for outcome in ("passed", "failed", "xfailed"))
    total = sum(reasons.total() for reasons in skipped.values())
    terminalreporter.section("what was tested", sep="-")
    terminalreporter.line(f"{ran} tests ran, {total} were skipped")
    for reasons in sorted(skipped.values(), key=Counter.total, reverse=True):
        (reason, _), *others = reasons.most_common()
        more = f" (and {len(others)} more reasons)" if others else ""
        terminalreporter.line(f"{reasons.total():6} {reason}{more}")


@pytest.fixture
def emulation(request: pytest.FixtureRequest) -> Iterator[type[emulated.Device]]:
    """CuPy arrays in the host's memory, stepped by the CUDA engine on the CPU."""
    require(request.config, named("cupy-emulated"))
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


@pytest.fixture(params=params(KERNELS))
def kernel(request: pytest.FixtureRequest) -> Iterator[Lib]:
    """A library with an engine for dense memory, ready to use."""
    require(request.config, request.param)
    with ready(request.param) as kernel:
        yield kernel


@pytest.fixture
def torch_(request: pytest.FixtureRequest) -> Any:
    require(request.config, named("torch"))
    return importlib.import_module("torch")


@pytest.fixture
def jax(request: pytest.FixtureRequest) -> Any:
    require(request.config, named("jax"))
    jax = importlib.import_module("jax")
    assert len(jax.devices("cpu")) == DEVICES
    return jax


@pytest.fixture
def numba() -> None:
    if compiled.missing() is not None:
        pytest.skip(str(compiled.missing()))
