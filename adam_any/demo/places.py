"""The array libraries that can be used here, and for the others the reason and the remedy.

Each library is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..adam import Adam
from ..engines import Explanation

#: Each library's array-API namespace, and what to install for it.
LIBRARIES = {
    "numpy": ("array_api_compat.numpy", "pip install numpy"),
    "cupy": ("array_api_compat.cupy", "pip install cupy-cuda13x, and an NVIDIA driver"),
    "torch": ("array_api_compat.torch", "pip install torch"),
    "jax": ("jax.numpy", "pip install jax"),
    "dask": ("array_api_compat.dask.array", 'pip install "dask[array]"'),
    "array_api_strict": ("array_api_strict", "pip install array-api-strict"),
}


class UnusableError(Exception):
    """Something that was asked for is missing; the message says what, and how to mend it."""


@dataclass(frozen=True)
class Place:
    """A library on one of its devices; `device` is None for the one where it begins."""

    library: str
    version: str
    where: str
    device: Any = None

    @property
    def label(self) -> str:
        """A name for people: the library, with the device if that is not the CPU."""
        return self.library if self.where == "cpu" else f"{self.library} {self.where}"

    def array(self, values: Any, dtype: str) -> Any:
        """A new array with these values."""
        xp: Any = import_module(LIBRARIES[self.library][0])
        return xp.asarray(values, dtype=getattr(xp, dtype), device=self.device, copy=True)

    def explain(self) -> Explanation:
        """The engine that a small array gets here, and why."""
        return Adam(self.array([0.0, 0.0, 0.0], "float32")).explain()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, made fast where the library has a way to, which is JAX's."""
        return import_module("jax").jit(function) if self.library == "jax" else function

    def wait(self, array: Any) -> None:
        """Return when `array` has been computed: JAX and the GPU libraries only queue the work."""
        if self.library == "jax":
            array.block_until_ready()
        elif self.library == "cupy":
            array.device.synchronize()
        elif self.library == "torch" and array.is_cuda:
            import_module("torch").cuda.synchronize(array.device)


def places(library: str) -> list[Place]:
    """Where a library can compute, its GPU last. Raises UnusableError where it cannot at all."""
    remedy = LIBRARIES[library][1]
    try:
        return _places(library, import_module(library))
    except UnusableError:
        raise
    except Exception as error:  # a broken installation may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == library:
            raise UnusableError(f"{library} is not installed; to use it: {remedy}") from None
        raise UnusableError(
            f"{library} is installed, but fails to start with {type(error).__name__} "
            f"({first_line(error)}); to install it anew: {remedy}"
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
    """Every place found, and for each library that cannot be used the reason and the remedy."""
    found, unusable = [], []
    for library in LIBRARIES:
        try:
            found += places(library)
        except UnusableError as reason:
            unusable.append(str(reason))
    return found, unusable


def _cuda_device(cupy: Any) -> str:
    """CuPy's current device; without any, CuPy is imported all the same, and fails later."""
    if not cupy.cuda.is_available():
        try:
            cupy.cuda.runtime.getDeviceCount()
            why = "CUDA counts no device"
        except cupy.cuda.runtime.CUDARuntimeError as error:
            why = first_line(error)
        raise UnusableError(
            f"cupy {cupy.__version__} is installed, but finds no CUDA device ({why}); to use it: "
            "an NVIDIA GPU, and a driver that is new enough (nvidia-smi shows both)"
        )
    return f"cuda:{cupy.cuda.runtime.getDevice()}"


def first_line(error: Exception) -> str:
    """What an exception says, as far as it fits into a sentence."""
    return next(iter(str(error).splitlines()), "no message")
