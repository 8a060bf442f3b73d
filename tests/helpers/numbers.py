"""Numbers of every size, and the shapes and options that they are tried with."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 5e-324, 1e-45, -1e-42, 1e300, 3e38]


def data(rng: Any, shape: tuple[int, ...], dtype: str, order: str = "C") -> Any:
    """Numbers of every size, and special ones."""

    def reals() -> Any:
        x = rng.standard_normal(shape) * 10.0 ** rng.integers(-46, 39, shape)
        x = np.where(rng.random(shape) < 0.5, rng.standard_normal(shape), x)
        return np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), x)

    with np.errstate(all="ignore"):
        x = reals()
        if np.dtype(dtype).kind == "c":
            pairs = np.empty((*shape, 2), np.empty(0, dtype).real.dtype)
            pairs[..., 0], pairs[..., 1] = x, reals()
            return np.array(pairs.view(dtype)[..., 0], order=order)
        return np.array(np.asarray(x).astype(dtype), order=order)


SHAPES = st.sampled_from([(), (1,), (0, 3), (7,), (33,), (4, 5), (2, 3, 4), (3, 1, 5), (257,)])


OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([1e-3, 0.5, 0.0]),
        "betas": st.sampled_from([(0.9, 0.999), (0.0, 0.3)]),
        "eps": st.sampled_from([1e-8, 0.0]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
    }
)
