"""The CPU engine: one pass over memory, all leaves in one call, on every core.

`engine` is the engine for arrays, and `floats` that for Python floats; `tiles` runs a program by
NumPy, until `payoff` says that compiling pays; then `codegen` writes it as Numba source, `compiler`
compiles it, and `machine_code` keeps the result; `workers` and `work_queue` share the work between
threads; `half_numpy` and `half_numba` convert half precision.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import cast

from ...leaf import Leaf
from ..kernels.program import Traced
from ..protocol import Plan as AnyPlan
from . import engine, floats
from .engine import key


def refusal(traced: Traced, leaf: Leaf) -> str | None:
    """The reason why it cannot take the leaf, or None."""
    return cast("str | None", _part(leaf).refusal(traced, leaf))


def summary(leaf: Leaf) -> str:
    """A line for `explain()`."""
    return floats.SUMMARY if _part(leaf) is floats else engine.summary()


def Plan(traced: Traced, leaves: Sequence[Leaf]) -> AnyPlan:  # noqa: N802 (a class elsewhere)
    """Prepare for these leaves."""
    return cast(AnyPlan, _part(leaves[0]).Plan(traced, leaves))


def _part(leaf: Leaf) -> ModuleType:
    return floats if leaf.backend.library == "python" else engine


__all__ = ["Plan", "key", "refusal", "summary"]
