"""Leaves of several libraries, dtypes, shapes and layouts, and gradients for them.

Values are small multiples of 1/16, which every dtype holds exactly, times a power of two. So a
gradient is the same numbers in whatever precision it is passed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Random = np.random.Generator
Numbers = NDArray[Any]

#: The dtypes of each library's leaves. JAX computes in 64 bits only where it is told to.
DTYPES = {
    "python": ("float64",),
    "numpy": ("float16", "float32", "float64", "complex64", "complex128"),
    "torch": ("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    "jax": ("float16", "bfloat16", "float32", "complex64"),
}
LAYOUTS = {
    "numpy": ("C", "C", "C", "F", "strided", "read-only"),
    "torch": ("C", "C", "C", "F", "strided"),
}
SHAPES = ((), (0,), (1,), (3, 0), (7,), (5, 3), (33,), (3, 1, 7), (13, 31), (1023,), (4099,))
#: As many as several threads share in one step of the CPU engine, and as many as wake them for it.
LARGE, LARGEST = (70_001,), (600_011,)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf, and the dtype and layout that its gradients have."""

    library: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    gradient: tuple[str, str]

    @property
    def in_place(self) -> bool:
        """Whether a step writes it, so that it stays the same object."""
        return self.library in ("numpy", "torch") and self.layout != "read-only"

    def parameter(self, values: Numbers) -> Any:
        """A new array, or a Python float, of these values."""
        return _new(self.library, values, self.dtype, self.layout)

    def grad(self, values: Numbers) -> Any:
        """A new gradient of these values."""
        return _new(self.library, values, *self.gradient)

    def values(self, random: Random) -> Numbers:
        """Numbers that a parameter or gradient may hold."""
        parts = 2 if self.dtype.startswith("complex") else 1
        sixteenths = random.integers(-100, 101, (*self.shape, parts)).astype(np.float64)
        x = sixteenths * 2.0 ** random.integers(-8, 0)
        return x.view(np.complex128)[..., 0] if parts == 2 else x[..., 0]


def pick(random: Random, things: Sequence[T]) -> T:
    """One of these, as it is."""
    return things[int(random.integers(len(things)))]


def leaf(random: Random, library: str) -> Leaf:
    """A random one; few are large."""
    dtypes, layouts = DTYPES[library], LAYOUTS.get(library, ("C",))
    dtype, layout = pick(random, dtypes), pick(random, layouts)
    shape: tuple[int, ...] = () if library == "python" else pick(random, SHAPES)
    if library in LAYOUTS and random.random() < 0.01:
        shape = pick(random, (LARGE, LARGE, LARGE, LARGEST))
    gradient = dtype, layout
    if random.random() < 0.3:
        alike = [d for d in dtypes if d.startswith("complex") == dtype.startswith("complex")]
        gradient = pick(random, alike), pick(random, layouts)
    return Leaf(library, dtype, shape, layout, gradient)


def host(x: Any) -> Numbers:
    """The numbers of a leaf, exactly, in the host's memory; bfloat16's as float32."""
    if hasattr(x, "detach"):
        x = x.detach()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    a: Numbers = np.asarray(x)
    return a.astype(np.float32) if a.dtype.name == "bfloat16" else a


def reals(x: Any) -> Numbers:
    """The numbers of an array in a row, real and imaginary parts as two."""
    row = np.array(x).reshape(-1)
    return row.view(row.real.dtype)


def _new(library: str, values: Numbers, dtype: str, layout: str) -> Any:
    order: Any = "F" if layout == "F" else "C"
    if library == "python":
        return float(values)
    if library == "jax":
        jax = import_module("jax")
        # On a device by name, as what has been loaded is: JAX would compile for either.
        return jax.device_put(jax.numpy.array(values, dtype=dtype), jax.devices()[0])
    if library == "torch":
        torch = import_module("torch")
        held = torch.from_numpy(np.array(values, order=order))
        x = held.to(getattr(torch, dtype), copy=True)
        apart = layout == "strided" and x.ndim
        return x.repeat_interleave(2, -1)[..., ::2] if apart else x
    a = values.astype(dtype, order=order)
    if layout == "strided" and a.ndim:
        a = np.repeat(a, 2, axis=-1)[..., ::2]
    a.flags.writeable = layout != "read-only"
    return a
