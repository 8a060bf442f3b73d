"""The detector: array -> library, array -> Backend.

- The library is found from the class of the array alone, once per class.
- No library is ever imported to find out: an array's class exists, so its library is loaded.
- What is not an array of a known library, nor of one that speaks the array API, is None: never
  "NumPy otherwise".
- What is known of a library is in its module in `libraries`, which is loaded with its first array.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from .dtypes import DTYPES, DType

if TYPE_CHECKING:
    from .libraries import Library

#: For each library the module to look for in sys.modules, and the classes in it that are arrays;
#: none for a library whose arrays say themselves that they are. What else is known of a library is
#: the object LIBRARY of the module `libraries.<name>`.
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "python": ("builtins", ()),  # its floats, of which NumPy's float64 is a subclass
    "numpy": ("numpy", ("ndarray", "generic")),
    "cupy": ("cupy", ("ndarray",)),
    "dtensor": ("torch.distributed.tensor", ("DTensor",)),  # which are Tensors, too
    "torch": ("torch", ("Tensor",)),
    "jax": ("jax", ("Array",)),
    "dask": ("dask.array", ("Array",)),
    "array_api_strict": ("array_api_strict", ()),
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
    def facts(self) -> DType:
        """The row of its dtype, which has been accepted."""
        return DTYPES[self.dtype]

    @property
    def compute(self) -> str:
        """The dtype of its moments and of the computation."""
        return self.facts.compute


def library(x: Any) -> Library | None:
    """The library of the array or Python float `x`, None if it is neither."""
    name = _name(cast(Hashable, type(x)))
    return None if name is None else load(name)


@cache
def load(name: str) -> Library:
    """The library of this name; for one that is not known, the array API's own way."""
    if name in CLASSES:
        return cast("Library", import_module(f".libraries.{name}", __package__).LIBRARY)
    return cast("Library", import_module(".libraries", __package__).Library(name))


@cache
def _name(cls: Hashable) -> str | None:
    assert isinstance(cls, type)
    for name, (module, classes) in CLASSES.items():
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
    """Return whether `x` stands for a JAX array inside a transformation, and has no values yet."""
    return _is_tracer(cast(Hashable, type(x)))


@cache
def _is_tracer(cls: Hashable) -> bool:
    core = sys.modules.get("jax.core")
    return core is not None and isinstance(cls, type) and issubclass(cls, core.Tracer)


def backend(x: Any) -> Backend | None:
    """The facts about the array or Python float `x`, None if it is neither."""
    found = library(x)
    if found is None:
        return None
    return Backend(found.name, found.device(x), found.dtype(x), found.writable(x))
