"""The Numba source of a kernel, generated from a program.

- One temporary for each operation, of the compute dtype, in the program's order: nothing is joined
  or contracted (no fastmath), so each is rounded once, as NumPy rounds it.
- `error_model="numpy"`: the default raises where something is divided by zero, which keeps LLVM
  from using SIMD (13 times slower).
- The kernel writes its number when it begins and when it is done, so that an interrupted step knows
  whether it was completed.
- Each chunk is an array of its own, and its loop runs from 0: LLVM vectorises that, and not a range
  in the middle of an array, whose indices may be negative (8 times slower).
- Half precision is an array of 16-bit integers, each converted where it is read and written.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...dtypes import DTYPES
from ...sums import BLOCK
from ..kernels.operations import expressions, python
from ..kernels.program import Kind
from ..kernels.symbols import Instruction
from ..kernels.table import Words

_MODULE = '''\
"""One pass over memory, generated from a rule."""

from adam_any.engines.cpu import half_numba as half
from adam_any.engines.cpu import work_queue as queue
from numba import carray, float64, {real} as real, njit
from numpy import sqrt, zeros


{update}

@njit(error_model="numpy", nogil=True)
def run(role, job, board, kernel, seats):
    last, own, words = 0, queue.mode(), job
    if role != queue.HELP:
        words = queue.load(job + 8 * queue.SCALARS)
        queue.store(words + 8, queue.load(words))
    if role == queue.LEAD and not queue.begin(board, kernel, job, seats):
        role = queue.ALONE
    while True:
        if role == queue.HELP:
            last, job = queue.join(board, kernel, last)
            if job == 0:
                return
            queue.set_mode(queue.load(board + queue.MODE))
        word = carray(queue.words(job), queue.WORDS)
        leaves = word[queue.LEAVES]
        address = carray(queue.words(word[queue.ADDRESSES]), ({arrays}, leaves))
        chunk = carray(queue.words(word[queue.CHUNKS]), (1, 3))
        task = carray(queue.words(word[queue.TASKS]), 1)
        scalar = carray({pointer}(word[queue.SCALARS] + {words}), {number})
        tasks, front = word[queue.NUMBER], 0
        while True:
            claimed = front if role == queue.ALONE else queue.add(board + queue.CLAIMED, 1)
            if claimed >= tasks:
                break
            if role == queue.HELP:
                mine = tasks - 1 - queue.add(board + queue.BACK, 1)
            else:
                mine = front
                front += 1
            for k in range(task[mine], task[mine + 1]):
                leaf, first, n = chunk[k, 0], chunk[k, 1], chunk[k, 2]
                if address[0, leaf] != 0:
                    update(
                        {slices}
                    )
        if role != queue.HELP:
            break
        queue.leave(board)
        queue.set_mode(own)
    if role == queue.LEAD:
        queue.end(board)
    queue.store(words + 16, queue.load(words))
'''


#: How arrays of each real dtype are found at an address, and their elements read and written.
_POINTERS = {
    "float16": "half.bits",
    "bfloat16": "half.bits",
    "float32": "queue.floats",
    "float64": "queue.doubles",
}
_LOADS = dict.fromkeys(_POINTERS, "{}[{}]") | {
    "float16": "half.from_float16({}[{}])",
    "bfloat16": "half.from_bfloat16({}[{}])",
}
_STORES = dict.fromkeys(_POINTERS, "{}") | {
    "float16": "half.to_float16({})",
    "bfloat16": "half.to_bfloat16({})",
}

_UPDATE = """\
@njit(error_model="numpy")
def update({names}):
    for i in range(g.size):
        {body}
"""


def numba_source(kind: Kind) -> str:
    """The text of a module whose `run` is the kernel of a program in these dtypes."""
    program = kind.program
    update = _UPDATE.format(
        names=", ".join(("g", *program.arrays, *program.scalars)),
        body="\n        ".join(_body(kind)),
    )
    return module_source(update, kind)


def module_source(update: str, kind: Kind, blocks: int = 0) -> str:
    """The text of a module around a function `update` of the arrays and scalars of a program.

    With `blocks` it is also given room for so many float64, which belong to the chunk: as the last
    array of each leaf there are as many for each of its chunks.
    """
    arrays, scalars = kind.stored.values(), len(kind.program.scalars)
    slices = [
        f"carray({_POINTERS[real]}(address[{k}, leaf] + {DTYPES[real].size} * first), n),"
        for k, real in enumerate(arrays)
    ]
    slices += [f"scalar[{i}]," for i in range(scalars)]
    if blocks:
        place = f"address[{len(arrays)}, leaf] + first // {BLOCK} * {8 * blocks}"
        slices.append(f"carray(queue.doubles({place}), {blocks}),")
    return _MODULE.format(
        update=update,
        real=kind.compute,
        pointer=_POINTERS[kind.compute],
        words=Words.SIZE,
        number=scalars,
        arrays=len(arrays) + bool(blocks),
        slices=("\n" + " " * 24).join(slices),
    )


def _body(kind: Kind) -> list[str]:
    program, stored = kind.program, kind.stored
    local = {name: f"i_{name}" for name in stored}
    new = zip(program.state, program.outputs, strict=True)
    stores = [
        f"{name}[i] = {_STORES[stored[name]].format(local.get(result, result))}"
        for name, result in new
    ]
    return [*calculation(kind, local), *stores]


def calculation(kind: Kind, local: Mapping[str, str], index: str = "i") -> list[str]:
    """The lines that load an element of every array, under these names, and compute."""
    texts, stored = expressions(python), kind.stored
    loads = [f"{mine} = {_LOADS[stored[name]].format(name, index)}" for name, mine in local.items()]

    def line(it: Instruction) -> str:
        operands = [local.get(name, name) for name in it.operands]
        return f"{it.result} = {texts[it.operation].format(*operands)}"

    return [*loads, *map(line, kind.program.instructions)]
