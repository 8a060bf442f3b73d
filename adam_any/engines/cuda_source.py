"""The CUDA source of a kernel, generated from a program.

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
from typing import NamedTuple

from ..program import Program
from .operations import c, expressions

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

_TYPES = {"float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16"}

_FLOAT = """\
static __device__ real value({type} x) {{ return real(x); }}
static __device__ void put({type}& place, real x) {{ place = {type}(x); }}
"""

_CONVERSIONS = {
    "float32": _FLOAT.format(type="float"),
    "float64": _FLOAT.format(type="double"),
    "float16": """\
struct float16 { unsigned short bits; };
static __device__ real value(float16 x) {
    float wide;
    CONVERT("cvt.f32.f16", "=f", wide, "h", x.bits);
    return real(wide);
}
static __device__ void put(float16& place, float x) {
    CONVERT("cvt.rn.f16.f32", "=h", place.bits, "f", x);
}
""",
    "bfloat16": """\
struct bfloat16 { unsigned short bits; };
static __device__ real value(bfloat16 x) { return real(__uint_as_float(unsigned(x.bits) << 16)); }
static __device__ void put(bfloat16& place, float x) {
    const unsigned bits = __float_as_uint(x);
    const unsigned even = bits + 0x7fff + (bits >> 16 & 1);  // to nearest, ties to even
    place.bits = x != x ? 0x7fff : even >> 16;
}
""",
}

_TEXT = """\
// One update of every element of every leaf, generated from a rule.

#ifndef CONVERT
#define CONVERT(operation, to_kind, to, from_kind, from) \\
    asm(operation " %0, %1;" : to_kind(to) : from_kind(from))
#endif

typedef {real} real;
typedef long long integer;

{conversions}
typedef {gradient} gradient;
typedef {parameter} parameter;

// What one thread moves at once.
template <class T>
struct alignas(sizeof(T) * {width} < 16 ? sizeof(T) * {width} : 16) Pack {{ T at[{width}]; }};

template <class T>
static __device__ Pack<T>& pack(T* x) {{ return *reinterpret_cast<Pack<T>*>(x); }}

// Where an array goes on. That it lies in global memory spares each access to find out.
template <class T>
static __device__ T* lying(integer address, integer start) {{
    T* x = reinterpret_cast<T*>(address) + start;
    __builtin_assume(__isGlobal(x));
    return x;
}}

template <class T>
static __device__ bool aligned(T* x) {{
    return reinterpret_cast<unsigned long long>(x) % alignof(Pack<T>) == 0;
}}

struct Args {{
    const integer* state;   // for each leaf the addresses of its parameter and moments
    const integer* chunks;  // for each block a leaf, the first element, the number of elements
    {scalars}
    integer gradients[{capacity}];  // for each leaf an address, or 0: not this time
}};
static_assert(sizeof(Args) == {size}, "as the host lays it out");

static __device__ void update(
    const Args& args, const gradient& g_at, {references}
) {{
    {loads}
    {body}
    {stores}
}}

extern "C" __global__ void __launch_bounds__({threads})
{name}(const __grid_constant__ Args args) {{
    const integer* chunk = args.chunks + 3 * integer(blockIdx.x);
    const integer leaf = chunk[0], start = chunk[1];
    const int n = int(chunk[2]);
    if (args.gradients[leaf] == 0) return;
    const integer* state = args.state + {arrays} * leaf;
    gradient* g = lying<gradient>(args.gradients[leaf], start);
    {pointers}
    int whole = 0;
    if ({alignment}) {{
        whole = n - n % {width};
#pragma unroll 1
        for (int i = threadIdx.x * {width}; i < whole; i += {threads} * {width}) {{
            const Pack<gradient> g_pack = pack(g + i);
            {packs}
#pragma unroll
            for (int k = 0; k < {width}; ++k) {{
                update(args, g_pack.at[k], {packed});
            }}
            {unpacks}
        }}
    }}
#pragma unroll 1
    for (int i = whole + threadIdx.x; i < n; i += {threads}) {{
        update(args, g[i], {single});
    }}
}}
"""


class Kind(NamedTuple):
    """What a kernel is generated from: a program, and the real dtypes of parameter, gradient and
    computation."""

    program: Program
    parameter: str
    gradient: str
    compute: str


def layout(program: Program, compute: str, capacity: int) -> tuple[str, str]:
    """The formats, as `struct` has them, of an argument's two parts: tables and scalars; gradients.

    The second begins at a multiple of 8.
    """
    scalars = f"{len(program.scalars)}{'d' if compute == 'float64' else 'f'}"
    return f"2q{scalars}0q", f"{capacity}q"


def cuda_source(kind: Kind, capacity: int) -> str:
    """The text of a kernel for at most `capacity` leaves."""
    program, compute = kind.program, kind.compute
    texts, names = expressions(c), program.state
    types = {"p": "parameter"}  # moments have the compute dtype
    used = sorted({kind.parameter, kind.gradient})
    conversions = [_CONVERSIONS[dtype] for dtype in used]
    lines = [
        *(f"const real {name} = args.{name};" for name in program.scalars),
        *(
            f"const real {it.result} = {texts[it.operation].format(*it.operands)};"
            for it in program.instructions
        ),
    ]
    return _TEXT.format(
        name=NAME,
        threads=THREADS,
        width=WIDTHS[compute],
        capacity=capacity,
        size=struct.calcsize("".join(layout(program, compute, capacity))),
        arrays=len(names),
        scalars="\n    ".join(f"real {name};" for name in program.scalars),
        real=_TYPES[compute],
        gradient=_TYPES[kind.gradient],
        parameter=_TYPES[kind.parameter],
        conversions="\n".join(conversions),
        references=", ".join(f"{types.get(x, 'real')}& {x}_at" for x in names),
        loads="\n    ".join(
            ["const real g = value(g_at);", "const real p = value(p_at);"]
            + [f"const real {x} = {x}_at;" for x in names[1:]]
        ),
        body="\n    ".join(lines),
        stores="\n    ".join(
            f"put(p_at, {new});" if x == "p" else f"{x}_at = {new};"
            for x, new in zip(names, program.outputs, strict=True)
        ),
        pointers="\n    ".join(
            f"{types.get(x, 'real')}* {x} = lying<{types.get(x, 'real')}>(state[{i}], start);"
            for i, x in enumerate(names)
        ),
        alignment=" && ".join(f"aligned({x})" for x in ("g", *names)),
        packs="\n            ".join(
            f"Pack<{types.get(x, 'real')}> {x}_pack = pack({x} + i);" for x in names
        ),
        packed=", ".join(f"{x}_pack.at[k]" for x in names),
        unpacks="\n            ".join(f"pack({x} + i) = {x}_pack;" for x in names),
        single=", ".join(f"{x}[i]" for x in names),
    )
