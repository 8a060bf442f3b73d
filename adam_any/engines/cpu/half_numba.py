"""Half precision in a kernel: the part that Numba compiles.

Numba has no such types, so a number is its 16 bits. LLVM has float16, and one instruction converts
eight at once: of F16C on x86-64, of every ARM64. Without it LLVM would call functions that may not
be there, so such a kernel is not compiled. bfloat16 is the upper half of a float32, so integers
convert it, everywhere.

This module imports Numba. It is compiled into each generated kernel, and is part of its cache key.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float32, int64, types, uint16
from numba.extending import intrinsic

_HALF, _FLOAT = ir.HalfType(), ir.FloatType()
_SHORT, _INT = ir.IntType(16), ir.IntType(32)


@intrinsic
def bits(typing: Any, address: Any) -> Any:
    """The address of numbers of 16 bits, as a pointer to integers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(uint16)(int64), generate


@intrinsic
def from_float16(typing: Any, x: Any) -> Any:
    """The number that these bits are."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _check(context)
        return builder.fpext(builder.bitcast(args[0], _HALF), _FLOAT)

    return float32(uint16), generate


@intrinsic
def to_float16(typing: Any, x: Any) -> Any:
    """The bits of a number, rounded to nearest even."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _check(context)
        return builder.bitcast(builder.fptrunc(args[0], _HALF), _SHORT)

    return uint16(float32), generate


@intrinsic
def from_bfloat16(typing: Any, x: Any) -> Any:
    """The number that these bits are."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        upper = builder.shl(builder.zext(args[0], _INT), _INT(16))
        return builder.bitcast(upper, _FLOAT)

    return float32(uint16), generate


@intrinsic
def to_bfloat16(typing: Any, x: Any) -> Any:
    """The bits of a number, rounded to nearest even; a NaN is 7fff, and never rounds to 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        all_bits = builder.bitcast(args[0], _INT)
        odd = builder.and_(builder.lshr(all_bits, _INT(16)), _INT(1))
        even = builder.add(all_bits, builder.add(odd, _INT(0x7FFF)))
        upper = builder.trunc(builder.lshr(even, _INT(16)), _SHORT)
        nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.select(nan, _SHORT(0x7FFF), upper)

    return uint16(float32), generate


def _check(context: Any) -> None:
    """Raise RuntimeError where no instruction converts float16."""
    triple, processor, features = context.codegen().magic_tuple()
    if not (triple.startswith(("aarch64", "arm64")) or "+f16c" in features.split(",")):
        raise RuntimeError(
            f"no instruction converts float16 on {processor or triple}: it lacks F16C, or Numba is "
            "told to compile for a processor that does"
        )
