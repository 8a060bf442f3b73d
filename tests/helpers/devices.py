"""Eight devices of JAX, on the CPU, and arrays laid out over them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

#: JAX fixes the number of its devices when it starts, so this is imported before it.
DEVICES = 8
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={DEVICES}")


def laid_out(axes: str) -> tuple[Any, Any, Any]:
    """Host arrays, and two ways to lay them out over a mesh."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh(
        (4, 2), ("a", "b"), axis_types=(getattr(AxisType, axes),) * 2, devices=jax.devices("cpu")
    )

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


def assert_laid_out(tree: Any, shardings: Any) -> None:
    for name, x in tree.items():
        assert x.sharding.is_equivalent_to(shardings[name], x.ndim), (name, x.sharding)
        assert x.sharding.mesh.axis_types == shardings[name].mesh.axis_types
