"""Gradients by the library of the parameters, in one convention: uphill.

JAX and HIPS autograd return the conjugate of the gradient of a complex parameter; torch does not.
What comes out here is dL/dRe + i dL/dIm from all of them, as `Optimizer` and `minimize` take it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .. import detect
from ..check import shape_of
from ..dtypes import is_complex
from ..tree import Tree, flatten
from ..words import named, shown

#: Who differentiates a function of the arrays of each library.
OWN = {
    "jax": "jax",
    "torch": "torch",
    "dtensor": "torch",
    "numpy": "autograd",
    "python": "autograd",
}


def value_and_grad(f: Callable[[Any], Any], by: str | None = None) -> Callable[[Any], Any]:
    """Return a function that returns the value of `f`, and its gradients.

    Parameters
    ----------
    f : callable
        ``f(params)`` returns one real number, computed by the library that differentiates it.
    by : {"jax", "torch", "autograd"}, optional
        Who differentiates: unless given, JAX for JAX arrays, torch for tensors, and HIPS autograd
        for NumPy arrays and Python floats. With "jax" or "torch" these two are passed to `f` as
        arrays of that library, in their own precision, and the gradients come back as NumPy arrays.

    Returns
    -------
    callable
        It takes a tree of parameters, and returns ``(value, grads)``, as `minimize` needs it. The
        gradient of a complex parameter points uphill, dL/dRe + i dL/dIm, whoever differentiates. A
        parameter that the value does not depend on has a gradient of zeros. The `grad` of tensors
        is left alone. Where `f` is compiled by `jax.jit`, so are its gradients.

    Raises
    ------
    ImportError
        In the call, where the library that differentiates is not installed.
    TypeError
        In the call, for parameters of several libraries, or of one that has no gradients.
    ValueError
        In the call, where the value depends on none of the parameters, or is not one real number.

    Examples
    --------
    >>> import torch
    >>> from adam_any import interop, minimize, rules
    >>> z0 = torch.tensor(2 + 3j)
    >>> fun = interop.value_and_grad(lambda z: (z - z0).abs() ** 2)
    >>> result = minimize(fun, torch.tensor(0j), rules.Adam(lr=0.05))
    >>> print(round(result.x.real.item(), 3), round(result.x.imag.item(), 3))
    2.0 3.0
    """
    if not callable(f):
        raise TypeError(f"f is {shown(f)}; it must be a callable")
    if by not in (None, "jax", "torch", "autograd"):
        raise ValueError(f"by is {shown(by)}; it must be 'jax', 'torch', 'autograd' or None")
    compiled: dict[Any, Callable[[Any], Any]] = {}

    def evaluated(params: Any) -> tuple[Any, Any]:
        tree, leaves = flatten(params)
        library = _library(tree, leaves)
        who = OWN.get(library) if by is None else by
        foreign = library not in ("numpy", "python") and OWN.get(library) != who
        if who is None or foreign:
            raise TypeError(
                f"{library} has no gradients of its own{f' by {by}' if by else ''}; compute them "
                "in fun by hand, or pass parameters of JAX, torch or NumPy"
            )
        _needed(who, library)
        if who == "jax":
            return _by_jax(f, tree, leaves, library, compiled)
        found: tuple[Any, Any] = _WAYS[who](f, tree, leaves, library)
        return found

    return evaluated


def _library(tree: Tree, leaves: list[Any]) -> str:
    names: dict[str, str] = {}
    for path, x in zip(tree.paths, leaves, strict=True):
        if x is None:
            continue
        library = detect.library(x)
        if library is None:
            raise TypeError(f"{named(path)} is {shown(x)}, not an array or a Python float")
        names.setdefault("numpy" if library.name == "python" else library.name, path)
    if len(names) != 1:
        have = ", ".join(f"{named(path)} of {name}" for name, path in names.items())
        raise TypeError(f"the parameters belong to several libraries, or none: {have}")
    return next(iter(names))


def _needed(who: str, library: str) -> None:
    try:
        import_module(who)
    except ImportError:
        other = "; or pass by='jax' or by='torch' for a function that is written in one of these"
        raise ImportError(
            f"{who} is not installed, which is needed for gradients of {library}: pip install {who}"
            f"{other if who == 'autograd' else ''}"
        ) from None


def _by_jax(
    f: Callable[[Any], Any],
    tree: Tree,
    leaves: list[Any],
    library: str,
    compiled: dict[Any, Callable[[Any], Any]],
) -> tuple[Any, Any]:
    """By JAX; `compiled` keeps the gradients of a compiled function for each structure."""
    import jax

    own = library == "jax"
    differentiated = compiled.get(tree.structure)
    if differentiated is None:
        differentiated = jax.value_and_grad(lambda xs: f(tree.build(xs)))
        if isinstance(f, jax.stages.Wrapped):  # else each call would take several times as long
            differentiated = compiled[tree.structure] = jax.jit(differentiated)
    # float64 would become float32 without it, silently.
    with contextlib.nullcontext() if own else jax.enable_x64(True):
        given = [x if own or x is None else jax.numpy.asarray(x) for x in leaves]
        value, grads = differentiated(given)
        grads = [g if g is None or not is_complex(g) else jax.numpy.conj(g) for g in grads]
        if own:
            return value, tree.build(grads)
        found = [None if g is None else np.array(g) for g in grads]
        return float(value), tree.build(found)


def _by_torch(f: Callable[[Any], Any], tree: Tree, leaves: list[Any], library: str) -> Any:
    import torch

    own = library in ("torch", "dtensor")
    # Leaves of a graph of their own, in the same memory.
    given = [None if x is None else (x if own else torch.tensor(x)).detach() for x in leaves]
    inputs = [x.requires_grad_() for x in given if x is not None]
    with torch.enable_grad():
        value = f(tree.build(given))
        _check_value(value)
        if not getattr(value, "requires_grad", False):
            raise ValueError(NOTHING)
        grads = torch.autograd.grad(value.reshape(()), inputs, allow_unused=True)
    if all(g is None for g in grads):
        raise ValueError(NOTHING)
    dense = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True)]
    rest = iter([g.resolve_conj() for g in dense])
    found = [None if x is None else next(rest) for x in given]
    value = value.detach()
    if own:
        return value, tree.build(found)
    return float(value), tree.build(None if g is None else g.numpy() for g in found)


def _by_autograd(f: Callable[[Any], Any], tree: Tree, leaves: list[Any], library: str) -> Any:
    import autograd

    present = [x for x in leaves if x is not None]

    def of_list(xs: Any) -> Any:
        rest = iter([xs[i] for i in range(len(present))])
        value = f(tree.build([None if x is None else next(rest) for x in leaves]))
        return value

    value, grads = autograd.value_and_grad(of_list)(present)
    rest = iter(grads)
    found = [None if x is None else _uphill(next(rest)) for x in leaves]
    return float(value), tree.build(found)


def _uphill(g: Any) -> Any:
    return np.conj(g) if np.iscomplexobj(g) else g


def _check_value(value: Any) -> None:
    if shape_of(value) not in ((), (1,)) or (hasattr(value, "dtype") and is_complex(value)):
        raise ValueError(f"f returned {shown(value)}; it must return one real number")


NOTHING = (
    "the value depends on none of the parameters; f must use those that it is given, not a model's "
    "own (torch.func.functional_call(model, params, x) does)"
)

_WAYS = {"torch": _by_torch, "autograd": _by_autograd}
