"""Arithmetic of scalars on the host, for `coefficients`; under `jax.jit` they may be tracers."""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace


def sqrt(x: Any) -> Any:
    """The square root."""
    return math.sqrt(x) if isinstance(x, float) else array_namespace(x).sqrt(x)


def log(x: Any) -> Any:
    """The natural logarithm; that of 0 is finite, and as good as -inf."""
    if isinstance(x, float):
        return math.log(x or 5e-324)
    return array_namespace(x).log(x)


def expm1(x: Any) -> Any:
    """The exponential less 1."""
    return math.expm1(x) if isinstance(x, float) else array_namespace(x).expm1(x)


def choose(condition: Any, yes: Any, no: Any) -> Any:
    """One of two numbers. Both have been computed, so both must be finite."""
    if isinstance(condition, bool):
        return yes if condition else no
    return array_namespace(condition).where(condition, yes, no)
