"""What the CUDA engine asks of a device: streams, tables, kernels; and of the arrays on it.

- CuPy is the way to the driver, for torch's tensors too: it loads machine code, launches it, and
  its memory pool holds the tables. Only what it exports is used.
- A launch goes to the stream on which the arrays' own library would work: CuPy's current stream of
  that device, or torch's.
- CuPy's arrays have a class with the methods that `host` describes; torch's tensors have the same
  one as on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from . import nvrtc
from .base import Leaf
from .cuda_source import NAME
from .host import Torch
from .plan import alike, real_size


@cache
def missing() -> str | None:
    """Why no kernel can be compiled or launched, or None."""
    install = "for one launch install the extra cuda13, or cuda12"
    try:
        cupy = _cupy()
    except Exception as error:  # a broken installation may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return f"cupy is not installed; {install}"
        return f"cupy cannot be imported: {error}"
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"cupy finds no CUDA device: {error}"
    lacking = nvrtc.missing()
    return lacking and f"{lacking}; {install}"


def number(leaf: Leaf) -> int:
    """The number of the device on which a leaf lies."""
    x = leaf.array
    return int(x.device.index if leaf.backend.library == "torch" else x.data.device_id)


@cache
def architecture(device: int) -> int | None:
    """What to compile for, so that a device can run it; None where NVRTC is too new or too old."""
    capability: str = _cupy().cuda.Device(device).compute_capability
    return nvrtc.architecture((int(capability[:-1]), int(capability[-1])))


class Device:
    """One device, and the library whose arrays are worked on."""

    def __init__(self, library: str, number: int) -> None:
        self._library, self._number = library, number
        self._foreign: Any = None
        self.here = _cupy().cuda.Device(number)

    def stream(self) -> Any:
        """The stream on which the library works there now, as CuPy's object."""
        if self._library == "cupy":
            return _cupy().cuda.get_current_stream(self._number)
        pointer = import_module("torch").cuda.current_stream(self._number).cuda_stream
        if self._foreign is None or self._foreign.ptr != pointer:
            self._foreign = foreign(pointer)
        return self._foreign

    def upload(self, arrays: Sequence[Any], stream: Any) -> list[Any]:
        """The same numbers in memory that belongs to the stream: what it does, it does in order."""
        with self.here, stream:
            return [_cupy().asarray(x) for x in arrays]

    def settle(self) -> None:
        """Wait until all that has been asked of the device is done."""
        self.here.synchronize()

    def kernel(self, text: str) -> Callable[..., None]:
        """The kernel of a text, compiled and loaded: kernel(grid, block, arguments, stream=...)."""
        found = architecture(self._number)
        assert found is not None  # such devices are refused
        with self.here:
            return _load(str(nvrtc.cubin(text, found)), self._number)


@cache
def _load(path: str, number: int) -> Callable[..., None]:
    """The kernel in a file, loaded on the current device, which has this number."""
    kernel: Callable[..., None] = _cupy().RawModule(path=path).get_function(NAME)
    return kernel


class _Foreign:
    """What CuPy takes for a stream."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


def foreign(pointer: int) -> Any:
    """A stream of another library, as CuPy's object."""
    return _cupy().cuda.Stream.from_external(_Foreign(pointer))


class CuPy:
    """CuPy arrays."""

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        first = leaves[0].array
        self._kind, self._dtype, self._device = type(first), first.dtype, first.data.device_id
        self._likes = [(leaf.shape, leaf.array.strides) for leaf in leaves]
        self._odd = real_size(leaves[0]) - 1

    @staticmethod
    def refusal(leaf: Leaf) -> str | None:
        """Why an array cannot be written by address, or None."""
        if type(leaf.array) is not _cupy().ndarray:
            return f"{leaf.path!r} is a {type(leaf.array).__name__}, whose operators may differ"
        return None

    def addresses(self, grads: Sequence[Any]) -> list[int | None]:
        """The address of each gradient with its parameter's dtype, shape, strides and device."""
        kind, dtype, device, odd = self._kind, self._dtype, self._device, self._odd
        found: list[int | None] = []
        for g, (shape, strides) in zip(grads, self._likes, strict=True):
            if type(g) is kind and g.dtype is dtype and g.shape == shape and g.strides == strides:
                at = g.data
                address = at.ptr
                found.append(None if at.device_id != device or address & odd else address)
            else:
                found.append(None)
        return found

    def readable(self, leaf: Leaf, g: Any) -> bool:
        """Whether its order is the parameter's, and it is aligned."""
        size, wide = g.dtype.itemsize, leaf.array.dtype.itemsize
        if g.data.ptr % size or any(stride % size for stride in g.strides):
            return False
        mine, theirs = (
            tuple(s // n for s in x.strides) for x, n in ((leaf.array, wide), (g, size))
        )
        return alike(leaf.shape, mine, theirs)

    def moved(self) -> bool:
        """No: an array has its memory for life."""
        return False

    def written(self, grads: Sequence[Any]) -> None:
        """CuPy need not know."""


ARRAYS: dict[str, type[CuPy] | type[Torch]] = {"cupy": CuPy, "torch": Torch}


def _cupy() -> Any:
    return import_module("cupy")
