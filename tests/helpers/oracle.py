"""Adam in float64, straight from the paper (Kingma & Ba 2015, Algorithm 1), one step after another.

It shares no code with the package, and is written to be compared with the paper line by line. Where
long doubles are longer than doubles it carries more digits than it returns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class State(NamedTuple):
    """What Adam knows after a step."""

    p: Any
    m: Any
    v: Any
    vmax: Any
    t: int


def start(p: Any) -> State:
    """The state before the first step."""
    p = np.asarray(p, dtype=np.longdouble)
    return State(p, np.zeros_like(p), np.zeros_like(p), np.zeros_like(p), 0)


def step(
    state: State,
    g: Any,
    *,
    lr: Any = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    amsgrad: bool = False,
    maximize: bool = False,
    eps_hat: bool = False,
    lr_max: float = 0.0,
) -> State:
    """The state after one more gradient, in long double."""
    p, m, v, vmax, t = state
    beta1, beta2 = map(np.longdouble, betas)
    alpha = lr(t) if callable(lr) else lr
    t = t + 1
    g = np.asarray(g, dtype=np.longdouble)
    if maximize:
        g = -g
    if weight_decay and not decoupled:
        g = g + weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    vmax = np.maximum(vmax, v)
    m_hat = m / _one_minus_power(beta1, t)
    v_hat = (vmax if amsgrad else v) / _one_minus_power(beta2, t)
    if eps_hat:
        eps = eps / np.sqrt(_one_minus_power(beta2, t))
    shrink = alpha * weight_decay * p if decoupled else 0.0
    if lr_max:
        shrink = shrink * alpha / lr_max
    p = p - alpha * m_hat / (np.sqrt(v_hat) + eps) - shrink
    return State(p, m, v, vmax, t)


def run(p: Any, grads: Any, **options: Any) -> list[State]:
    """The states before the first step and after each; a gradient of None skips one."""
    states = [start(p)]
    with np.errstate(all="ignore"):
        for g in grads:
            states.append(states[-1] if g is None else step(states[-1], g, **options))
    return [_rounded(*state) for state in states]


def _one_minus_power(beta: Any, t: int) -> Any:
    """1 - beta**t; so written it would lose a hundred times the bound that float64 is held to."""
    return -np.expm1(t * np.log(beta))


def _rounded(*numbers: Any) -> State:
    *arrays, t = numbers
    return State(*(np.asarray(x, dtype=np.float64)[()] for x in arrays), t)
