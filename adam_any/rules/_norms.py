"""Norms from sums of squares, on the host or in a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def total(xp: Any, parts: Sequence[Any]) -> Any:
    """The sum of numbers, which on the host does not depend on their order."""
    if hasattr(xp, "fsum"):  # it is being written down (`scalars`)
        return xp.fsum(parts)
    if all(isinstance(x, float) for x in parts):  # NumPy's scalars, too
        return type(parts[0])(math.fsum(parts)) if all(map(math.isfinite, parts)) else sum(parts)
    return sum(parts)


def limiting(xp: Any, norm: Any, limit: Any) -> Any:
    """The factor that reduces a norm to a limit: 1 below it, 0 where the norm is not finite."""
    factor = xp.where(norm <= limit, 1.0, limit / norm)
    return xp.where(norm == norm, factor, 0.0)
