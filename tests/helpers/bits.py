"""The bits of arrays and optimizers; a NaN equals a NaN."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import optree
import pytest

from adam_any import Optimizer
from adam_any.detect import load as row


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


def snapshot(opt: Optimizer) -> dict[str, Any]:
    """All that a failed call must leave alone: parameters, moments, step counts, as bytes."""
    leaves = optree.tree_leaves(opt.params)
    seen: dict[str, Any] = {f"params {i}": as_bytes(x) for i, x in enumerate(leaves)}
    for path, entry in opt.state_dict()["state"].items():
        for name, value in entry.items():
            seen[f"{path} {name}"] = value if name == "step" else as_bytes(value)
    return seen


def as_bytes(x: Any) -> bytes:
    """The bytes of an array of any library, or of a Python float."""
    if hasattr(x, "detach"):
        x = x.detach()
        x = (x.full_tensor() if hasattr(x, "full_tensor") else x).cpu().resolve_conj()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    elif hasattr(x, "compute"):
        x = x.compute()
    elif type(x).__module__.startswith("cupy"):
        x = row("cupy").to_host(x)
    elif type(x).__module__.startswith("array_api_strict"):
        x = np.from_dlpack(x)
    return np.asarray(x).tobytes()


@contextlib.contextmanager
def refused(opt: Optimizer, error: type[BaseException], match: str | None = None) -> Iterator[None]:
    """An error is raised, and nothing of the optimizer has changed."""
    before = snapshot(opt), repr(opt)
    with pytest.raises(error, match=match):
        yield
    assert (snapshot(opt), repr(opt)) == before
