"""The array libraries under test: how to make and read their arrays, and what they can hold."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from adam_any.detect import dtype_name
from adam_any.engines import compiled

REAL = ("float32", "float64")
ALL = ("float16", "float32", "float64", "complex64", "complex128")
COMPUTE = {"float64": "float64", "complex128": "float64"}  # float32 for all others


@dataclass(frozen=True)
class Lib:
    """One library with the engine that it is run on (None: the package chooses)."""

    name: str
    engine: str | None
    device: str
    dtypes: tuple[str, ...]
    in_place: bool
    #: A step is slow here (lazy graphs), so long runs are shortened.
    slow: bool = False
    #: As if Numba were not installed.
    tiles: bool = False

    def __str__(self) -> str:
        parts = (self.name, self.device, self.engine, self.tiles and "tiles")
        return "-".join(filter(None, parts)).replace("-cpu", "")

    @property
    def runs(self) -> str:
        """The engine that steps its arrays of float32."""
        if self.engine is not None:
            return self.engine
        if self.device == "cuda":
            return "cuda"
        return {"numpy": "cpu", "torch": "cpu", "jax": "xla"}.get(self.name, "eager")

    @property
    def module(self) -> Any:
        return importlib.import_module({"dask": "dask.array"}.get(self.name, self.name))

    def array(self, values: Any, dtype: str = "float64") -> Any:
        """An array of this library that owns its memory."""
        if self.name == "torch":
            host = np.array(values)
            return self.module.tensor(host, dtype=getattr(self.module, dtype), device=self.device)
        if self.name == "dask":
            host = np.array(values, dtype=dtype)
            return self.module.from_array(host, chunks=tuple(max(1, n // 2) for n in host.shape))
        if self.name == "jax":
            return self.module.numpy.array(values, dtype=dtype)
        return self.module.asarray(np.array(values), dtype=getattr(self.module, dtype), copy=True)

    def numpy(self, x: Any) -> Any:
        """Its values, exactly, in float64 or complex128."""
        if self.name == "torch":
            x = x.detach().cpu()
            x = (x.to(self.module.complex128) if x.is_complex() else x.double()).numpy()
        elif self.name == "cupy":
            x = x.get()
        elif self.name == "dask":
            x = x.compute()
        elif self.name == "array_api_strict":
            x = np.from_dlpack(x)
        x = np.asarray(x)
        return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)

    def check(self, x: Any, dtype: str, shape: tuple[int, ...]) -> None:
        """Library, dtype, device and shape; before any values."""
        home = type(x).__module__.partition(".")[0].replace("jaxlib", "jax")
        assert home == self.name
        assert dtype_name(x.dtype) == dtype
        assert tuple(x.shape) == shape
        if self.name == "torch":
            assert x.device.type == self.device

    def eps(self, dtype: str) -> float:
        """The distance from 1 to the next number."""
        return EPS[dtype]


EPS = {
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
    "complex64": 2.0**-23,
    "float64": 2.0**-52,
    "complex128": 2.0**-52,
}


def tolerance(dtype: str, path: Any, lr: float) -> Any:
    """How far a parameter may lie from the oracle's after the steps of `path` (its values, step
    after step): 4 eps of the compute dtype a step, and one rounding a step to a narrower dtype,
    each of the largest of |p|, lr and the change of p (without a first moment it exceeds lr)."""
    moved = np.abs(np.diff(path, axis=0)).max(axis=0, initial=lr)
    size = np.maximum(np.max(np.abs(path), axis=0), moved)
    eps = 4 * EPS[COMPUTE.get(dtype, "float32")]
    if dtype in ("float16", "bfloat16"):
        eps += EPS[dtype]
    return max(len(path) - 1, 1) * eps * size


LIBRARIES = (
    Lib("numpy", None, "cpu", ALL, in_place=True),
    Lib("numpy", None, "cpu", ALL, in_place=True, tiles=True),
    Lib("numpy", "eager", "cpu", ALL, in_place=True),
    Lib("torch", None, "cpu", ("bfloat16", *ALL), in_place=True),
    Lib("torch", "eager", "cpu", ("bfloat16", *ALL), in_place=True),
    Lib("jax", None, "cpu", ("bfloat16", *ALL), in_place=False),
    Lib("jax", "eager", "cpu", ("bfloat16", *ALL), in_place=False, slow=True),
    Lib("dask", None, "cpu", ALL, in_place=False, slow=True),
    Lib("array_api_strict", None, "cpu", (*REAL, "complex64", "complex128"), in_place=True),
    Lib("cupy", None, "cuda", ALL, in_place=True),
    Lib("cupy", "eager", "cuda", ALL, in_place=True),
    Lib("torch", None, "cuda", ("bfloat16", *ALL), in_place=True),
)

INSTALL = {
    "cupy": "pip install cupy-cuda13x",
    "torch": "pip install torch",
    "jax": "pip install jax",
    "dask": "pip install 'dask[array]'",
}


def missing(lib: Lib) -> str | None:
    """Why a library cannot be tested here, and what would help; None if it can."""
    if importlib.util.find_spec(lib.name) is None:
        return f"{lib.name} is not installed: {INSTALL.get(lib.name, 'pip install ' + lib.name)}"
    if lib.name == "array_api_strict" and np.lib.NumpyVersion(np.__version__) < "2.1.0":
        return "array_api_strict cannot lend read-only memory before NumPy 2.1: use a newer NumPy"
    if lib.device == "cuda":
        cuda: Callable[[], bool] = importlib.import_module(f"{lib.name}.cuda").is_available
        if not cuda():
            return (
                f"{lib.name} finds no CUDA device: install an NVIDIA driver, or use a GPU machine"
            )
    return None


@contextlib.contextmanager
def ready(lib: Lib) -> Iterator[Lib]:
    """The library as a test needs it: JAX with 64-bit numbers, and Numba away where it says so."""
    with contextlib.ExitStack() as stack:
        if lib.name == "jax":
            stack.enter_context(lib.module.enable_x64(True))
        if lib.tiles:
            stack.enter_context(mock.patch.object(compiled, "missing", lambda: "not here"))
        yield lib
