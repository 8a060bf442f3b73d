"""Who steps: Adam on the CPU as others offer it, and this package.

All state the same Adam with the same hyperparameters (a test compares them), on float32. Each is
made from parameters, which it may write, and gradients, which it only reads.
"""

# ruff: noqa: D102 (what the methods do is said once, in `Runner` and `Competitor`)

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar
from unittest import mock

import numpy as np

from adam_any import rules

from .harness import Runner, needed
from .workloads import Arrays

LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8


class Competitor(Runner):
    """A runner whose arrays can be seen and exchanged."""

    def __init__(self, params: Arrays, grads: Arrays) -> None:
        self.p: Any = params
        self.g: Any = grads

    def give(self, grads: Arrays) -> None:
        """Use these gradients from now on."""
        self.g = grads

    def params(self) -> Any:
        """The parameters as they are now."""
        return self.p


Make = Callable[[Arrays, Arrays], Any]


class Textbook(Competitor):
    """The paper's lines with the operators of arrays, as people paste them; correct ones."""

    def __init__(self, params: Arrays, grads: Arrays, xp: Any = np) -> None:
        super().__init__(params, grads)
        self.t, self.xp = 0, xp
        self.m = [xp.zeros_like(p) for p in params]
        self.v = [xp.zeros_like(p) for p in params]

    def step(self) -> None:
        self.t += 1
        beta1, beta2 = BETAS
        for i, g in enumerate(self.g):
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1**self.t)
            v_hat = self.v[i] / (1 - beta2**self.t)
            self.p[i] -= LR * m_hat / (self.xp.sqrt(v_hat) + EPS)


class InPlaceNumPy(Textbook):
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


class Torch(Competitor):
    """An optimizer with torch's interface, on tensors that share the arrays' memory."""

    def __init__(
        self,
        params: Arrays,
        grads: Arrays,
        adam: Callable[..., Any],
        like: Callable[[Any], Any] | None = None,
    ) -> None:
        self.tensor = like or needed("torch").from_dlpack
        self.p = [needed("torch").nn.Parameter(self.tensor(p)) for p in params]
        self.give(grads)
        self.adam = adam(self.p, lr=LR, betas=BETAS, eps=EPS)

    def step(self) -> None:
        self.adam.step()

    def give(self, grads: Arrays) -> None:
        for p, g in zip(self.p, grads, strict=True):
            p.grad = self.tensor(g)

    def params(self) -> Any:
        return [p.detach() for p in self.p]


class Optax(Competitor):
    """optax.adam under jax.jit, parameters and state donated, so that XLA may write in place.

    Steps are handed in one after another, as in a training loop; the last one is waited for.
    """

    def __init__(
        self,
        params: Arrays,
        grads: Arrays,
        host: Callable[[Any], Any] = np.asarray,
        rule: Callable[[Any], Any] = lambda optax: optax.adam(LR, *BETAS, eps=EPS),
        donated: tuple[int, ...] = (0, 1),
    ) -> None:
        self.jax, optax = needed("jax"), needed("optax")
        self.new: Callable[[Any], Any] = lambda x: self.jax.numpy.array(host(x))
        adam = rule(optax)

        def update(params: Any, state: Any, grads: Any) -> Any:
            change, state = adam.update(grads, state, params)
            return optax.apply_updates(params, change), state

        self.update = self.jax.jit(update, donate_argnums=donated)
        self.p = [self.new(p) for p in params]
        self.state = adam.init(self.p)
        self.give(grads)

    def step(self) -> None:
        self.p, self.state = self.update(self.p, self.state, self.g)

    def finish(self) -> None:
        self.jax.block_until_ready(self.p)

    def give(self, grads: Arrays) -> None:
        self.g = [self.new(g) for g in grads]


class Ours(Competitor):
    """The package itself: `Adam`, or `Optimizer` with another rule; arrays as `like` makes them."""

    def __init__(
        self,
        params: Arrays,
        grads: Arrays,
        *,
        rule: Any = None,
        engine: str | None = None,
        like: Callable[[Any], Any] = lambda x: x,
    ) -> None:
        from adam_any import Adam, Optimizer

        self.like, mine = like, [like(p) for p in params]
        self.optimizer = (
            Adam(mine, LR, BETAS, EPS, engine=engine)
            if rule is None
            else Optimizer(mine, rule, engine=engine)
        )
        self.give(grads)

    def step(self) -> None:
        self.optimizer.step(self.g)

    def give(self, grads: Arrays) -> None:
        self.g = [self.like(g) for g in grads]

    def params(self) -> Any:
        return self.optimizer.params


class WithoutNumba(Ours):
    """The package itself, as it is where Numba is not installed."""

    def run(self, steps: int) -> None:
        from adam_any.engines.cpu import compiler as compiled

        with mock.patch.object(compiled, "missing", lambda: "it is not to be used"):
            super().run(steps)


@dataclasses.dataclass(frozen=True)
class Lion:
    """A user's own rule: the sign of an interpolation (Chen et al. 2023)."""

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


def torch_rule(name: str, *, fused: bool = False, **options: Any) -> dict[str, Make]:
    """Another rule of torch.optim, as quick as it can be on the CPU."""

    def make(params: Arrays, grads: Arrays) -> Competitor:
        rule = getattr(needed("torch").optim, name)
        how = {"fused": True} if fused else {"foreach": True}
        return Torch(params, grads, lambda p, **adam: rule(p, lr=LR, **how, **options))

    return {TORCH if fused else FOREACH: make}


def optax_rule(rule: Callable[[Any], Any]) -> dict[str, Make]:
    """Another rule of optax's."""
    return {OPTAX: partial(Optax, rule=rule)}


def torch_adam(**how: bool) -> Make:
    """torch.optim.Adam with these settings."""
    return lambda p, g: Torch(p, g, partial(needed("torch").optim.Adam, **how))


def deepspeed(params: Arrays, grads: Arrays) -> Competitor:
    """DeepSpeedCPUAdam, which compiles itself with g++ when first made."""
    adam = needed("deepspeed.ops.adam", "deepspeed").DeepSpeedCPUAdam
    return Torch(params, grads, partial(adam, adamw_mode=False))


def memory_limit(params: Arrays, grads: Arrays) -> Runner:
    """Not an Adam, but what its memory traffic takes at least."""
    limit: Runner = needed("bench.limit", "numba").MemoryLimit(params, grads)
    return limit


OURS, EAGER, NO_NUMBA = "adam_any", "adam_any, eager", "adam_any, no Numba"
TORCH, FOREACH, OPTAX = "torch fused", "torch foreach", "optax, jax.jit"
TEXTBOOK, IN_PLACE, DEEPSPEED = "NumPy textbook", "NumPy in place", "DeepSpeed CPUAdam"
LION, LIMIT = "adam_any, Lion", "memory limit"
ADAM_BESIDE = "adam_any, Adam"

#: Everyone in the CPU benchmark, by the name in its tables.
CPU: dict[str, Make] = {
    OURS: Ours,
    TORCH: torch_adam(foreach=False, fused=True),
    FOREACH: torch_adam(foreach=True, fused=False),
    "torch for-loop": torch_adam(foreach=False, fused=False),
    DEEPSPEED: deepspeed,
    OPTAX: Optax,
    IN_PLACE: InPlaceNumPy,
    TEXTBOOK: Textbook,
    NO_NUMBA: WithoutNumba,
    EAGER: partial(Ours, engine="eager"),
    LION: partial(Ours, rule=Lion()),
    LIMIT: memory_limit,
}

#: Those that are Adam, and so must agree.
ADAM: dict[str, Make] = {name: make for name, make in CPU.items() if name not in (LION, LIMIT)}

#: Other rules, with our Adam beside them, and who has the same.
FAMILY: dict[str, dict[str, Make]] = {
    name: {OURS: partial(Ours, rule=rule), ADAM_BESIDE: Ours, **others}
    for name, rule, others in (
        ("NAdam", rules.NAdam(LR), torch_rule("NAdam")),
        (
            *("RMSprop", rules.RMSprop(LR)),
            torch_rule("RMSprop")
            | optax_rule(lambda optax: optax.rmsprop(LR, 0.99, EPS, eps_in_sqrt=False)),
        ),
        (
            *("SGD", rules.SGD(LR, 0.9)),
            torch_rule("SGD", fused=True, momentum=0.9)
            | optax_rule(lambda optax: optax.sgd(LR, 0.9)),
        ),
        ("Lion", rules.Lion(LR), optax_rule(lambda optax: optax.lion(LR, weight_decay=0.0))),
        ("AdaBelief", rules.AdaBelief(LR), optax_rule(lambda optax: optax.adabelief(LR))),
    )
}
