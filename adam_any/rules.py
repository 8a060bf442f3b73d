"""The rule: the only place that knows Adam.

A rule is a frozen dataclass. Its fields are its hyperparameters (numbers, or tuples of numbers) and
its options (everything else); `moments` names its state arrays, `coefficients` gives the scalars of
one step, and `update` is the mathematics of one step on arrays of real numbers.

What `update` may use, so that every engine can run it: `+ - * /`, negation, `abs`, and `xp.sqrt`,
`xp.maximum`, `xp.minimum`, `xp.sign`. The parentheses are normative: with one rounding each, they
decide the bits. All scalar arithmetic happens in `coefficients`, on the host in float64, and is
rounded once to the compute dtype by `rounded`; so no engine can disagree about it.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import math
import numbers
from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

from array_api_compat import array_namespace

Schedule = Callable[[int], float]
Coefficients = SimpleNamespace


class Rule(Protocol):
    """What an optimizer needs to know of its mathematics; a frozen dataclass that has these."""

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of the state arrays, in order; each starts at zero."""
        ...

    def coefficients(self, t: int, lr: float) -> dict[str, float]:
        """The scalars of update `t` (1 at the first), for a learning rate that is a number."""
        ...

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
        """The new parameter and the new moments, in order; `c.name` is a coefficient."""
        ...


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, Algorithm 1), and its relatives by option.

    With `decoupled` the weight decay is AdamW's (Loshchilov & Hutter 2019), else it is added to the
    gradient (L2). `amsgrad` keeps the maximum of the uncorrected second moment (Reddi et al. 2018,
    as torch has it). `maximize` climbs instead of descending. `lr` may be a callable of the number
    of updates that a leaf has already had.

    Epsilon stands outside the root, after the bias correction. Where eps = 0 and a gradient has
    been 0 from the start, 0/0 is NaN; a gradient whose square overflows the compute dtype makes v
    infinite, and p NaN one step later.

    Raises ValueError for a hyperparameter out of range.
    """

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    amsgrad: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        # A frozen dataclass can only be normalised this way; afterwards every number is a float.
        put = object.__setattr__
        put(self, "lr", learning_rate(self.lr))
        put(self, "betas", _betas(self.betas))
        put(self, "eps", _nonnegative("eps", self.eps))
        put(self, "weight_decay", _nonnegative("weight_decay", self.weight_decay))
        for name in ("decoupled", "amsgrad", "maximize"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be True or False")

    @property
    def moments(self) -> tuple[str, ...]:
        """m and v; vmax with AMSGrad."""
        return ("m", "v", "vmax") if self.amsgrad else ("m", "v")

    def coefficients(self, t: int, lr: float) -> dict[str, float]:
        """The bias corrections, folded into a step size `alpha` and a scale `s` of sqrt(v)."""
        # A count inside a trace brings its own expm1 and sqrt; a Python int uses the host's.
        scalar: Any = math if isinstance(t, int) else array_namespace(t)
        beta1, beta2 = self.betas

        def one_minus_power(beta: float) -> float:  # 1 - beta**t without cancellation
            return -scalar.expm1(t * math.log(beta)) if beta else 1.0

        return {
            "alpha": lr / one_minus_power(beta1),
            "s": 1.0 / scalar.sqrt(one_minus_power(beta2)),
            "w1": 1.0 - beta1 if beta1 >= 0.5 else beta1,
            "w2": 1.0 - beta2 if beta2 >= 0.5 else beta2,
            "eps": self.eps,
            "wd": self.weight_decay,
            "decay": lr * self.weight_decay,
        }

    def update(
        self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any, vmax: Any = None
    ) -> tuple[Any, ...]:
        """One step on arrays of real numbers, in the paper's letters."""
        beta1, beta2 = self.betas
        if self.maximize:
            g = -g
        if self.weight_decay and not self.decoupled:
            g = g + c.wd * p
        m = toward(m, g, beta1, c.w1)
        v = toward(v, g * g, beta2, c.w2)
        if self.amsgrad:
            vmax = xp.maximum(vmax, v)
        u = m / (xp.sqrt(vmax if self.amsgrad else v) * c.s + c.eps)
        if self.weight_decay and self.decoupled:
            p = p - (c.alpha * u + c.decay * p)
        else:
            p = p - c.alpha * u
        return (p, m, v, vmax) if self.amsgrad else (p, m, v)


def toward(old: Any, new: Any, beta: float, weight: float) -> Any:
    """The moving average `beta * old + (1 - beta) * new`, in the form that rounds best.

    `weight` is the smaller of beta and 1 - beta: it is the only weight that is rounded, so after
    1000 steps of float32 a second moment is 18 times closer to float64 than in the usual form.
    """
    return old + weight * (new - old) if beta >= 0.5 else new + weight * (old - new)


def rounded(rule: Rule, t: int, lr: float, compute: str) -> Coefficients:
    """The coefficients of update `t` as Python floats, each rounded once to the compute dtype.

    Raises ValueError when one is not a finite number there.
    """
    values = rule.coefficients(t, lr)
    there = array("f" if compute == "float32" else "d", values.values())
    if not math.isfinite(sum(there)):
        for (name, value), finite in zip(values.items(), map(math.isfinite, there), strict=True):
            if not finite:
                raise ValueError(
                    f"coefficient {name!r} is {value!r} at update {t} with lr = {lr!r}; it must be "
                    f"a finite {compute}"
                )
    c = Coefficients()
    c.__dict__.update(zip(values, there, strict=True))
    return c


def evaluate(lr: Any, count: int) -> float:
    """The learning rate for a leaf that has had `count` updates, from a number or a schedule.

    A schedule may return any number, or a 0-d array as optax's do. Raises ValueError otherwise.
    """
    if not callable(lr):
        return float(lr)
    value = lr(count)
    if getattr(value, "shape", None) == ():
        value = value.item()
    return _nonnegative(f"lr({count})", value)


def learning_rate(lr: Any) -> float | Schedule:
    """`lr` as a float, or the schedule itself; ValueError for anything else."""
    return lr if callable(lr) else _nonnegative("lr", lr)


def without_lr(rule: Rule) -> Rule:
    """The rule as `update` may know it: the learning rate reaches it through coefficients alone.

    So what is compiled for a rule, or sent to a worker, serves every learning rate.
    """
    if not hasattr(rule, "lr"):
        return rule
    bare = copy.copy(rule)
    object.__setattr__(bare, "lr", None)  # not replace(): None is no learning rate
    return bare


def hyperparameters(rule: Rule) -> dict[str, Any]:
    """The fields of a rule that are numbers, tuples of numbers, or the learning rate."""
    return {k: v for k, v in fields(rule).items() if k == "lr" or _numeric(v)}


def options(rule: Rule) -> dict[str, Any]:
    """The fields of a rule that are not hyperparameters."""
    return {k: v for k, v in fields(rule).items() if k != "lr" and not _numeric(v)}


def representable(rule: Rule, compute: str) -> None:
    """Raise ValueError if a scalar hyperparameter becomes 0 or infinite in the compute dtype."""
    for name, value in hyperparameters(rule).items():
        if callable(value) or isinstance(value, tuple) or value == 0:
            continue
        there = _round(value, compute)
        if there == 0 or math.isinf(there):
            raise ValueError(
                f"{name} = {value!r} is {there} in {compute}, in which this leaf is computed; "
                "choose a value that it can hold, or a wider dtype"
            )


def fields(rule: Any) -> dict[str, Any]:
    """All fields of a rule, by name."""
    return {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}


def _numeric(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_numeric, value))
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _round(value: float, compute: str) -> float:
    return ctypes.c_float(value).value if compute == "float32" else float(value)


def _nonnegative(name: str, value: Any) -> float:
    if not _numeric(value) or isinstance(value, tuple) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a finite number, 0 or more")
    return float(value)


def _betas(betas: Any) -> tuple[float, float]:
    pair = tuple(betas) if isinstance(betas, tuple | list) else ()
    if len(pair) != 2 or not all(_numeric(beta) and 0 <= beta < 1 for beta in pair):
        raise ValueError(f"betas is {betas!r}; it must be two numbers in [0, 1)")
    return float(pair[0]), float(pair[1])
