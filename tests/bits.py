"""Equality of bits, in which a NaN equals a NaN."""

from __future__ import annotations

from typing import Any

import numpy as np


def differ(a: Any, b: Any) -> int:
    """How many numbers differ; those of a complex array are counted by their parts."""
    a, b = (np.array(x, order="C").reshape(-1) for x in (a, b))
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    reals = [x.view(x.real.dtype) for x in (a, b)]
    nan = np.isnan(reals[0]) & np.isnan(reals[1])
    bits = [x.view(f"u{x.itemsize}") for x in reals]
    return int(np.count_nonzero((bits[0] != bits[1]) & ~nan))


def same(a: Any, b: Any) -> None:
    """Fail unless two arrays have the same bits."""
    assert differ(a, b) == 0
