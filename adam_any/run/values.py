"""The values that a function returns, and the parameters it is given: checked, copied, measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import detect
from ..check import shape_of
from ..dtypes import is_complex
from ..optimizer import Optimizer
from ..tree import flatten
from ..words import a, shown
from ..wrapper import climbs


def norm(tree: Any) -> float:
    """The Euclidean norm of all numbers in a tree of arrays, None among them."""
    if type(tree) is np.ndarray:
        return _norm(tree)
    if isinstance(tree, dict):
        return math.hypot(*(norm(x) for x in tree.values()))
    if isinstance(tree, list | tuple):
        return math.hypot(*map(norm, tree))
    if tree is None:
        return 0.0
    library = detect.library(tree)
    if library is not None and library.spread:
        return library.norm(tree)
    if library is not None:
        return _norm(tree) if library.name == "python" else _norm_of(library, tree)
    try:
        return float(tree)  # a number for a Python float
    except (TypeError, ValueError):
        return math.hypot(*(norm(x) for x in flatten(tree)[1]))


def _norm(x: Any) -> float:
    if isinstance(x, float):
        return abs(x)
    kind = x.dtype.char
    if kind in "fd" and x.ndim == 1:
        return math.sqrt(x.dot(x))  # in half the time of a small vdot
    if kind in "fdFD":
        return math.sqrt(np.vdot(x, x).real)
    return float(np.linalg.norm(np.asarray(x, "f8").ravel()))


def _norm_of(library: Any, x: Any) -> float:
    if shape_of(x) == ():
        return abs(complex(x)) if is_complex(x) else abs(float(x))
    xp = library.namespace(x)
    real = library.computable(
        x.detach() if hasattr(x, "detach") else x, library.dtype(x) and _wide(x)
    )
    return math.sqrt(float(xp.sum(real * real)))


def _wide(x: Any) -> str:
    """The dtype that a sum of squares is computed in."""
    return "float64" if str(x.dtype).endswith(("float64", "complex128")) else "float32"


def maximizes(rule: Any) -> bool:
    """Return whether a rule climbs, or all rules of a mapping do."""
    if not isinstance(rule, Mapping):
        return dataclasses.is_dataclass(rule) and climbs(rule)
    found = {maximizes(x) for x in rule.values() if x is not None}
    if len(found) > 1:
        raise ValueError(
            "some of the rules maximize and some do not, so no value is the best; give all of them "
            "the same maximize"
        )
    return found == {True}


def rate_of(opt: Optimizer) -> Any:
    """The learning rate, or its schedule; NaN where there is none, or several."""
    try:
        rate = opt.lr
    except AttributeError:
        return math.nan
    return rate if isinstance(rate, float) or callable(rate) else math.nan


def copied(params: Any) -> Any:
    """A tree with copies of its arrays; those of NumPy can be written."""
    tree, leaves = flatten(params)
    return tree.build(map(_copy, leaves))


def _copy(x: Any) -> Any:
    if type(x) is np.ndarray or type(x) is np.memmap:
        return np.array(x, order="K", subok=False)
    library = detect.library(x)
    if library is None or library.name == "python" or detect.is_tracer(x):
        return x  # which the optimizer refuses, or cannot write
    return library.copy(x)


def number(value: Any) -> float:
    """The value of the function, read from its device."""
    if type(value) is float:
        return value
    if shape_of(value) in ((), (1,)) and not isinstance(value, str | bytes):
        value = value.detach() if hasattr(value, "detach") else value
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        value = value[0] if shape_of(value) else value
        try:
            return float(value)
        except TypeError:
            pass
    have = f"{a(type(value))} of shape {shape_of(value)}" if shape_of(value) else shown(value)
    raise TypeError(f"the value that fun returned is {have}; it must be one real number")


def all_none(grads: Any) -> bool:
    """Return whether a tree has no gradient at all."""
    if grads is None:
        return True
    if isinstance(grads, dict):
        return bool(grads) and all(map(all_none, grads.values()))
    return isinstance(grads, list | tuple) and bool(grads) and all(map(all_none, grads))


def refuse(found: Any) -> None:
    """Raise TypeError unless a function has returned a value and gradients, or these and more."""
    if isinstance(found, tuple | list) and 2 <= len(found) <= 3 and type(found) is not list:
        return  # a named tuple
    have = f"{len(found)} values" if isinstance(found, tuple) else a(type(found))
    raise TypeError(
        f"fun returned {have}; it must return (value, gradients) or (value, gradients, aux); "
        "interop.value_and_grad(f) makes such a function of one that returns the value alone"
    )
