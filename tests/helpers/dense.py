"""The engines of dense memory: wherever the numbers are, they get the bits of the reference."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from adam_any.engines.cpu import compiler as compiled
from adam_any.engines.cpu import tiles
from adam_any.engines.cuda import engine as cuda

from .bits import same
from .libraries import Lib, named
from .numbers import data

#: Each way to step dense memory, on each library that lends it.
KERNELS = (
    named("numpy"),
    named("numpy-tiles"),
    named("torch"),
    dataclasses.replace(named("torch"), tiles=True),
    named("cupy-emulated"),
    dataclasses.replace(named("torch-cuda"), device="emulated"),
    named("cupy-cuda"),
    named("torch-cuda"),
)

REALS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*REALS, "complex64", "complex128")

#: ml_dtypes lends NumPy a bfloat16.
HERE = [x for x in DTYPES if x != "bfloat16" or importlib.util.find_spec("ml_dtypes")]


def dtypes(kernel: Lib) -> list[str]:
    """Those that its engine takes."""
    lent = {"bfloat16"} if kernel.device == "emulated" else set()
    return [dtype for dtype in HERE if dtype in {*kernel.dtypes, *lent}]


def gradients(kernel: Lib, dtype: str) -> list[str]:
    """The dtypes that the gradient of a parameter may have."""
    if dtype.startswith("complex"):
        return ["complex64", "complex128"]
    taken = {*kernel.dtypes, *dtypes(kernel)}
    return [real for real in HERE if real in REALS and real in taken]


def dtype_of(name: str) -> Any:
    """NumPy's dtype; a test of one that it lacks is skipped."""
    if name == "bfloat16":
        return pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    return np.dtype(name)


def numbers(rng: Any, shape: tuple[int, ...], dtype: str, order: str = "C", at: int = 0) -> Any:
    """Numbers of every size, and special ones, that begin `at` elements into their memory, with a
    guard of sevens before and behind."""
    wide = data(rng, shape, "float32" if dtype in ("float16", "bfloat16") else dtype, order)
    room = np.full(at + wide.size + 9, 7, dtype_of(dtype))
    x = room[at : at + wide.size].reshape(shape, order=order)
    with np.errstate(all="ignore"):
        x[...] = wide
    return x


def guarded(x: Any) -> None:
    """Fail if something has been written beside an array."""
    at = (x.ctypes.data - x.base.ctypes.data) // x.itemsize
    beside = np.delete(widened(x.base), np.s_[at : at + x.size])
    assert (beside == 7).all()


def widened(x: Any) -> Any:
    """The same numbers in a dtype that NumPy has."""
    return x.astype(np.float32) if x.dtype.name == "bfloat16" else x


class Reference:
    """The reference on NumPy."""

    def __init__(self, params: list[Any], make: Any) -> None:
        self.params = params
        self.opt = make(params, engine="eager")

    def step(self, grads: list[Any]) -> None:
        self.opt.step(grads)


def compare(kernel: Lib, fast: Any, slow: Reference) -> None:
    """Parameters and moments must have the same bits, and step counts must be equal."""
    for mine, theirs in zip(fast.params, slow.params, strict=True):
        same(kernel.bits(mine), widened(theirs))
    ours, others = fast.state_dict()["state"], slow.opt.state_dict()["state"]
    for path, entry in others.items():
        assert ours[path]["step"] == entry["step"]
        for name in set(entry) - {"step"}:
            same(kernel.bits(ours[path][name]), entry[name])


@contextlib.contextmanager
def cut(chunk: int, threads: int = 1) -> Iterator[None]:
    """Chunks of a length, and helpers for the smallest step, while it lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "longest", lambda elements: chunk)
        patch.setattr(compiled.Kernel, "chunk", chunk)
        patch.setattr(tiles.Kernel, "chunk", min(chunk, tiles.TILE))
        if compiled.missing() is None:
            from adam_any.engines.cpu import workers as helpers

            patch.setattr(helpers, "SHARE", 1)
            patch.setattr(helpers, "WAKE", 1)
            patch.setattr(helpers, "threads", lambda: threads)
        yield


def run(
    kernel: Lib,
    shapes: list[tuple[int, ...]],
    dtype: str,
    make: Any,
    *,
    seed: int = 0,
    orders: str = "CFCFCF",
    starts: Any = (0, 1, 2, 3, 0, 5),
    other: str | None = None,
    steps: int = 4,
) -> tuple[Any, Reference]:
    """Step both: the second gradients in another order, at the second step the first of them of
    another dtype, at the third step the last of them None, and then conjugates that are lazy."""
    rng = np.random.default_rng(seed)
    orders, starts = itertools.cycle(orders), itertools.cycle(starts)
    hosts = [numbers(rng, s, dtype, next(orders), next(starts)) for s in shapes]
    slow = Reference([x.copy(order="K") for x in hosts], make)
    params = [kernel.view(x) for x in hosts]
    if kernel.name == "torch":
        params[0].requires_grad_()
    fast = make(params, engine=None)
    assert {choice.engine for choice in fast.explain()} == {kernel.runs}
    for t in range(steps):
        grads = [numbers(rng, s, dtype, next(orders), next(starts)) for s in shapes]
        if t == 1 and other is not None:
            grads[0] = numbers(rng, shapes[0], other, next(orders), next(starts))
        given = [kernel.view(g) for g in grads]
        before = [g.tobytes() for g in grads]
        if t == 2:
            grads[-1] = given[-1] = None
        if t == 3 and kernel.name == "torch" and dtype.startswith("complex"):
            given, grads = [g.conj() for g in given], [g.conj() for g in grads]
            before = [g.tobytes() for g in grads]
        versions = [x._version for x in params] if kernel.name == "torch" else []
        fast.step(given), slow.step(grads)
        for p, g, version in zip(params, grads, versions, strict=False):
            assert p._version == version + (g is not None)  # so autograd knows
        for g, old in zip(grads, before, strict=True):
            assert g is None or g.tobytes() == old  # gradients are never written
    for x in hosts:
        guarded(x)
    return fast, slow
