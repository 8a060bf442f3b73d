"""The array libraries under test: how to make and read their arrays, and what they can hold."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest

from adam_any.dtypes import name_of as dtype_name
from adam_any.engines.cpu import compiler as compiled

from . import emulated

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
    #: What its arrays cannot do; a test that is marked `uses` it is skipped.
    lacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (self.name, self.device, self.engine, self.tiles and "tiles")
        return "-".join(filter(None, parts)).replace("-cpu", "")

    @property
    def runs(self) -> str:
        """The engine that steps its arrays of float32."""
        if self.engine is not None:
            return self.engine
        if self.device in ("cuda", "emulated"):
            return "cuda"
        return {"numpy": "cpu", "torch": "cpu", "jax": "xla"}.get(self.name, "eager")

    @property
    def tool(self) -> str:
        """What --require-library calls it."""
        return "emulated" if self.device == "emulated" else self.name

    @property
    def module(self) -> Any:
        return importlib.import_module({"dask": "dask.array"}.get(self.name, self.name))

    def array(self, values: Any, dtype: str = "float64") -> Any:
        """An array of this library that owns its memory."""
        if self.name == "torch":
            device = self.device.replace("emulated", "cpu")
            kind = getattr(self.module, dtype)
            return self.module.tensor(np.array(values), dtype=kind, device=device)
        if self.device == "emulated":
            return emulated.array(np.array(values, dtype))
        if self.name == "dask":
            host = np.array(values, dtype=dtype)
            return self.module.from_array(host, chunks=tuple(max(1, n // 2) for n in host.shape))
        if self.name == "jax":
            return self.module.numpy.array(values, dtype=dtype)
        if dtype == "bfloat16":
            return np.array(values).astype(importlib.import_module("ml_dtypes").bfloat16)
        return self.module.asarray(np.array(values), dtype=getattr(self.module, dtype), copy=True)

    def numpy(self, x: Any) -> Any:
        """Its values, exactly, in float64 or complex128."""
        if self.device == "emulated":
            x = emulated.numpy(x)
        elif self.name == "torch":
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

    def view(self, host: Any) -> Any:
        """An array of the numbers of a NumPy array, in its order; on the host, in its memory."""
        if self.name == "torch":
            if not host.flags.writeable or min(host.strides, default=0) < 0:
                host = host.copy(order="K")
            half = host.dtype.name == "bfloat16"
            x = self.module.from_numpy(host.view(np.uint16) if half else host)
            x = x.view(self.module.bfloat16) if half else x
            return x.cuda() if self.device == "cuda" else x
        if self.name == "cupy":
            return emulated.array(host) if self.device == "emulated" else self.module.asarray(host)
        return host

    def bits(self, x: Any) -> Any:
        """Its numbers in NumPy, to the bit; bfloat16 as float32."""
        if self.name == "torch":
            x = x.detach().cpu()
            return (x.float() if x.dtype == self.module.bfloat16 else x).numpy()
        if self.name == "cupy":
            x = emulated.numpy(x) if self.device == "emulated" else x.get()
        return x.astype(np.float32) if x.dtype.name == "bfloat16" else x

    def check(self, x: Any, dtype: str, shape: tuple[int, ...]) -> None:
        """Library, dtype, device and shape; before any values."""
        home = type(x).__module__.partition(".")[0].replace("jaxlib", "jax")
        assert home == self.name
        assert dtype_name(x.dtype) == dtype
        assert tuple(x.shape) == shape
        if self.name == "torch":
            assert x.device.type == self.device


#: The distance from 1 to the next number.
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


#: What NumPy has, with a bfloat16 that ml_dtypes lends it.
NUMPY = (*(["bfloat16"] if importlib.util.find_spec("ml_dtypes") else []), *ALL)

LIBRARIES = (
    Lib("numpy", None, "cpu", NUMPY, in_place=True),
    Lib("numpy", None, "cpu", NUMPY, in_place=True, tiles=True),
    Lib("numpy", "eager", "cpu", NUMPY, in_place=True),
    Lib("torch", None, "cpu", ("bfloat16", *ALL), in_place=True),
    Lib("torch", "eager", "cpu", ("bfloat16", *ALL), in_place=True),
    Lib("jax", None, "cpu", ("bfloat16", *ALL), in_place=False),
    Lib("jax", "eager", "cpu", ("bfloat16", *ALL), in_place=False, slow=True),
    Lib("dask", None, "cpu", ALL, in_place=False, slow=True),
    Lib("array_api_strict", None, "cpu", (*REAL, "complex64", "complex128"), in_place=True),
    Lib("cupy", None, "cuda", ALL, in_place=True),
    Lib("cupy", "eager", "cuda", ALL, in_place=True),
    Lib("torch", None, "cuda", ("bfloat16", *ALL), in_place=True),
    Lib(*("cupy", None, "emulated", ALL), in_place=True, lacks=("operators", "DLPack")),
)

INSTALL = {
    "cupy": "pip install cupy-cuda13x",
    "torch": "pip install torch",
    "jax": "pip install jax",
    "dask": "pip install 'dask[array]'",
}


def missing(lib: Lib) -> str | None:
    """Why a library cannot be tested here, and what would help; None if it can."""
    if lib.device == "emulated" and (reason := emulated.missing()) is not None:
        return f"{reason}: pip install -e '.[cuda13]', and g++; it needs no GPU"
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


#: What may be required besides: the compiler of CUDA, and what runs its text on the CPU.
TOOLS = ("nvrtc", "emulated")


def require(config: pytest.Config, lib: Lib) -> None:
    """Skip the test, or fail it where the library is required, unless it can be tested."""
    reason = missing(lib)
    if reason is not None:
        # A library may be required without a GPU: then its CUDA tests still skip.
        required = lib.tool in config.getoption("--require-library")
        if required and not (lib.device == "cuda" and lib.name == "torch"):
            pytest.fail(f"required: {reason}", pytrace=False)
        pytest.skip(reason)


def params(libraries: tuple[Lib, ...] = LIBRARIES) -> list[Any]:
    """The libraries as parameters of a test; those on a GPU are marked."""
    return [
        pytest.param(lib, id=str(lib), marks=[pytest.mark.cuda] if lib.device == "cuda" else [])
        for lib in libraries
    ]


def on(libraries: Iterable[Lib]) -> Any:
    """Run a test on these libraries, instead of on all."""
    return pytest.mark.parametrize("lib", params(tuple(libraries)), indirect=True)


def named(name: str) -> Lib:
    """The library that is shown as `name`."""
    return next(lib for lib in LIBRARIES if str(lib) == name)


@contextlib.contextmanager
def ready(lib: Lib) -> Iterator[Lib]:
    """The library as a test needs it: JAX with 64-bit numbers, Numba away, CUDA emulated."""
    with contextlib.ExitStack() as stack:
        if lib.name == "jax":
            stack.enter_context(lib.module.enable_x64(True))
        if lib.device == "emulated":
            stack.enter_context(emulated.emulated(lib.name))
        if lib.tiles:
            stack.enter_context(mock.patch.object(compiled, "missing", lambda: "not here"))
        yield lib
