"""Who steps on a device: Adam as it is to be had there, this package, and a copy as the limit.

As in `competitors`, all state the same Adam, on float32. What they need of the device they are
given, so a stand-in on the host tests them.
"""

# ruff: noqa: D102 (as in `competitors`)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from .competitors import (
    BETAS,
    EPS,
    LR,
    OURS,
    Competitor,
    InNumPy,
    Make,
    Optax,
    Ours,
    Stepper,
    Textbook,
    needed,
    torch_adam,
)
from .harness import MissingError, Runner
from .workloads import Arrays


class Device(Protocol):
    """What is asked of a device; `cuda.Cuda` says what each of these is."""

    @property
    def xp(self) -> Any: ...
    @property
    def cache(self) -> int: ...
    def array(self, x: Any) -> Any: ...
    def host(self, x: Any) -> Any: ...
    def fuse(self, function: Callable[..., None]) -> Callable[..., None]: ...
    def runs_jax(self) -> bool: ...
    def synchronize(self) -> None: ...
    def seconds(self, runner: Runner, steps: int) -> float: ...
    def available(self) -> int: ...
    def describe(self) -> dict[str, Any]: ...


class Fused(InNumPy):
    """The paper's lines in one function, of which `fuse` makes one kernel for each array."""

    def __init__(
        self, params: Arrays, grads: Arrays, *, xp: Any, fuse: Callable[..., Callable[..., None]]
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


class Copy(Stepper):
    """No Adam: a copy on the device that reads and writes as many bytes as a step of Adam does."""

    LARGEST = 1 << 29  # bytes, far beyond any cache; more are as many passes, to spare memory

    def __init__(self, params: Arrays, grads: Arrays, *, xp: Any) -> None:
        size = 14 * sum(p.size for p in params)  # 16 bytes read and 12 written are 14 of each
        self.copy, self.passes = xp.copyto, -(-size // self.LARGEST)
        self.source = xp.ones(size // self.passes // 4, xp.float32)
        self.target = xp.zeros_like(self.source)

    def step(self) -> None:
        for _ in range(self.passes):
            self.copy(self.target, self.source)

    def give(self, grads: Arrays) -> None:
        raise NotImplementedError("a copy does not depend on values")

    def params(self) -> Arrays:
        return [self.target]


class OursOnTorch(Ours):
    """This package on tensors that share the arrays' memory."""

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        self.tensor = needed("torch").from_dlpack
        super().__init__([self.tensor(p) for p in params], [self.tensor(g) for g in grads])

    def give(self, grads: Arrays) -> None:
        self.g = [self.tensor(g) for g in grads]

    def params(self) -> Arrays:
        return [p.cpu().numpy() for p in self.optimizer.params]


class Rotation:
    """Several runners, each with arrays of its own, stepped in turn.

    Where one set of arrays fits into the cache it would still be there at the next step, as it is
    in no training loop, whose forward and backward pass need the cache meanwhile.
    """

    def __init__(self, runners: Iterable[Runner]) -> None:
        self.runners = list(runners)
        self._next = itertools.cycle([runner.run for runner in self.runners]).__next__

    def run(self, steps: int) -> None:
        """Make this many steps, each on the next set."""
        for _ in range(steps):
            self._next()(1)

    def finish(self) -> None:
        """Return when all steps are done."""
        for runner in self.runners:
            runner.finish()

    def close(self) -> None:
        """Let go of everything that is held outside this object."""
        for runner in self.runners:
            runner.close()


class Entry(NamedTuple):
    """A competitor, the bytes that it needs for an element beyond p and g, its own moments and what
    a step allocates, and whether the device's events see its work."""

    make: Make
    needs: int
    seen: bool = True


CUPY, FUSE, COPY, OURS_TORCH = "CuPy textbook", "cupy.fuse", "device copy", "adam_any, torch"
TORCH, FOREACH, OPTAX = "torch fused", "torch foreach", "optax, jax.jit"


def everyone(device: Device) -> Mapping[str, Entry]:
    """Everyone in the benchmark, by the name in its tables; who matters most comes first, and gets
    memory where there is little."""
    xp = device.xp

    def optax(params: Arrays, grads: Arrays) -> Competitor:
        if not device.runs_jax():
            raise MissingError("JAX finds no CUDA device")
        return Optax(params, grads, device.host)

    return {
        OURS: Entry(Ours, 8),
        TORCH: Entry(torch_adam(foreach=False, fused=True), 8),
        COPY: Entry(partial(Copy, xp=xp), 28),
        CUPY: Entry(partial(Textbook, xp=xp), 24),
        FUSE: Entry(partial(Fused, xp=xp, fuse=device.fuse), 8),
        FOREACH: Entry(torch_adam(foreach=True, fused=False), 24),
        OURS_TORCH: Entry(OursOnTorch, 8),
        OPTAX: Entry(optax, 32, seen=False),
    }
