"""The detector: array -> Backend.

- The library is found from the class of the array alone, once per class.
- No library is ever imported to find out: an array's class exists, so its library is loaded.
- What is not an array of a known library, nor of one that speaks the array API, is None: never
  "NumPy otherwise".
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

#: The module to look for in sys.modules, and the classes in it that are its arrays.
_CLASSES = {
    "numpy": ("numpy", ("ndarray", "generic")),
    "cupy": ("cupy", ("ndarray",)),
    "torch": ("torch", ("Tensor",)),
    "jax": ("jax", ("Array",)),
    "dask": ("dask.array", ("Array",)),
}


@dataclass(frozen=True, slots=True)
class Backend:
    """The facts about an array. `device` compares and hashes; `str` of it is for people.

    It is None for a tracer, which has no device yet.
    """

    library: str
    device: Any
    dtype: str
    writable: bool

    @property
    def compute(self) -> str:
        """The dtype of moments and arithmetic: float64 for float64 and complex128, else float32."""
        return "float64" if self.dtype in ("float64", "complex128") else "float32"

    @property
    def complex(self) -> bool:
        """Whether it is updated as pairs of real numbers."""
        return self.dtype.startswith("complex")


def library(x: Any) -> str | None:
    """The name of the library of `x`: "python" for a float, None if it is no array."""
    return _library(cast(Hashable, type(x)))


@cache
def _library(cls: Hashable) -> str | None:
    assert isinstance(cls, type)
    for name, (module, classes) in _CLASSES.items():
        loaded = sys.modules.get(module)
        if loaded is not None and issubclass(cls, tuple(getattr(loaded, c) for c in classes)):
            return name
    if _is_tracer(cls):
        return "jax"
    if cls is float:
        return "python"
    if hasattr(cls, "__array_namespace__"):
        return cls.__module__.partition(".")[0]
    return None


def is_tracer(x: Any) -> bool:
    """Whether `x` stands for a JAX array inside a transformation, and has no values yet."""
    return _is_tracer(cast(Hashable, type(x)))


@cache
def _is_tracer(cls: Hashable) -> bool:
    core = sys.modules.get("jax.core")
    return core is not None and isinstance(cls, type) and issubclass(cls, core.Tracer)


def backend(x: Any) -> Backend | None:
    """The facts about the array or Python float `x`, None if it is neither."""
    name = library(x)
    if name is None:
        return None
    if name == "python":
        return Backend(name, "cpu", "float64", False)
    return Backend(name, _device(name, x), dtype_name(x.dtype), _writable(name, x))


def dtype_name(dtype: Any) -> str:
    """The name that the array API gives a dtype, from any library's dtype object."""
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def _device(name: str, x: Any) -> Any:
    if name in ("numpy", "dask"):
        return "cpu"
    if name == "cupy":
        return f"cuda:{x.device.id}"
    if name == "jax":
        # The set of devices, not the sharding: a gradient may be laid out differently. From the
        # sharding, which a donated array still has.
        return None if is_tracer(x) else Devices(x.sharding.device_set)
    if name == "array_api_strict":
        return str(x.device).split("'")[-2]  # Device('CPU_DEVICE')
    return x.device


class Devices(frozenset[Any]):
    """The devices that a JAX array lies on."""

    __slots__ = ()

    def __str__(self) -> str:
        names = sorted(map(str, self))
        return names[0] if len(names) == 1 else f"{len(names)} devices, {names[0]} and on"


def jax_has_64_bits() -> bool:
    """Whether JAX computes in 64 bits here; otherwise it turns float64 into float32 silently."""
    return bool(sys.modules["jax"].config.jax_enable_x64)


def _writable(name: str, x: Any) -> bool:
    if name == "numpy":
        return isinstance(x, sys.modules["numpy"].ndarray) and bool(x.flags.writeable)
    if name == "torch":
        # Outside inference mode torch refuses to write into a tensor made inside it.
        return not x.is_inference() or sys.modules["torch"].is_inference_mode_enabled()
    return name in ("cupy", "array_api_strict")
