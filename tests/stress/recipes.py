"""What is stepped: random trees of leaves, numbers for them, and the options of the optimizer.

Numbers are small multiples of 1/16 times a power of two, which every dtype holds exactly: so a
gradient is the same in whatever precision it is passed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

import numpy as np
import optree

from ..helpers.libraries import ALL, Lib

T = TypeVar("T")
Random = np.random.Generator
Options = dict[str, Any]

SHAPES = ((), (0,), (1,), (3, 0), (7,), (5, 3), (33,), (3, 1, 7), (13, 31), (1023,), (4099,))
#: As many as several threads share in one step of the CPU engine, and as many as wake them for it.
LARGE, LARGEST = (70_001,), (600_011,)


class Python(Lib):
    """Python floats, as if they were the arrays of a library."""

    def array(self, values: Any, dtype: str = "float64") -> Any:
        """A float."""
        return float(values)

    def check(self, x: Any, dtype: str, shape: tuple[int, ...]) -> None:
        """Only its type."""
        assert type(x) is float


PYTHON = Python("python", None, "cpu", ("float64",), in_place=False)
NUMPY = Lib("numpy", None, "cpu", ALL, in_place=True)
TORCH = Lib("torch", None, "cpu", ("bfloat16", *ALL), in_place=True)
#: JAX computes in 64 bits only where it is told to.
JAX = Lib("jax", None, "cpu", ("float16", "bfloat16", "float32", "complex64"), in_place=False)

LAYOUTS = {
    NUMPY: ("C", "C", "C", "F", "strided", "read-only"),
    TORCH: ("C", "C", "C", "F", "strided"),
}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf, and the dtype and layout of its gradients."""

    lib: Lib
    dtype: str
    shape: tuple[int, ...]
    layout: str
    gradient: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.lib}, {self.dtype}, {self.shape}, {self.layout}"

    @property
    def in_place(self) -> bool:
        """Whether a step writes it, so that it stays the same object."""
        return self.lib.in_place and self.layout != "read-only"

    def numbers(self, random: Random) -> Any:
        """Random numbers for a parameter or gradient."""
        parts = 2 if self.dtype.startswith("complex") else 1
        sixteenths = random.integers(-100, 101, (*self.shape, parts)) / 16
        x = sixteenths * 2.0 ** random.integers(-4, 4)
        return x.view(np.complex128)[..., 0] if parts == 2 else x[..., 0]

    def parameter(self, values: Any) -> Any:
        """A new array, or Python float, of these values."""
        return _array(self.lib, values, self.dtype, self.layout)

    def grad(self, values: Any) -> Any:
        """A new gradient of these values."""
        return _array(self.lib, values, *self.gradient)


def _array(lib: Lib, values: Any, dtype: str, layout: str) -> Any:
    if layout == "strided" and values.ndim:
        return lib.array(np.repeat(values, 2, -1), dtype)[..., ::2]
    if layout == "F":
        axes = tuple(range(values.ndim))
        return lib.module.moveaxis(lib.array(values.T.copy(), dtype), axes, axes[::-1])
    x = lib.array(values, dtype)
    if layout == "read-only":
        x.flags.writeable = False
    if lib is JAX:  # on a device by name, as what was loaded is: JAX would compile for either
        x = lib.module.device_put(x, lib.module.devices()[0])
    return x


class Recipe(NamedTuple):
    """A tree, and the optimizer over it."""

    spec: optree.PyTreeSpec
    leaves: tuple[Leaf, ...]
    options: Options
    engine: str | None = None
    nonfinite: str = "propagate"
    #: The leaves that have no gradient at times. Always the same, since JAX compiles anew for every
    #: other set of leaves.
    absent: range = range(0)


class Pair(NamedTuple):
    """A container of the user's own."""

    first: Any
    second: Any


def pick(random: Random, things: Sequence[T]) -> T:
    """One of these, as it is."""
    return things[int(random.integers(len(things)))]


def leaf(random: Random, lib: Lib) -> Leaf:
    """A random one; few are large."""
    layouts = LAYOUTS.get(lib, ("C",))
    dtype, layout = pick(random, lib.dtypes), pick(random, layouts)
    shape: tuple[int, ...] = () if lib is PYTHON else pick(random, SHAPES)
    if lib.in_place and random.random() < 0.01:
        shape = pick(random, (LARGE, LARGE, LARGE, LARGEST))
    gradient = dtype, layout
    if random.random() < 0.3:
        alike = [d for d in lib.dtypes if d.startswith("complex") == dtype.startswith("complex")]
        gradient = pick(random, alike), pick(random, layouts)
    return Leaf(lib, dtype, shape, layout, gradient)


def recipe(random: Random, libs: Sequence[Lib], options: Options) -> Recipe:
    """A random one, of leaves of these libraries."""
    spec = optree.tree_structure(_nest(random, int(random.integers(1, 9))))
    leaves = tuple(leaf(random, pick(random, libs)) for _ in range(spec.num_leaves))
    engine = "eager" if random.random() < 0.2 else None
    nonfinite = pick(random, ("propagate", "raise", "skip"))
    absent = range(int(random.integers(len(leaves))))  # never all
    return Recipe(spec, leaves, options, engine, nonfinite, absent)


def plain(options: Options) -> Recipe:
    """Small leaves, which need as many kernels as any other tree of these options."""
    pairs = [
        *((NUMPY, dtype, dtype) for dtype in ("float32", "float64", "float16")),
        (NUMPY, "float16", "float32"),
    ]
    if find_spec("torch"):
        pairs += [(TORCH, "bfloat16", dtype) for dtype in ("bfloat16", "float32")]
    leaves = tuple(Leaf(lib, dtype, (3,), "C", (other, "C")) for lib, dtype, other in pairs)
    spec = optree.tree_structure([0.0] * len(leaves))
    return Recipe(spec, leaves, options, nonfinite="skip")


def options(random: Random) -> Options:
    """Random ones."""
    decoupled = bool(random.integers(2))
    return {
        "betas": (pick(random, (0.0, 0.3, 0.9)), pick(random, (0.4, 0.99, 0.999))),
        "eps": pick(random, (1e-8, 1e-6)),
        # Less than cancels any gradient that is not 0: what is left of it would be but rounding.
        "weight_decay": pick(random, (0.0, 0.1 if decoupled else 1e-5)),
        "decoupled": decoupled,
        "amsgrad": bool(random.integers(2)),
        "maximize": bool(random.integers(2)),
    }


def _nest(random: Random, leaves: int) -> Any:
    if leaves == 1 and random.random() < 0.7:
        return 0.0
    cuts = np.sort(random.integers(0, leaves + 1, random.integers(0, 3)))
    sizes = np.diff([0, *cuts, leaves]).tolist()
    children = [_nest(random, size) if size else None for size in sizes]
    kind = pick(random, ("list", "tuple", "dict", "pair"))
    if kind == "dict":
        return {f"{random.integers(100)}-{i}": child for i, child in enumerate(children)}
    if kind == "pair" and len(children) == 2:
        return Pair(*children)
    return tuple(children) if kind == "tuple" else children
