"""One fixture, `xp`, over every library and engine; what is missing is skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import optree
import pytest
from hypothesis import settings

from adam_any import Optimizer

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
        help="fail, instead of skipping, where this library cannot be tested (repeatable)",
    )
    parser.addoption(
        "--full-faults",
        action="store_true",
        help="run tests/test_faults.py in full: hundreds of kills, ten thousands of damaged files",
    )


def pytest_configure(config: pytest.Config) -> None:
    required = set(config.getoption("--require-library"))
    unknown = required - {lib.name for lib in LIBRARIES}
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
        x = x.get()
    elif type(x).__module__.startswith("array_api_strict"):
        x = np.from_dlpack(x)
    return np.asarray(x).tobytes()
