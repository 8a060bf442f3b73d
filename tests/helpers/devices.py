"""Processes in which JAX has several devices."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np

from . import ROOT

DEVICES = 8


def python(devices: int, *arguments: str) -> subprocess.Popen[str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    here = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, **here},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def succeed(*processes: subprocess.Popen[str]) -> None:
    errors = [process.communicate()[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)


def laid_out(axes: str) -> tuple[Any, Any, Any]:
    """Host arrays, and two ways to lay them out over a mesh."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(getattr(AxisType, axes),) * 2)

    def over(*names: str | None) -> Any:
        return NamedSharding(mesh, PartitionSpec(*names))

    rng = np.random.default_rng(0)
    host = {
        "w": rng.normal(size=(8, 6)).astype("float32"),
        "h": rng.normal(size=(16,)).astype("float16"),
        "z": (rng.normal(size=(8, 2)) + 1j * rng.normal(size=(8, 2))).astype("complex64"),
        "b": rng.normal(size=(6,)).astype("float32"),
        "e": np.zeros((0, 8), "float32"),
    }
    one = {"w": over("a", "b"), "h": over(("a", "b")), "z": over("b"), "b": over(), "e": over()}
    other = {"w": over("b"), "h": over("a"), "z": over(None, "b"), "b": over("b"), "e": over()}
    return host, one, other
