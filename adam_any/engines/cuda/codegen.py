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
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from string import Template

from ...dtypes import DTYPES
from ...sums import LANES
from ..kernels.operations import c, expressions
from ..kernels.program import Kind, Program
from ..kernels.symbols import CONDITIONS

#: The name of the kernel, which no C library has.
NAME = "adam_any_update"

#: Threads of a block, and elements that a thread reads at once: 16 bytes of each array that has the
#: compute dtype. Its loop is not unrolled, which would take registers from other threads. Starting
#: points, to be tuned on a GPU; 512 and 8 are the other candidates.
THREADS = 256
WIDTHS = {"float32": 4, "float64": 2}

#: The same of a block that adds: a thread has the sums of two lanes. The square of `FOLDED`, the
#: number of sums that a thread folds.
ADDING = LANES // 2
FOLDED = 16

#: The bytes that a kernel's argument may have, which is CUDA's limit.
ARGUMENT = 32764

#: How many gradient addresses an argument has room for: the smallest that holds a launch's leaves.
#: With the last it is nearly as large as it may be.
CAPACITIES = (64, 512, 4000)


def layout(program: Program, compute: str, capacity: int) -> tuple[str, str]:
    """The formats, as `struct` has them, of an argument's two parts: places and scalars; gradients.

    The second begins at a multiple of 8.
    """
    return f"4q{len(program.scalars)}{DTYPES[compute].struct}0q", f"{capacity}q"


def cuda_source(kind: Kind, capacity: int) -> str:
    """The text of a kernel for at most `capacity` leaves."""
    program, compute = kind.program, kind.compute
    arrays, types = program.arrays, _types(program)
    return _template("kernel.cu").substitute(
        _common(kind, capacity),
        width=WIDTHS[compute],
        references=", ".join(f"{types[x]}& at_{x}" for x in arrays),
        stores="\n    ".join(
            f"put(at_p, {new});" if x == "p" else f"at_{x} = {new};"
            for x, new in zip(program.state, program.outputs, strict=True)
        ),
        alignment=" && ".join(f"aligned({x})" for x in ("g", *arrays)),
        packs=_lines(12, (f"Pack<{types[x]}> pack_{x} = pack({x} + i);" for x in arrays)),
        packed=", ".join(f"pack_{x}.at[k]" for x in arrays),
        unpacks=_lines(12, (f"pack({x} + i) = pack_{x};" for x in program.state)),
        single=", ".join(f"{x}[i]" for x in arrays),
    )


def sum_source(kind: Kind, capacity: int) -> str:
    """The text of a kernel that adds the terms of a program; `fold_source` finishes it."""
    program = kind.program
    types = _types(program)
    terms = range(len(program.outputs))
    return _template("sums.cu").substitute(
        _common(kind, capacity) | {"threads": ADDING},
        lanes=LANES,
        terms=len(program.outputs),
        references="".join(f", {types[x]}& at_{x}" for x in program.arrays),
        adds=_lines(4, (f"sum[{k}] += double({program.outputs[k]});" for k in terms)),
        single="".join(f", {x}[i]" for x in program.arrays),
    )


def fold_source() -> str:
    """The text of the kernel that folds what the threads of `sum_source` have, block by block."""
    return _template("fold.cu").substitute(name=NAME, threads=ADDING, run=ADDING, folded=FOLDED)


def _common(kind: Kind, capacity: int) -> dict[str, object]:
    """The text that the kernels of a program have in common."""
    program, compute = kind.program, kind.compute
    arrays, types = program.arrays, _types(program)
    loads = [
        f"const real {x} = {'value(at_' + x + ')' if x == 'p' else 'at_' + x};" for x in arrays
    ]
    return {
        "name": NAME,
        "threads": THREADS,
        "capacity": capacity,
        "size": struct.calcsize("".join(layout(program, compute, capacity))),
        "arrays": len(arrays),
        "scalars": _lines(4, (f"real {name};" for name in program.scalars)),
        "real": DTYPES[compute].c,
        "gradient": DTYPES[kind.gradient].c,
        "parameter": DTYPES[kind.parameter].c,
        "loads": _lines(4, ["const real g = value(at_g);", *loads]),
        "body": _lines(4, _body(program)),
        "pointers": _lines(
            4,
            (
                f"{types[x]}* {x} = global_pointer<{types[x]}>(state[{i}], start);"
                for i, x in enumerate(arrays)
            ),
        ),
    }


def _types(program: Program) -> dict[str, str]:
    """The type of each array: moments and operands have the compute dtype."""
    return {x: "parameter" if x == "p" else "real" for x in program.arrays}


def _body(program: Program) -> list[str]:
    texts = expressions(c)
    return [
        *(f"const real {name} = args.{name};" for name in program.scalars),
        *(
            f"const {'bool' if it.operation in CONDITIONS else 'real'} {it.result} = "
            f"{texts[it.operation].format(*it.operands)};"
            for it in program.instructions
        ),
    ]


def _lines(indent: int, lines: Iterable[str]) -> str:
    return ("\n" + " " * indent).join(lines)


@cache
def _template(name: str) -> Template:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    common = Path(__file__).with_name("elements.cu").read_text(encoding="utf-8")
    return Template(text.replace("// (elements.cu)", common))
