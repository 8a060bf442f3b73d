"""
From a rule to a kernel
=======================

A rule states the mathematics of a step, for one element. Everything else is made from it: this page
shows each stage, as the package made it while the page was built.
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from adam_any import Optimizer, rules
from adam_any.engines.cpu import codegen as numba
from adam_any.engines.cuda import codegen as cuda
from adam_any.engines.kernels.program import Kind, Traced

# %%
# 1. The rule
# -----------
# Scalars of a step, which the host computes in float64; and one update, of one element.


@dataclass(frozen=True)
class Momentum:
    lr: float = 0.01
    beta: float = 0.9
    moments = ("m",)

    def coefficients(self, t):
        return {"lr": self.lr, "beta": self.beta}

    def update(self, xp, c, p, g, m):
        m = c.beta * m + g
        return p - c.lr * m, m


# %%
# As it stands, the engine ``eager`` applies it to the arrays of any library: NumPy, CuPy, torch,
# Dask. JAX compiles it whole. It is the reference that all others are compared with, to the bit.

opt = Optimizer(np.zeros(2), Momentum(), engine="eager")
print(opt.step(np.array([1.0, -2.0])))

# %%
# 2. The program
# --------------
# It is run once on symbols, which write down what is done with them. Nothing is simplified, moved
# or joined: each instruction is one operation of NumPy's, rounded once.

program = Traced(Momentum()).program


def show(instructions):
    for result, operation, operands in instructions:
        print(f"{result:3} = {operation:8}", *operands)


show(program.instructions)
for name, new in zip(program.state, program.outputs, strict=True):
    print(name, "becomes", new)

# %%
# 3. On a CPU
# -----------
# The program is written as a loop, which Numba compiles; each element is read, computed and written
# once. Without Numba the same program runs by NumPy, in tiles that fit into the cache.

kind = Kind(program, "float32", "float32", "float32")
module = numba.numba_source(kind)
print(module.split("@njit")[1].partition("\n")[2])

# %%
# 4. On a GPU
# -----------
# The same instructions in CUDA C, inside a kernel that walks through a table of all arrays.

for line in cuda.cuda_source(kind, cuda.CAPACITIES[0]).splitlines():
    if line.strip().startswith("const real t"):
        print(line.strip())

# %%
# 5. A wrapper is part of the program
# -----------------------------------
# Bounds add four instructions, and no pass over memory.

bounded = Traced(rules.Bounded(Momentum(), 0.0, 1.0)).program
show(bounded.instructions[len(program.instructions) :])

# %%
# The whole way
# -------------

figure, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
ax.set(xlim=(0, 12), ylim=(0, 4))
ax.axis("off")
boxes = {
    (0.1, 1.5): "rule\nupdate(xp, c, p, g, m)",
    (4.4, 2.7): "eager: as it stands\nevery array library",
    (4.4, 1.5): f"program\n{len(program.instructions)} instructions",
    (4.4, 0.3): "xla: jax.jit of it\nJAX",
    (8.7, 2.7): "tiles: NumPy in the cache\nNumPy, torch",
    (8.7, 1.5): "cpu: one pass, all cores\nNumPy, torch, floats",
    (8.7, 0.3): "cuda: one launch\nCuPy, torch",
}
for (left, low), text in boxes.items():
    ax.text(
        *(left + 1.55, low + 0.45, text),
        ha="center",
        va="center",
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "#dce9f5", "edgecolor": "#33658a"},
    )
for start, ends in {(3.3, 1.95): [(4.2, 3.1), (4.2, 1.95), (4.2, 0.8)]}.items():
    for end in ends:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#33658a"})
for end in ((8.5, 3.1), (8.5, 1.95), (8.5, 0.8)):
    ax.annotate("", end, (7.4, 1.95), arrowprops={"arrowstyle": "->", "color": "#33658a"})
plt.show()
