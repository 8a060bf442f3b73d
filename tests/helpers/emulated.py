"""CUDA without a GPU: the generated text, compiled by g++ and run on the CPU.

- CuPy makes arrays around any memory, so these are real CuPy arrays, in the host's. All of the
  package runs as it is: detection, choice, plan, tables, gathering, and the bytes of the argument.
- In place of the device stands `Device`: its kernels are the text that NVRTC would be given, behind
  `cuda_shim.h`; grid and block are two loops.
- In place of CuPy's own kernels, which no CPU can run, NumPy fills and copies.
"""

from __future__ import annotations

import contextlib
import copyreg
import ctypes
import hashlib
import importlib.util
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adam_any import detect
from adam_any.engines.cuda import device
from adam_any.engines.cuda.codegen import NAME

from . import ROOT

SHIM = Path(__file__).with_name("cuda_shim.h")

#: No contraction, as NVRTC is told; and memory may be read as floats and as packs of them.
FLAGS = ("-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-w")

LOOPS = f"""
extern "C" void run(unsigned blocks, unsigned threads, const Args* args) {{
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            {NAME}(*args);
}}
"""


def missing() -> str | None:
    """Why CUDA cannot be emulated here, or None."""
    if shutil.which("g++") is None:
        return "g++ is not installed"
    if importlib.util.find_spec("cupy") is None:
        return "cupy is not installed"
    return None


#: Where compiled kernels are kept: for the next run, and for other workers of this one.
KEPT = ROOT / ".pytest_cache" / "emulated"


@cache
def kernel(text: str, *flags: str) -> Any:
    """The function of a kernel's text: run(blocks, threads of one, address of the argument)."""
    whole = f"{SHIM.read_text()}\n{text}\n{LOOPS}"
    command = ["g++", *FLAGS, *flags]
    name = hashlib.sha256(repr((whole, command, platform.uname())).encode()).hexdigest()[:24]
    made = KEPT / f"{name}.so"
    if not made.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as folder:
            source, new = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
            source.write_text(whole)
            subprocess.run([*command, str(source), "-o", str(new)], check=True)
            new.rename(made)
    function = ctypes.CDLL(str(made)).run
    function.argtypes = [ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p]
    function.restype = None
    return function


class Device:
    """What `engines.device.Device` is, in the host's memory. It counts what it is asked for."""

    #: A change to make to each text: to see a test fail.
    change: Callable[[str], str] = staticmethod(lambda text: text)
    launches = 0
    uploads = 0
    capturing = False
    current = SimpleNamespace(ptr=7)

    def __init__(self, library: str, number: int) -> None:
        self.here = contextlib.nullcontext()

    def stream(self) -> Any:
        return Device.current

    def wait(self) -> None:
        pass

    def read(self, word: Any) -> int:
        return int(numpy(word)[0])

    def numbers(self, x: Any, stream: Any) -> Any:
        assert stream is Device.current
        return numpy(x).copy()

    def upload(self, arrays: Any, stream: Any) -> list[Any]:
        Device.uploads += 1
        return [array(x) for x in arrays]

    def room(self, number: int, stream: Any) -> Any:
        return array(np.full(number, np.nan))

    def kernel(self, text: str) -> Callable[..., None]:
        run = kernel(Device.change(text))
        (bound,) = re.findall(r"__launch_bounds__\((\d+)\)", text)

        def launch(grid: Any, block: Any, arguments: Any, stream: Any) -> None:
            assert stream is Device.current
            (number,), (threads,), (argument,) = grid, block, arguments
            assert threads == int(bound)  # more cannot be launched
            assert 0 < number < 2**31
            # As CuPy takes it by value: an array of size one.
            assert argument.size == 1
            Device.launches += 1
            run(number, threads, argument.ctypes.data)

        return launch


def array(host: Any) -> Any:
    """A CuPy array of the same memory."""
    import cupy

    memory = cupy.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, device_id=0)
    at = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(host.shape, host.dtype, at, host.strides)


def numpy(x: Any) -> Any:
    """A NumPy array of the same memory."""
    if isinstance(x, np.ndarray):
        return x
    # As bytes, which every NumPy has; bfloat16 is known to ml_dtypes alone.
    facts = {
        "version": 3,
        "data": (x.data.ptr or 1, False),
        "shape": x.shape,
        "strides": x.strides,
        "typestr": f"|V{x.dtype.itemsize}",
    }
    return np.asarray(SimpleNamespace(__array_interface__=facts, owner=x)).view(x.dtype)


def _pickled(x: Any) -> Any:
    return array, (numpy(x).copy(order="K"),)


NAMESPACE = SimpleNamespace(
    float32=np.float32,
    float64=np.float64,
    zeros_like=lambda x, dtype: array(np.zeros_like(numpy(x), dtype=dtype)),
    empty_like=lambda x, dtype: array(np.empty_like(numpy(x), dtype=dtype)),
)


def _library() -> Any:
    """CuPy as the package knows it, with what its kernels would do done by NumPy."""
    from adam_any.libraries.cupy import CuPy

    host = detect.load("numpy")

    class Emulated(CuPy):
        def namespace(self, x: Any) -> Any:
            return NAMESPACE

        def write(self, x: Any, new: Any) -> None:
            with np.errstate(all="ignore"):
                host.write(numpy(x), numpy(new))

        def like(self, x: Any, new: Any) -> Any:
            out = array(np.empty_like(numpy(x)))
            self.write(out, new)
            return out

        def copy(self, x: Any) -> Any:
            return array(numpy(x).copy(order="K"))

        def to_host(self, x: Any) -> Any:
            return numpy(x).copy()

        def from_host(self, host: Any, like: Any) -> Any:
            return array(np.array(host))

        def largest(self, arrays: Any) -> list[float]:
            return host.largest([numpy(x) for x in arrays])

        def all_hold(self, condition: Any, *operands: Any) -> bool:
            found = (numpy(x) if hasattr(x, "data") else x for x in operands)
            return host.all_hold(condition, *found)

        def on(self, x: Any) -> Any:
            return contextlib.nullcontext()

        def capturing(self, x: Any) -> bool:
            return Device.capturing

    return Emulated("cupy")


@contextlib.contextmanager
def emulated(library: str = "cupy") -> Iterator[type[Device]]:
    """Arrays of CuPy or torch go to the CUDA engine, and that to the CPU, while it lasts."""
    from adam_any.libraries import cupy as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LIBRARY", _library())
        patch.setattr(device, "Device", Device)
        patch.setattr(device, "missing", lambda: None)
        patch.setattr(device, "architecture", lambda number: 90)
        patch.setattr(Device, "launches", 0)
        patch.setattr(Device, "uploads", 0)
        patch.setitem(copyreg.dispatch_table, import_module("cupy").ndarray, _pickled)
        if library == "torch":  # whose tensors are on the CPU, and say so
            torch = detect.load("torch")
            patch.setattr(type(torch), "engine", lambda self, device: "cuda")
            patch.setattr(device, "number", lambda leaf: 0)
        detect.load.cache_clear()
        try:
            yield Device
        finally:
            detect.load.cache_clear()
