"""Python floats: the program as a function of floats, without an array.

- Python computes with float64, and rounds as IEEE 754 has it: so the bits are those of arrays.
- What Python refuses, division by zero and the root of a negative number, the same function does
  once more with NumPy's scalars.
- A float is replaced, and so are its moments, which are floats as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ... import check
from ...coefficients import Coefficients
from ...leaf import Leaf, Update
from ...memory import Written
from ..eager import added_up
from ..kernels.operations import expressions, python
from ..kernels.program import Program, Traced
from ..kernels.table import picker
from ..protocol import Takes, Unfinished

#: A function of gradient, parameter, moments and scalars: the new parameter and moments.
Function = Callable[[float, float, Sequence[float], Sequence[float]], tuple[float, Sequence[float]]]


def summary() -> str:
    """A line for `explain()`."""
    return "computed as a Python float"


class Plan:
    """Some Python floats."""

    in_place = False
    adds_inside = False

    def __init__(self, traced: Traced, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            leaf.moments = tuple(map(float, leaf.moments))
        self.leaves, self._traced, self._pick = leaves, traced, picker(leaves)
        self._values = traced.program.values
        self.takes = Takes(traced.program.coefficients, traced.program.constants)
        self._run = function(traced.program, float, math.sqrt)
        self._run_all = function(traced.program, np.float64, np.sqrt)

    def current(self) -> bool:
        """Always: a float does not change."""
        return True

    def gather(self, grads: Sequence[Any], written: Written) -> list[float | None]:
        """The gradients, checked, as floats."""
        mine = [(leaf, grads[leaf.index]) for leaf in self.leaves]
        for leaf, g in mine:
            if g is not None:
                check.gradient(leaf.path, leaf.backend, leaf.shape, g)
        return [None if g is None else float(leaf.library.reals(g)) for leaf, g in mine]

    def look(self, grads: Sequence[Any]) -> Sequence[float] | None:
        """The gradients, if all are floats."""
        mine = self._pick(grads)
        for g in mine:
            if type(g) is not float:
                return None
        return mine

    def add(
        self, finite: bool, c: Coefficients, grads: Sequence[Any]
    ) -> list[Sequence[float] | None]:
        """The sums of each leaf that has a gradient."""
        terms, pairs = self._traced.terms(finite), zip(self.leaves, grads, strict=True)
        return [None if g is None else added_up(terms, c, self._traced, x, g) for x, g in pairs]

    def step(self, number: int, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """The new value of every leaf that has a gradient."""
        return self.launch(number, self._values(c), grads)

    def launch(
        self, number: int, scalars: Sequence[float], gradients: Sequence[Any]
    ) -> list[Update]:
        """The new value of every leaf that has a gradient."""
        updates = []
        for leaf, g in zip(self.leaves, gradients, strict=True):
            if g is not None:
                try:
                    new = self._run(g, leaf.array, leaf.moments, scalars)
                except (ZeroDivisionError, ValueError):
                    new = self._with_numpy(g, leaf, scalars)
                updates.append((leaf, *new))
        return cast("list[Update]", updates)

    @np.errstate(all="ignore")
    def _with_numpy(self, g: float, leaf: Leaf, scalars: Sequence[float]) -> Any:
        given = (np.float64(g), np.float64(leaf.array), [*map(np.float64, leaf.moments)])
        new, moments = self._run_all(*given, [*map(np.float64, scalars)])
        return float(new), tuple(map(float, moments))

    def finish(self, number: int) -> list[Update] | Unfinished:
        """Nothing has been written."""
        return Unfinished.UNTOUCHED


def function(program: Program, real: Callable[..., Any], sqrt: Callable[..., Any]) -> Function:
    """The program as a function of scalars of this class."""
    texts = expressions(python)
    lines = [
        f"{it.result} = {texts[it.operation].format(*it.operands)}" for it in program.instructions
    ]
    p, *moments = program.state
    new, *after = program.outputs
    source = "\n    ".join(
        [
            f"def run(g, {p}, moments, scalars):",
            f"({_row(moments)}) = moments",
            f"({_row(program.scalars)}) = scalars",
            *lines,
            f"return {new}, ({_row(after)})",
        ]
    )
    names: dict[str, Any] = {"real": real, "sqrt": sqrt}
    exec(compile(source, "<one update of one float>", "exec"), names)
    return cast(Function, names["run"])


def _row(names: Sequence[str]) -> str:
    return "".join(f"{name}, " for name in names)
