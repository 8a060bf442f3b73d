"""A CUDA device, as the engine needs it: streams, tables, kernels.

- CuPy is the way to the driver, for torch's tensors too: it loads machine code, launches it, and
  its memory pool holds the tables. Only what it exports is used.
- A launch goes to the stream on which the arrays' own library would work: CuPy's current stream of
  that device, or torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from ...leaf import Leaf
from . import compiler
from .codegen import NAME


@cache
def missing() -> str | None:
    """The reason why no kernel can be compiled or launched, or None."""
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
    lacking = compiler.missing()
    return lacking and f"{lacking}; {install}"


def number(leaf: Leaf) -> int:
    """The number of the device of a leaf."""
    x = leaf.array
    return int(x.data.device_id if leaf.backend.library == "cupy" else x.device.index)


@cache
def architecture(device: int) -> int | None:
    """The architecture to compile for on a device; None where NVRTC is too new or too old."""
    capability: str = _cupy().cuda.Device(device).compute_capability
    return compiler.architecture((int(capability[:-1]), int(capability[-1])))


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
            with self.here:  # CuPy takes it for a stream of the current device
                self._foreign = foreign(pointer)
        return self._foreign

    def upload(self, arrays: Sequence[Any], stream: Any) -> list[Any]:
        """The same numbers in memory that belongs to the stream: what it does, it does in order."""
        with self.here, stream:
            return [_cupy().asarray(x) for x in arrays]

    def room(self, number: int, stream: Any) -> Any:
        """Memory for so many sums, with anything in it, that belongs to the stream."""
        with self.here, stream:
            return _cupy().empty(number)

    def read(self, word: Any) -> int:
        """The number in an array of one, when all that was asked for before is done."""
        with self.here:
            self.wait()  # CuPy's own stream need not wait for torch's
            return int(word.get()[0])

    def numbers(self, array: Any, stream: Any) -> Any:
        """The numbers in an array on the host, when all on the stream before is done."""
        with self.here:
            return array.get(stream=stream)

    def wait(self) -> None:
        """Wait until all that has been asked of the device is done."""
        self.here.synchronize()

    def kernel(self, text: str) -> Callable[..., None]:
        """The kernel of a text, compiled and loaded: kernel(grid, block, arguments, stream=...)."""
        found = architecture(self._number)
        assert found is not None  # such devices are refused
        with self.here:
            return _load(text, found, self._number)


@cache
def _load(text: str, architecture: int, number: int) -> Callable[..., None]:
    """The kernel of a text, loaded on the current device, which has this number."""
    module = _cupy().cuda.Module()
    module.load(compiler.cubin(text, architecture))
    kernel: Callable[..., None] = module.get_function(NAME)
    return kernel


class _Foreign:
    """Exposes a stream through `__cuda_stream__`."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


def foreign(pointer: int) -> Any:
    """A stream of another library, as CuPy's object."""
    return _cupy().cuda.Stream.from_external(_Foreign(pointer))


def _cupy() -> Any:
    return import_module("cupy")
