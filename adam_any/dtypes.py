"""All facts about the six dtypes, one row each.

A complex dtype is stored and updated as pairs of real numbers, so its row describes one of them.
Moments and arithmetic have the compute dtype: float64 for float64 and complex128, else float32.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple


class DType(NamedTuple):
    """The facts about a dtype."""

    name: str
    #: The dtype of its real numbers, and of the computation.
    real: str
    compute: str
    #: Bytes of one real number; its code in `struct`, in safetensors, and its type in CUDA C.
    size: int
    struct: str
    file: str
    c: str
    #: A real number has a finite square in its own dtype if it is smaller than this.
    limit: float

    @property
    def complex(self) -> bool:
        """Return whether an element is a pair of real numbers."""
        return self.real != self.name

    def round(self, value: float) -> float:
        """Round a number to the compute dtype, once; too large a number becomes infinite."""
        return ctypes.c_float(value).value if self.compute == "float32" else float(value)


DTYPES = {
    row.name: row
    for row in (
        DType("float16", "float16", "float32", 2, "e", "F16", "float16", 2.0**8),
        DType("bfloat16", "bfloat16", "float32", 2, "H", "BF16", "bfloat16", 2.0**64),
        DType("float32", "float32", "float32", 4, "f", "F32", "float", 2.0**64),
        DType("float64", "float64", "float64", 8, "d", "F64", "double", 2.0**512),
        DType("complex64", "float32", "float32", 4, "f", "F32", "float", 2.0**64),
        DType("complex128", "float64", "float64", 8, "d", "F64", "double", 2.0**512),
    )
}


def name_of(dtype: Any) -> str:
    """The name that the array API gives a dtype, from any library's dtype object."""
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def is_complex(x: Any) -> bool:
    """Return whether an array of any library is complex."""
    return name_of(x.dtype).startswith("complex")
