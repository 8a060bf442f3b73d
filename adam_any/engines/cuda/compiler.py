"""CUDA text to machine code, by NVRTC; kept on disk by content.

- NVRTC is called through cuda-bindings, NVIDIA's own and thinnest layer, which needs no GPU and no
  driver. CuPy's compiler always adds `-ftz=true`, which flushes subnormal numbers to zero.
- Nothing is contracted, flushed or approximated: the bits are those of IEEE 754, as NumPy's are.
- The code is for one architecture, and not PTX: PTX of an NVRTC that is newer than the driver does
  not load.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ..kernels import disk_cache

OPTIONS = ("--std=c++17", "--fmad=false", "-ftz=false", "--prec-div=true", "--prec-sqrt=true")


class Code(NamedTuple):
    """The results of a compilation."""

    cubin: bytes
    ptx: str
    log: str


@cache
def missing() -> str | None:
    """The reason why NVRTC cannot be used, or None."""
    try:
        version()
    except ImportError as error:
        return f"cuda.bindings cannot be imported: {error}"
    except RuntimeError as error:  # what cuda-pathfinder raises, whose last lines are a listing
        return (
            f"NVRTC cannot be loaded: {next(iter(str(error).splitlines()), type(error).__name__)}"
        )
    return None


@cache
def version() -> tuple[int, int]:
    """The version of NVRTC."""
    major, minor = _checked(_nvrtc().nvrtcVersion())
    return major, minor


@cache
def architecture(capability: tuple[int, int]) -> int | None:
    """The architecture (90 for sm_90) to compile for, for a device of this compute capability.

    It is the device's own, or the newest before it of the same major version. None if there is
    none, and before 7.0, where arguments are too small.
    """
    major, minor = capability
    (known,) = _checked(_nvrtc().nvrtcGetSupportedArchs())
    usable = [x for x in known if 70 <= major * 10 <= x <= major * 10 + minor]
    return max(usable, default=None)


def cubin(text: str, architecture: int) -> Path:
    """The file with the machine code of a text, compiled unless it has been before."""
    key = repr((text, OPTIONS, version(), architecture))
    name = f"kernel_{hashlib.sha256(key.encode()).hexdigest()[:24]}.cubin"
    return disk_cache.get_or_create(name, lambda: compiled(text, architecture).cubin)


def compiled(text: str, architecture: int, *options: str) -> Code:
    """Compile. Raises RuntimeError, with the compiler's words, if it cannot."""
    nvrtc = _nvrtc()
    (program,) = _checked(nvrtc.nvrtcCreateProgram(text.encode(), b"update.cu", 0, [], []))
    try:
        given = [x.encode() for x in (f"-arch=sm_{architecture}", *OPTIONS, *options)]
        status, *_ = nvrtc.nvrtcCompileProgram(program, len(given), given)
        log = _read(program, "ProgramLog").decode(errors="replace").strip("\0\n ")
        if status:
            raise RuntimeError(f"NVRTC cannot compile for sm_{architecture}: {status}\n{log}")
        return Code(_read(program, "CUBIN"), _read(program, "PTX").decode(), log)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _read(program: Any, what: str) -> bytes:
    nvrtc = _nvrtc()
    (size,) = _checked(getattr(nvrtc, f"nvrtcGet{what}Size")(program))
    room = bytearray(size)
    _checked(getattr(nvrtc, f"nvrtcGet{what}")(program, room))
    return bytes(room)


def _checked(returned: tuple[Any, ...]) -> tuple[Any, ...]:
    status, *values = returned
    if status:
        raise RuntimeError(f"NVRTC: {status}")
    return tuple(values)


def _nvrtc() -> Any:
    return import_module("cuda.bindings.nvrtc")
