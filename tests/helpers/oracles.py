"""Each rule but Adam in long double, straight from its paper, one step after another.

These share no code with the package. An oracle is given what it remembers, the gradient, the number
of the step (1 at the first), the parameter and the learning rate. It returns the step, which is
subtracted, or None where there is none. What the papers leave to the caller is in `run`: climbing,
L2, and decoupled decay.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

LONG = np.longdouble


class Memory:
    """What an oracle remembers, by name; all begins at 0."""

    def __getattr__(self, name: str) -> Any:
        return LONG(0)


def run(
    step: Callable[..., Any],
    p: Any,
    grads: Iterable[Any],
    *,
    lr: Any,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    **options: Any,
) -> Any:
    """The parameter before the first step and after each, in float64."""
    memory, p = Memory(), np.asarray(p, LONG)
    path = [p]
    if "weight_decay" in inspect.signature(step).parameters:
        options, weight_decay = {**options, "weight_decay": weight_decay}, 0.0
    with np.errstate(all="ignore"):
        for t, g in enumerate(grads, start=1):
            eta = LONG(lr(t - 1) if callable(lr) else lr)
            g = np.asarray(g, LONG) * (-1 if maximize else 1)
            if not decoupled:
                g = g + weight_decay * p
            change = step(memory, g, t, p, eta, **{k: exact(v) for k, v in options.items()})
            if change is not None:
                p = p - change - (eta * weight_decay * p if decoupled else 0)
            path.append(p)
    return np.asarray(path, np.float64)


def exact(x: Any) -> Any:
    """A number in long double."""
    if isinstance(x, tuple):
        return tuple(map(LONG, x))
    return LONG(x) if isinstance(x, float) else x


def lion(s: Any, g: Any, t: int, p: Any, lr: Any, betas: Any = (0.9, 0.99)) -> Any:
    b1, b2 = map(LONG, betas)
    u = np.sign(b1 * s.m + (1 - b1) * g)
    s.m = b2 * s.m + (1 - b2) * g
    return lr * u


def sgd(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    momentum: Any = 0.0,
    dampening: Any = 0.0,
    nesterov: bool = False,
) -> Any:
    s.m = g if t == 1 else momentum * s.m + (1 - dampening) * g
    if not momentum:
        return lr * g
    return lr * (g + momentum * s.m if nesterov else s.m)


def rmsprop(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    rho: Any = 0.99,
    eps: Any = 1e-8,
    momentum: Any = 0.0,
    centered: bool = False,
) -> Any:
    rho = LONG(rho)
    s.v = rho * s.v + (1 - rho) * g**2
    s.m = rho * s.m + (1 - rho) * g
    variance = np.maximum(s.v - s.m**2, 0) if centered else s.v
    s.b = momentum * s.b + g / (np.sqrt(variance) + eps)
    return lr * s.b


def adagrad(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    lr_decay: Any = 0.0,
    initial: Any = 0.0,
    eps: Any = 1e-10,
) -> Any:
    s.v = (initial if t == 1 else s.v) + g**2
    return lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s.v) + eps)


def adadelta(s: Any, g: Any, t: int, p: Any, lr: Any, rho: Any = 0.9, eps: Any = 1e-6) -> Any:
    rho = LONG(rho)
    s.v = rho * s.v + (1 - rho) * g**2
    u = np.sqrt(s.d + eps) / np.sqrt(s.v + eps) * g
    s.d = rho * s.d + (1 - rho) * u**2
    return lr * u


def adamax(
    s: Any, g: Any, t: int, p: Any, lr: Any, betas: Any = (0.9, 0.999), eps: Any = 1e-8
) -> Any:
    b1, b2 = map(LONG, betas)
    s.m = b1 * s.m + (1 - b1) * g
    s.u = np.maximum(b2 * s.u, abs(g) + eps)
    return lr / (1 - b1**t) * s.m / s.u


def nadam(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-8,
    momentum_decay: Any = 4e-3,
) -> Any:
    b1, b2 = map(LONG, betas)
    mu, ahead = (b1 * (1 - LONG(0.96) ** (i * LONG(momentum_decay)) / 2) for i in (t, t + 1))
    s.product = mu if t == 1 else s.product * mu
    s.m = b1 * s.m + (1 - b1) * g
    s.v = b2 * s.v + (1 - b2) * g**2
    m_hat = ahead * s.m / (1 - s.product * ahead) + (1 - mu) * g / (1 - s.product)
    return lr * m_hat / (np.sqrt(s.v / (1 - b2**t)) + eps)


def radam(
    s: Any, g: Any, t: int, p: Any, lr: Any, betas: Any = (0.9, 0.999), eps: Any = 1e-8
) -> Any:
    b1, b2 = map(LONG, betas)
    s.m = b1 * s.m + (1 - b1) * g
    s.v = b2 * s.v + (1 - b2) * g**2
    m_hat = s.m / (1 - b1**t)
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    if length <= 5:
        return lr * m_hat
    l_t = np.sqrt(1 - b2**t) / (np.sqrt(s.v) + eps)
    above, below = (length - 4) * (length - 2) * longest, (longest - 4) * (longest - 2) * length
    return lr * m_hat * np.sqrt(above / below) * l_t


def adabelief(
    s: Any, g: Any, t: int, p: Any, lr: Any, betas: Any = (0.9, 0.999), eps: Any = 1e-16
) -> Any:
    b1, b2 = map(LONG, betas)
    s.m = b1 * s.m + (1 - b1) * g
    s.s = b2 * s.s + (1 - b2) * (g - s.m) ** 2 + eps
    return lr * s.m / (1 - b1**t) / (np.sqrt(s.s / (1 - b2**t)) + eps)


def yogi(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-3,
    initial: Any = 1e-6,
    corrected: bool = False,
) -> Any:
    b1, b2 = map(LONG, betas)
    v = LONG(initial) if t == 1 else s.v
    s.m = b1 * s.m + (1 - b1) * g
    s.v = v - (1 - b2) * np.sign(v - g**2) * g**2
    if corrected:
        return lr * s.m / (1 - b1**t) / (np.sqrt(s.v / (1 - b2**t)) + eps)
    return lr * s.m / (np.sqrt(s.v) + eps)


def laprop(
    s: Any, g: Any, t: int, p: Any, lr: Any, betas: Any = (0.9, 0.999), eps: Any = 1e-15
) -> Any:
    b1, b2 = map(LONG, betas)
    s.v = b2 * s.v + (1 - b2) * g**2
    s.m = b1 * s.m + (1 - b1) * g / (np.sqrt(s.v / (1 - b2**t)) + eps)
    return lr * s.m / (1 - b1**t)


def adan(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    betas: Any = (0.98, 0.92, 0.99),
    eps: Any = 1e-8,
    as_optax: bool = False,
) -> Any:
    """In the paper's letters, which are 1 less the decay rates."""
    beta1, beta2, beta3 = (1 - LONG(b) for b in betas)
    difference = g - (g if t == 1 else s.last)
    factor = beta2 if as_optax else 1 - beta2
    s.m = (1 - beta1) * s.m + beta1 * g
    s.v = (1 - beta2) * s.v + beta2 * difference
    s.n = (1 - beta3) * s.n + beta3 * (g + factor * difference) ** 2
    s.last = g
    m, v, n = (x / (1 - (1 - beta) ** t) for x, beta in ((s.m, beta1), (s.v, beta2), (s.n, beta3)))
    return lr * (m + factor * v) / (np.sqrt(n) + eps)


def adopt(
    s: Any, g: Any, t: int, p: Any, lr: Any, betas: Any = (0.9, 0.9999), eps: Any = 1e-6
) -> Any:
    b1, b2 = map(LONG, betas)
    if t == 1:
        s.v = g**2
        return None
    limit = LONG(t - 1) ** LONG(0.25)
    s.m = b1 * s.m + (1 - b1) * np.clip(g / np.maximum(np.sqrt(s.v), eps), -limit, limit)
    s.v = b2 * s.v + (1 - b2) * g**2
    return lr * s.m


def ademamix(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    betas: Any = (0.9, 0.999, 0.9999),
    alpha: Any = 5.0,
    warmup: Any = 0.0,
    eps: Any = 1e-8,
) -> Any:
    b1, b2, b3 = map(LONG, betas)
    if t < warmup:
        alpha = t * alpha / warmup
        between = (1 - t / warmup) * np.log(b3) + t / warmup * np.log(b1)
        b3 = np.minimum(np.exp(np.log(b1) * np.log(b3) / between), b3)
    s.m1 = b1 * s.m1 + (1 - b1) * g
    s.m2 = b3 * s.m2 + (1 - b3) * g
    s.v = b2 * s.v + (1 - b2) * g**2
    return lr * (s.m1 / (1 - b1**t) + alpha * s.m2) / (np.sqrt(s.v / (1 - b2**t)) + eps)


def rprop(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    etas: Any = (0.5, 1.2),
    limits: Any = (1e-6, 50.0),
) -> Any:
    size, h = (np.full_like(g, lr), 0 * g) if t == 1 else (s.size, s.h)
    turned, stayed = g * h < 0, g * h > 0
    factor = np.where(stayed, etas[1], np.where(turned, etas[0], 1))
    s.size = np.clip(size * factor, *map(LONG, limits))
    s.h = np.where(turned, 0, g)
    return s.size * np.sign(s.h)


def schedule_free(
    s: Any,
    g: Any,
    t: int,
    p: Any,
    lr: Any,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-8,
    warmup: Any = 0.0,
    weight_decay: Any = 0.0,
) -> Any:
    """With the three sequences of the paper; the parameter is y."""
    b1, b2 = map(LONG, betas)
    z, x = (p, p) if t == 1 else (s.z, s.x)
    eta = lr * min(1, LONG(t) / max(warmup, 1))
    s.v = b2 * s.v + (1 - b2) * g**2
    s.z = z - eta * (g / (np.sqrt(s.v / (1 - b2**t)) + eps) + weight_decay * p)
    # The rate may be 0 in a test, so its square is left out of the weights.
    weight = (eta / lr) ** 2 if lr else 1
    s.total = s.total + weight
    c = weight / s.total
    s.x = (1 - c) * x + c * s.z
    return p - ((1 - b1) * s.z + b1 * s.x)
