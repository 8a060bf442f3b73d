"""Who steps: Adam on the CPU as it is to be had elsewhere, and this package.

All state the same Adam with the same hyperparameters (a test compares them), on float32. Each is
made from parameters, which it may write, and gradients, which it only reads.
"""

# ruff: noqa: D102 (what `step`, `give` and `params` do is said once, in `Stepper`)

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np

from .harness import MissingError, Runner
from .workloads import Array, Arrays

LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8


class Competitor(Runner, Protocol):
    """A runner whose arrays can be seen and exchanged."""

    def give(self, grads: Arrays) -> None:
        """Use these gradients from now on."""

    def params(self) -> Arrays:
        """The parameters as they are now."""


Make = Callable[[Arrays, Arrays], Competitor]


class Stepper(ABC):
    """A competitor in this process, which makes its steps one by one."""

    @abstractmethod
    def step(self) -> None:
        """Make one step with the gradients given last."""

    @abstractmethod
    def give(self, grads: Arrays) -> None:
        """Use these gradients from now on."""

    @abstractmethod
    def params(self) -> Arrays:
        """The parameters as they are now."""

    def run(self, steps: int) -> None:
        """Make this many steps."""
        step = self.step
        for _ in range(steps):
            step()

    def finish(self) -> None:  # noqa: B027 (most have nothing to wait for)
        """Return when all steps are done."""

    def close(self) -> None:  # noqa: B027 (nor anything to let go)
        """Let go of everything that is held outside this object."""


class InNumPy(Stepper):
    """What those in NumPy share, or in a namespace like it: parameters and gradients are kept as
    they come."""

    def __init__(self, params: Arrays, grads: Arrays, xp: Any = np) -> None:
        self.p, self.g, self.t, self.xp = params, grads, 0, xp
        self.m = [xp.zeros_like(p) for p in params]
        self.v = [xp.zeros_like(p) for p in params]

    def give(self, grads: Arrays) -> None:
        self.g = grads

    def params(self) -> Arrays:
        return self.p


class Textbook(InNumPy):
    """The paper's lines with the operators of arrays, as people paste them; correct ones."""

    def step(self) -> None:
        self.t += 1
        beta1, beta2 = BETAS
        for i, g in enumerate(self.g):
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1**self.t)
            v_hat = self.v[i] / (1 - beta2**self.t)
            self.p[i] -= LR * m_hat / (self.xp.sqrt(v_hat) + EPS)


class InPlaceNumPy(InNumPy):
    """NumPy with `out=` throughout, corrections folded into scalars, one temporary in all."""

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        super().__init__(params, grads)
        scratch = np.empty(max(p.size for p in params), np.float32)
        self.scratch = [scratch[: p.size].reshape(p.shape) for p in params]

    def step(self) -> None:
        self.t += 1
        beta1, beta2 = BETAS
        alpha = LR / (1 - beta1**self.t)
        root = 1 / math.sqrt(1 - beta2**self.t)
        for p, g, m, v, s in zip(self.p, self.g, self.m, self.v, self.scratch, strict=True):
            np.multiply(g, 1 - beta1, out=s)
            np.multiply(m, beta1, out=m)
            np.add(m, s, out=m)
            np.multiply(g, g, out=s)
            np.multiply(s, 1 - beta2, out=s)
            np.multiply(v, beta2, out=v)
            np.add(v, s, out=v)
            np.sqrt(v, out=s)
            np.multiply(s, root, out=s)
            np.add(s, EPS, out=s)
            np.divide(m, s, out=s)
            np.multiply(s, alpha, out=s)
            np.subtract(p, s, out=p)


class Torch(Stepper):
    """An optimizer of torch's kind, on tensors that share the arrays' memory."""

    def __init__(self, params: Arrays, grads: Arrays, adam: Callable[..., Any]) -> None:
        self.torch = needed("torch")
        self.tensors = [self.torch.nn.Parameter(self.torch.from_dlpack(p)) for p in params]
        self.give(grads)
        self.optimizer = adam(self.tensors, lr=LR, betas=BETAS, eps=EPS)

    def step(self) -> None:
        self.optimizer.step()

    def give(self, grads: Arrays) -> None:
        for p, g in zip(self.tensors, grads, strict=True):
            p.grad = self.torch.from_dlpack(g)

    def params(self) -> Arrays:
        return [p.detach().cpu().numpy() for p in self.tensors]


class Optax(Stepper):
    """optax.adam under jax.jit, parameters and state donated, so that XLA may write in place.

    Steps are handed in one after another, as in a training loop; the last one is waited for.
    """

    def __init__(
        self, params: Arrays, grads: Arrays, host: Callable[[Any], Any] = np.asarray
    ) -> None:
        jax, optax = needed("jax"), needed("optax")
        self.jax = jax
        self.new: Callable[[Any], Any] = lambda x: jax.numpy.array(host(x))
        adam = optax.adam(LR, *BETAS, eps=EPS)

        def update(params: Any, state: Any, grads: Any) -> Any:
            change, state = adam.update(grads, state, params)
            return optax.apply_updates(params, change), state

        self.update = jax.jit(update, donate_argnums=(0, 1))
        self.p = [self.new(p) for p in params]
        self.state = adam.init(self.p)
        self.give(grads)

    def step(self) -> None:
        self.p, self.state = self.update(self.p, self.state, self.g)

    def finish(self) -> None:
        self.jax.block_until_ready(self.p)

    def give(self, grads: Arrays) -> None:
        self.g = [self.new(g) for g in grads]

    def params(self) -> Arrays:
        return [np.asarray(p) for p in self.p]


class Ours(Stepper):
    """This package, through its public face: `Adam`, or `Optimizer` with a rule of one's own."""

    def __init__(
        self, params: Arrays, grads: Arrays, *, rule: Any = None, engine: str | None = None
    ) -> None:
        from adam_any import Adam, Optimizer

        self.g = grads
        self.optimizer: Optimizer = (
            Adam(params, LR, BETAS, EPS, engine=engine)
            if rule is None
            else Optimizer(params, rule, engine=engine)
        )

    def step(self) -> None:
        self.optimizer.step(self.g)

    def give(self, grads: Arrays) -> None:
        self.g = grads

    def params(self) -> Arrays:
        arrays: Arrays = self.optimizer.params
        return arrays


@dataclasses.dataclass(frozen=True)
class Lion:
    """A rule of a user's own: the sign of an interpolation (Chen et al. 2023)."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    moments: ClassVar[tuple[str, ...]] = ("m",)

    def coefficients(self, t: int) -> dict[str, float]:
        """The scalars of a step."""
        return {"lr": self.lr, "w1": 1 - self.betas[0], "w2": 1 - self.betas[1]}

    def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
        """One step: 3 reads and 2 writes."""
        change = g - m
        return p - c.lr * xp.sign(m + c.w1 * change), m + c.w2 * change


class MemoryLimit(Stepper):
    """No Adam: the same reads and writes over one array of as many elements."""

    LARGEST = 1 << 26  # far beyond any cache; more elements are as many passes, to spare memory

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        needed("numba")
        self.kernel = import_module("bench.limit").step
        elements = sum(p.size for p in params)
        self.passes = -(-elements // self.LARGEST)
        self.arrays: list[Array] = [
            np.full(elements // self.passes, 1e-3, np.float32) for _ in range(4)
        ]

    def step(self) -> None:
        for _ in range(self.passes):
            self.kernel(*self.arrays)

    def give(self, grads: Arrays) -> None:
        raise NotImplementedError("the memory limit does not depend on values")

    def params(self) -> Arrays:
        return self.arrays[:1]


def needed(module: str, package: str | None = None) -> Any:
    """An imported module, or MissingError with the reason in words."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingError(f"{package or module} is not installed ({error})") from None


def torch_adam(**how: bool) -> Make:
    """torch.optim.Adam with these settings."""
    return lambda p, g: Torch(p, g, partial(needed("torch").optim.Adam, **how))


def deepspeed(params: Arrays, grads: Arrays) -> Competitor:
    """DeepSpeedCPUAdam, which compiles itself with g++ when first made."""
    adam = needed("deepspeed.ops.adam", "deepspeed").DeepSpeedCPUAdam
    return Torch(params, grads, partial(adam, adamw_mode=False))


def without_numba(params: Arrays, grads: Arrays) -> Competitor:
    """This package as it is where Numba is not installed."""
    from .remote import WithoutNumba

    return WithoutNumba(params, grads)


OURS, EAGER, NO_NUMBA = "adam_any", "adam_any, eager", "adam_any, no Numba"
TEXTBOOK, IN_PLACE = "NumPy textbook", "NumPy in place"
LION, LIMIT = "adam_any, Lion", "memory limit"

#: Everyone in the CPU benchmark, by the name in its tables.
CPU: dict[str, Make] = {
    OURS: Ours,
    "torch fused": torch_adam(foreach=False, fused=True),
    "torch foreach": torch_adam(foreach=True, fused=False),
    "torch for-loop": torch_adam(foreach=False, fused=False),
    "DeepSpeed CPUAdam": deepspeed,
    "optax, jax.jit": Optax,
    IN_PLACE: InPlaceNumPy,
    TEXTBOOK: Textbook,
    NO_NUMBA: without_numba,
    EAGER: partial(Ours, engine="eager"),
    LION: partial(Ours, rule=Lion()),
    LIMIT: MemoryLimit,
}

#: Those that are Adam, and so must agree.
ADAM: dict[str, Make] = {name: make for name, make in CPU.items() if name not in (LION, LIMIT)}
