"""The CUDA source of a kernel: `kernel.cu`, filled in from a program.

- One temporary for each operation, of the compute dtype, in the program's order. The compiler is
  told to contract nothing, so each is rounded once, as NumPy rounds it.
- No headers: it compiles in 60 ms, and needs no CUDA toolkit. Only float16 needs a machine
  instruction, behind a macro that a compiler for the CPU replaces; the tests run this same text
  there. bfloat16 is the upper half of a float32, so integers convert it, on GPUs before sm_80 too.
- A block works on one chunk of one leaf. All that changes between steps comes by value, in one
  argument: scalars, and the gradients' addresses. What stays is in two tables on the device.
- Every thread reads all it needs of an element before it writes there, so a gradient may be its own
  parameter. Addresses and offsets have 64 bits; only what counts inside a chunk is an int.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from string import Template
from typing import NamedTuple

from ...dtypes import DTYPES
from ..kernels.operations import c, expressions
from ..kernels.program import Program
from ..kernels.symbols import CONDITIONS

#: The name of the kernel, which no C library has.
NAME = "adam_any_update"

#: Threads of a block, and elements that a thread reads at once: 16 bytes of each array that has the
#: compute dtype. Its loop is not unrolled, which would take registers from other threads. Starting
#: points, to be tuned on a GPU; 512 and 8 are the other candidates.
THREADS = 256
WIDTHS = {"float32": 4, "float64": 2}

#: The bytes that a kernel's argument may have, which is CUDA's limit.
ARGUMENT = 32764

#: How many gradient addresses an argument has room for: the smallest that holds a launch's leaves.
#: With the last it is nearly as large as it may be.
CAPACITIES = (64, 512, 4000)


class Kind(NamedTuple):
    """A program, and the real dtypes of parameter, gradient and computation."""

    program: Program
    parameter: str
    gradient: str
    compute: str


def layout(program: Program, compute: str, capacity: int) -> tuple[str, str]:
    """The formats, as `struct` has them, of an argument's two parts: places and scalars; gradients.

    The second begins at a multiple of 8.
    """
    return f"4q{len(program.scalars)}{DTYPES[compute].struct}0q", f"{capacity}q"


def cuda_source(kind: Kind, capacity: int) -> str:
    """The text of a kernel for at most `capacity` leaves."""
    program, compute = kind.program, kind.compute
    texts, names = expressions(c), program.state
    types = {"p": "parameter"}  # moments have the compute dtype
    lines = [
        *(f"const real {name} = args.{name};" for name in program.scalars),
        *(
            f"const {'bool' if it.operation in CONDITIONS else 'real'} {it.result} = "
            f"{texts[it.operation].format(*it.operands)};"
            for it in program.instructions
        ),
    ]
    return _template().substitute(
        name=NAME,
        threads=THREADS,
        width=WIDTHS[compute],
        capacity=capacity,
        size=struct.calcsize("".join(layout(program, compute, capacity))),
        arrays=len(names),
        scalars="\n    ".join(f"real {name};" for name in program.scalars),
        real=DTYPES[compute].c,
        gradient=DTYPES[kind.gradient].c,
        parameter=DTYPES[kind.parameter].c,
        references=", ".join(f"{types.get(x, 'real')}& at_{x}" for x in names),
        loads="\n    ".join(
            ["const real g = value(at_g);", "const real p = value(at_p);"]
            + [f"const real {x} = at_{x};" for x in names[1:]]
        ),
        body="\n    ".join(lines),
        stores="\n    ".join(
            f"put(at_p, {new});" if x == "p" else f"at_{x} = {new};"
            for x, new in zip(names, program.outputs, strict=True)
        ),
        pointers="\n    ".join(
            f"{types.get(x, 'real')}* {x} = "
            f"global_pointer<{types.get(x, 'real')}>(state[{i}], start);"
            for i, x in enumerate(names)
        ),
        alignment=" && ".join(f"aligned({x})" for x in ("g", *names)),
        packs="\n            ".join(
            f"Pack<{types.get(x, 'real')}> pack_{x} = pack({x} + i);" for x in names
        ),
        packed=", ".join(f"pack_{x}.at[k]" for x in names),
        unpacks="\n            ".join(f"pack({x} + i) = pack_{x};" for x in names),
        single=", ".join(f"{x}[i]" for x in names),
    )


@cache
def _template() -> Template:
    return Template(Path(__file__).with_name("kernel.cu").read_text(encoding="utf-8"))
