"""The Numba source that adds the terms of a program over blocks.

As `codegen` has it, but for what it does with an element: each term is widened, and added to one of
512 sums side by side; at the end of a block these are folded in halves, as `sums` says.
"""

from __future__ import annotations

from ...sums import LANES
from ..kernels.program import Kind
from .codegen import calculation, module_source

_UPDATE = """\
@njit(error_model="numpy")
def row({names}, {lanes}):
    for i in range(g.size):
        {body}


@njit(error_model="numpy")
def update({names}, sums):
    {make}
    for start in range(0, g.size, {width}):
        stop = min(start + {width}, g.size)
        row({slices}, {lanes})
    half = {width} // 2
    while half > 0:
        for i in range(half):
            {fold}
        half //= 2
    {store}
"""


def numba_source(kind: Kind) -> str:
    """The text of a module whose `run` adds the terms of a program in these dtypes."""
    program = kind.program
    arrays = ("g", *program.arrays)
    lanes = [f"lanes{k}" for k in range(len(program.outputs))]
    local = {name: f"i_{name}" for name in arrays}
    results = [local.get(out, out) for out in program.outputs]
    add = [f"{lane}[i] += float64({x})" for lane, x in zip(lanes, results, strict=True)]
    text = _UPDATE.format(
        names=", ".join((*arrays, *program.scalars)),
        lanes=", ".join(lanes),
        width=LANES,
        body="\n        ".join([*calculation(kind, local), *add]),
        make="\n    ".join(f"{lane} = zeros({LANES})" for lane in lanes),
        slices=", ".join([*(f"{x}[start:stop]" for x in arrays), *program.scalars]),
        fold="\n            ".join(f"{lane}[i] += {lane}[i + half]" for lane in lanes),
        store="\n    ".join(f"sums[{k}] = {lane}[0]" for k, lane in enumerate(lanes)),
    )
    return module_source(text, kind, blocks=len(lanes))
