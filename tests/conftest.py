"""One fixture, `xp`, over every library and engine; what is missing is skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import optree
import pytest
from hypothesis import settings

from adam_any import Optimizer
from adam_any.engines import nvrtc
from adam_any.libraries import row

from . import emulated
from .libraries import LIBRARIES, Lib, missing, ready

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
        help="run tests/test_faults.py in full: hundreds of kills, ten thousands of damaged files",
    )


def pytest_configure(config: pytest.Config) -> None:
    required = set(config.getoption("--require-library"))
    unknown = required - {lib.name for lib in LIBRARIES} - set(TOOLS)
    if unknown:
        raise pytest.UsageError(f"--require-library: no library under test is named {unknown}")


def require(config: pytest.Config, lib: Lib) -> None:
    """Skip the test, or fail it where the library is required, unless it can be tested."""
    reason = missing(lib)
    if reason is not None:
        # A library may be required without a GPU: then its CUDA tests still skip.
        required = lib.name in config.getoption("--require-library")
        if required and not (lib.device == "cuda" and lib.name == "torch"):
            pytest.fail(f"required: {reason}", pytrace=False)
        pytest.skip(reason)


#: What proves the CUDA engine without a GPU, and why it is lacking: a compiler, and a way to run.
TOOLS = {"nvrtc": nvrtc.missing, "emulated": emulated.missing}


def tool(config: pytest.Config, name: str) -> None:
    """Skip the test, or fail it where the tool is required, unless it is there."""
    reason = TOOLS[name]()
    if reason is not None:
        if name in config.getoption("--require-library"):
            pytest.fail(f"required: {reason}", pytrace=False)
        pytest.skip(f"{reason}; it needs pip install -e '.[cuda13]', and g++, but no GPU")


@pytest.fixture
def emulation(request: pytest.FixtureRequest) -> Iterator[type[emulated.Device]]:
    """CuPy arrays in the host's memory, stepped by the CUDA engine on the CPU."""
    tool(request.config, "emulated")
    with emulated.emulated() as made:
        yield made


def params(libraries: tuple[Lib, ...] = LIBRARIES) -> list[Any]:
    """The libraries as parameters of a test; those on a GPU are marked."""
    return [
        pytest.param(lib, id=str(lib), marks=[pytest.mark.cuda] if lib.device == "cuda" else [])
        for lib in libraries
    ]


@pytest.fixture(params=params())
def xp(request: pytest.FixtureRequest) -> Iterator[Lib]:
    """A library and engine, ready to use."""
    require(request.config, request.param)
    with ready(request.param) as lib:
        yield lib


@pytest.fixture
def torch_() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch")


def snapshot(opt: Optimizer) -> dict[str, Any]:
    """All that a failed call must leave alone: parameters, moments, step counts, as bytes."""
    leaves = optree.tree_leaves(opt.params)
    seen: dict[str, Any] = {f"params {i}": as_bytes(x) for i, x in enumerate(leaves)}
    for path, entry in opt.state_dict()["state"].items():
        for name, value in entry.items():
            seen[f"{path} {name}"] = value if name == "step" else as_bytes(value)
    return seen


def as_bytes(x: Any) -> bytes:
    """The bytes of an array of any library, or of a Python float."""
    if hasattr(x, "detach"):
        x = x.detach().cpu().resolve_conj()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    elif hasattr(x, "compute"):
        x = x.compute()
    elif type(x).__module__.startswith("cupy"):
        x = row("cupy").to_host(x)
    elif type(x).__module__.startswith("array_api_strict"):
        x = np.from_dlpack(x)
    return np.asarray(x).tobytes()
