"""The CPU engine: one pass over memory, all leaves in one call, on every core.

`engine` is the engine for dense arrays, `strided` that for arrays with gaps, and `floats` that for
Python floats. `tiles` runs a program by NumPy, until `payoff` says that compiling pays; then
`codegen` writes it as Numba source, `compiler` compiles it, and `machine_code` keeps the result;
`workers` and `work_queue` share the work between threads; `half_numpy` and `half_numba` convert
half precision.
"""

from collections.abc import Hashable, Sequence
from types import ModuleType
from typing import cast

from ...leaf import Leaf
from ...words import named
from ..kernels.program import Traced
from ..kernels.table import why_not_dense
from ..protocol import Plan as AnyPlan
from . import engine, floats, strided


def refusal(traced: Traced, leaf: Leaf) -> str | None:
    """The reason why it cannot take the leaf, or None."""
    if traced.refusal is not None or _part(leaf) is floats:
        return traced.refusal
    if not leaf.backend.writable:
        return f"{named(leaf.path)} is read-only; pass a copy that can be written"
    reason = leaf.library.no_address(leaf.array)
    return None if reason is None else f"{named(leaf.path)} {reason}"


def key(traced: Traced, leaf: Leaf) -> Hashable:
    """The key of what is compiled, and of how a leaf is read."""
    return traced.program, traced.summing(False), _part(leaf)


def summary(leaf: Leaf) -> str:
    """A line for `explain()`."""
    summary: str = _part(leaf).summary()
    return summary


def Plan(traced: Traced, leaves: Sequence[Leaf]) -> AnyPlan:  # noqa: N802 (a class elsewhere)
    """Prepare for these leaves."""
    return cast(AnyPlan, _part(leaves[0]).Plan(traced, leaves))


def _part(leaf: Leaf) -> ModuleType:
    """The module that steps a leaf."""
    if leaf.backend.library == "python":
        return floats
    return engine if why_not_dense(leaf) is None else strided


__all__ = ["Plan", "key", "refusal", "summary"]
