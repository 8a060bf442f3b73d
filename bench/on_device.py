"""Who steps on a device: Adam as others offer it there, this package, and a copy as the limit.

As in `competitors`, all state the same Adam, on float32. What they need of the device they are
given, so a stand-in on the host tests them.
"""

# ruff: noqa: D102 (as in `competitors`)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from .competitors import (
    BETAS,
    EPS,
    FOREACH,
    LR,
    OPTAX,
    OURS,
    TORCH,
    Make,
    Optax,
    Ours,
    Textbook,
    torch_adam,
)
from .cuda import Cuda
from .harness import MissingError, Runner, needed
from .workloads import Arrays


class Fused(Textbook):
    """The paper's lines in one function, of which `fuse` makes one kernel for each array."""

    def __init__(
        self, params: Arrays, grads: Arrays, xp: Any, fuse: Callable[..., Callable[..., None]]
    ) -> None:
        super().__init__(params, grads, xp)
        beta1, beta2 = BETAS

        def update(p: Any, g: Any, m: Any, v: Any, alpha: float, root: float) -> None:
            m *= beta1
            m += (1 - beta1) * g
            v *= beta2
            v += (1 - beta2) * g * g
            p -= alpha * m / (xp.sqrt(v) * root + EPS)

        self.update = fuse(update)

    def step(self) -> None:
        self.t += 1
        beta1, beta2 = BETAS
        alpha, root = LR / (1 - beta1**self.t), 1 / math.sqrt(1 - beta2**self.t)
        for leaf in zip(self.p, self.g, self.m, self.v, strict=True):
            self.update(*leaf, alpha, root)


class Copy(Runner):
    """Not an Adam: a copy that reads and writes as many bytes as a step of Adam does."""

    LARGEST = 1 << 29  # bytes, far beyond any cache; more are as many passes, to spare memory

    def __init__(self, params: Arrays, grads: Arrays, xp: Any) -> None:
        size = 14 * sum(p.size for p in params)  # 16 bytes read and 12 written are 14 of each
        self.copy, self.passes = xp.copyto, -(-size // self.LARGEST)
        self.source = xp.ones(size // self.passes // 4, xp.float32)
        self.target = xp.zeros_like(self.source)

    def step(self) -> None:
        for _ in range(self.passes):
            self.copy(self.target, self.source)


class Rotation(Runner):
    """Several runners, each with arrays of its own, stepped in turn.

    Where one set of arrays fits into the cache it would still be there at the next step, as it is
    in no training loop, whose forward and backward pass need the cache meanwhile.
    """

    def __init__(self, runners: Iterable[Runner]) -> None:
        self.runners = list(runners)
        self._next = itertools.cycle([runner.run for runner in self.runners]).__next__

    def step(self) -> None:
        self._next()(1)

    def finish(self) -> None:
        for runner in self.runners:
            runner.finish()

    def close(self) -> None:
        for runner in self.runners:
            runner.close()


class Entry(NamedTuple):
    """A competitor, the bytes that it needs for an element beyond p and g, its own moments and what
    a step allocates, and whether the device's events see its work.
    """

    make: Make
    needs: int
    seen: bool = True


CUPY, FUSE, COPY, OURS_TORCH = "CuPy textbook", "cupy.fuse", "device copy", "adam_any, torch"


def everyone(device: Cuda) -> Mapping[str, Entry]:
    """Everyone in the benchmark, by the name in its tables; who matters most comes first, and gets
    memory where there is little.
    """
    xp = device.xp

    def optax(params: Arrays, grads: Arrays) -> Runner:
        if not device.runs_jax():
            raise MissingError("JAX finds no CUDA device")
        return Optax(params, grads, device.host)

    def ours_on_torch(params: Arrays, grads: Arrays) -> Runner:
        return Ours(params, grads, like=needed("torch").from_dlpack)

    return {
        OURS: Entry(Ours, 8),
        TORCH: Entry(torch_adam(foreach=False, fused=True), 8),
        COPY: Entry(partial(Copy, xp=xp), 28),
        CUPY: Entry(partial(Textbook, xp=xp), 24),
        FUSE: Entry(partial(Fused, xp=xp, fuse=device.fuse), 8),
        FOREACH: Entry(torch_adam(foreach=True, fused=False), 24),
        OURS_TORCH: Entry(ours_on_torch, 8),
        OPTAX: Entry(optax, 32, seen=False),
    }
