"""Half precision in lines of memory: converted by NumPy, bfloat16 by integers.

bfloat16 is the upper half of a float32, and NumPy has no such type, so a line of it is one of
unsigned integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...memory import reals_at


def numbers_at(address: int, number: int, real: str) -> Any:
    """The numbers of a real dtype at an address, as a line that can be written."""
    return reals_at(address, number, np.dtype("u2" if real == "bfloat16" else real))


def widened(x: Any, compute: str) -> Any:
    """A line of numbers in the compute dtype; itself if it is that."""
    if x.dtype == compute:
        return x
    out = np.empty(x.shape, compute)
    widen(x, out)
    return out


def widen(x: Any, out: Any) -> None:
    """Convert a line to float32."""
    if x.dtype == np.uint16:
        np.left_shift(x, np.uint32(16), out=out.view(np.uint32))
    else:
        np.copyto(out, x)


def narrow(x: Any, out: Any) -> None:
    """Round a line of float32 to nearest even; a NaN, which must not round to zero, stays one."""
    if out.dtype == np.uint16:
        bits = x.view(np.uint32)
        even = bits >> 16
        even &= 1
        even += bits
        even += 0x7FFF
        even >>= 16
        np.copyto(out, even, casting="unsafe")
        np.copyto(out, 0x7FFF, where=np.isnan(x))
    else:
        np.copyto(out, x, casting="same_kind")
