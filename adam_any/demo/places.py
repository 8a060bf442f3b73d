"""The array libraries that can be used here; for each of the others, why not and what to do.

Each library is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..adam import Adam
from ..engines import Explanation

#: The array-API namespace of each library, and how to install it.
LIBRARIES = {
    "numpy": ("array_api_compat.numpy", "pip install numpy"),
    "cupy": ("array_api_compat.cupy", "pip install 'adam-any[cuda13]' (or cuda12)"),
    "torch": ("array_api_compat.torch", "pip install torch"),
    "jax": ("jax.numpy", "pip install jax"),
    "dask": ("array_api_compat.dask.array", "pip install 'dask[array]'"),
    "array_api_strict": ("array_api_strict", "pip install array-api-strict"),
}


class UnusableError(Exception):
    """Something that is needed is missing; the message says what, and what to do about it."""


@dataclass(frozen=True)
class Place:
    """A library and one of its devices; `device` is None for the default one."""

    library: str
    version: str
    where: str
    device: Any = None

    @property
    def label(self) -> str:
        """The name to show: the library, with the device unless that is the CPU."""
        return self.library if self.where == "cpu" else f"{self.library} {self.where}"

    def array(self, values: Any, dtype: str) -> Any:
        """Make an array with these values."""
        xp: Any = import_module(LIBRARIES[self.library][0])
        return xp.asarray(values, dtype=getattr(xp, dtype), device=self.device, copy=True)

    def explain(self) -> Explanation:
        """Explain the engine that a small array gets here."""
        return Adam(self.array([0.0, 0.0, 0.0], "float32")).explain()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, compiled if the library is JAX."""
        return import_module("jax").jit(function) if self.library == "jax" else function

    def wait(self, array: Any) -> None:
        """Wait until `array` has been computed: JAX and the GPU libraries only queue the work."""
        if self.library == "jax":
            array.block_until_ready()
        elif self.library == "cupy":
            array.device.synchronize()
        elif self.library == "torch" and array.is_cuda:
            import_module("torch").cuda.synchronize(array.device)


def places(library: str) -> list[Place]:
    """List the devices that a library can use, a GPU last; without any, raise UnusableError."""
    remedy = LIBRARIES[library][1]
    try:
        return _places(library, import_module(library))
    except UnusableError:
        raise
    except Exception as error:  # a broken installation may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == library:
            raise UnusableError(f"{library} is not installed; to use it: {remedy}") from None
        raise UnusableError(
            f"{library} is installed, but importing it fails with {type(error).__name__} "
            f"({first_line(error)}); to install it again: {remedy}"
        ) from None


def _places(library: str, module: Any) -> list[Place]:
    version = module.__version__
    if library == "cupy":
        return [Place(library, version, _cuda_device(module))]
    if library == "jax" and (first := module.devices()[0]).platform != "cpu":
        return [Place(library, version, f"{first.platform}:{first.id}")]
    cpu = Place(library, version, "cpu")
    if library == "torch" and module.cuda.is_available():
        return [cpu, Place(library, version, "cuda:0", module.device("cuda:0"))]
    return [cpu]


def survey() -> tuple[list[Place], list[str]]:
    """List every place found, and a sentence for each library that cannot be used."""
    found, unusable = [], []
    for library in LIBRARIES:
        try:
            found += places(library)
        except UnusableError as reason:
            unusable.append(str(reason))
    return found, unusable


def _cuda_device(cupy: Any) -> str:
    """Name CuPy's current device; without a GPU, CuPy can be imported but makes no arrays."""
    if not cupy.cuda.is_available():
        try:
            cupy.cuda.runtime.getDeviceCount()
            why = "CUDA reports 0 devices"
        except cupy.cuda.runtime.CUDARuntimeError as error:
            why = first_line(error)
        raise UnusableError(
            f"cupy {cupy.__version__} is installed, but finds no CUDA device ({why}); it needs an "
            "NVIDIA GPU and a driver for its CUDA version, which nvidia-smi shows; for CUDA 12: "
            "pip install 'adam-any[cuda12]'"
        )
    return f"cuda:{cupy.cuda.runtime.getDevice()}"


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message."""
    return next(iter(str(error).splitlines()), "no message")
