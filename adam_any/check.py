"""The checks of parameters and gradients, and the messages about those that are refused.

- A message starts with the path of the leaf, then says what was wrong and what would be right.
- TypeError: not an array, wrong library, device or dtype. ValueError: structure, shape, values.
- Nothing here writes, so whatever raises leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MappingView
from numbers import Real
from typing import Any

from . import detect
from .detect import Backend, load
from .dtypes import DTYPES, name_of
from .words import a, at, named


def parameter(path: str, x: Any, *, traced: bool = False) -> Backend:
    """The facts about a parameter that is accepted, a tracer only where `traced`; else an error."""
    facts = _array(path, x, "parameter", traced)
    _computable(path, facts)
    reason = None if traced else load(facts.library).lost(x)
    if reason is not None:
        raise ValueError(f"{at(path)}{reason}")
    return facts


def gradient(
    path: str, want: Backend, shape: tuple[int, ...], g: Any, *, traced: bool = False
) -> None:
    """Raise unless `g` can be the gradient of a parameter with these facts and this shape."""
    _computable(path, want)
    if _is_number_for(path, want, shape, g):
        return
    have = _array(path, g, "gradient", traced)
    _beside(path, want, have, "gradient")
    if have.facts.complex != want.facts.complex:
        raise TypeError(
            f"{at(path)}the gradient is {have.dtype}, its parameter {want.dtype}; "
            f"pass {'complex' if want.facts.complex else 'real'} numbers"
        )
    _shaped(path, shape, g, "gradient")


def operand(path: str, what: str, want: Backend, shape: tuple[int, ...], x: Any) -> None:
    """Raise unless an array can be the field `what` of a parameter with these facts and shape."""
    have = _array(path, x, what, traced=True)
    _beside(path, want, have, what)
    if have.facts.complex and not want.facts.complex:
        raise TypeError(f"{at(path)}the {what} is {have.dtype}, its parameter {want.dtype}")
    _shaped(path, shape, x, what)


def no_groups(params: Any) -> None:
    """Raise for torch's parameter groups, whose numbers would be taken for parameters."""
    first = params[0] if isinstance(params, list | tuple) and params else None
    if not isinstance(first, dict) or "params" not in first:
        return
    if "lr" in first or not isinstance(first["params"], Mapping):
        raise ValueError(
            "the parameters are torch's parameter groups; pass the parameters themselves, as in "
            "[p for group in groups for p in group['params']], and make an optimizer for each "
            "group whose hyperparameters differ"
        )


def none(path: str, g: Any) -> None:
    """Raise unless `g`, the gradient of a parameter that is None, is None."""
    if g is not None:
        raise ValueError(f"{named(path)}: a gradient for a parameter that is None; pass None")


def replacement(path: str, want: Backend, shape: tuple[int, ...], x: Any) -> Backend:
    """The facts about an array that may take a parameter's place; an error for one that may not."""
    have = _array(path, x, "parameter", traced=False)
    _computable(path, have)
    _beside(path, want, have, "new parameter")
    if have.dtype != want.dtype:
        raise TypeError(
            f"{at(path)}the new parameter is {have.dtype}, but it was {want.dtype}; convert it"
        )
    _shaped(path, shape, x, "new parameter")
    return have


def uncaptured(path: str, capturing: bool) -> None:
    """Raise where a step would only be recorded in a CUDA graph."""
    if capturing:
        raise RuntimeError(
            f"{named(path)}: its stream is being captured, but the bias correction changes at "
            "every step, and a graph would replay that of one; capture what computes the "
            "gradients, and step outside the graph"
        )


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array or a Python float."""
    return tuple(getattr(x, "shape", ()))


def _array(path: str, x: Any, what: str, traced: bool) -> Backend:
    if detect.is_tracer(x) and not traced:
        raise TypeError(
            f"{at(path)}the {what} is a JAX tracer, which a class that keeps state cannot hold; "
            "use adam_any.functional.init and step inside jax.jit"
        )
    library = detect.library(x)
    if library is None:
        raise TypeError(f"{at(path)}the {what} is {a(type(x))}, not an array; {_instead(x, what)}")
    try:
        library.accept(x, what)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{at(path)}{error}") from None
    if library.dtype(x) not in DTYPES or not library.native(x):
        raise TypeError(
            f"{at(path)}the {what} has dtype {x.dtype}; convert it to one of "
            f"{', '.join(DTYPES)}, in native byte order"
        )
    if any(size is None or size != size for size in shape_of(x)):
        raise ValueError(
            f"{at(path)}the {what} has shape {shape_of(x)}, of which a part is not known yet; "
            "compute it first (Dask: compute_chunk_sizes())"
        )
    facts = detect.backend(x)
    assert facts is not None  # it has a library
    return facts


def is_lazy(x: Any) -> bool:
    """Return whether `x` is a generator or its like, which is no tree: it can be read but once."""
    return isinstance(x, Iterator | MappingView)


def _instead(x: Any, what: str) -> str:
    """Advice on what to pass in place of something that is not an array."""
    if is_lazy(x):
        return "pass list(...) of it, or for named parameters dict(...)"
    if hasattr(x, "named_parameters"):
        return "pass dict(model.named_parameters())"
    kind = " or a Python float" if what == "parameter" else ""
    return f"pass an array of floating-point numbers{kind}"


def _is_number_for(path: str, want: Backend, shape: tuple[int, ...], g: Any) -> bool:
    """Return whether `g` is one real number, for a Python float or a NumPy scalar."""
    if want.library == "python":
        suits = isinstance(g, Real) or _is_0d(g)
    else:
        scalar = want.library == "numpy" and shape == () and not want.writable
        suits = scalar and isinstance(g, float | int) and not want.facts.complex
    if isinstance(g, int) and suits:
        try:
            float(g)
        except OverflowError:
            raise ValueError(f"{at(path)}the gradient is too large for a float") from None
    return suits and not isinstance(g, bool)


def _is_0d(x: Any) -> bool:
    """Return whether `x` is an array of no dimensions with a real number, whose value is known."""
    if detect.library(x) is None or detect.is_tracer(x) or shape_of(x) != ():
        return False
    return name_of(x.dtype).startswith(("float", "bfloat", "int", "uint"))


def _computable(path: str, facts: Backend) -> None:
    reason = load(facts.library).unable(facts.dtype)
    if reason is not None:
        raise TypeError(f"{at(path)}{reason}")


def _beside(path: str, want: Backend, have: Backend, what: str) -> None:
    if have.library != want.library:
        raise TypeError(
            f"{at(path)}the {what} belongs to {have.library}, its parameter to {want.library}; "
            "convert one of them"
        )
    if have.device != want.device and None not in (have.device, want.device):
        raise TypeError(
            f"{at(path)}the {what} is on {have.device}, its parameter on {want.device}; "
            "move one of them"
        )


def _shaped(path: str, shape: tuple[int, ...], x: Any, what: str) -> None:
    if shape_of(x) != shape:
        raise ValueError(
            f"{at(path)}the {what} has shape {shape_of(x)}, its parameter {shape}; "
            "nothing is broadcast, so pass the same shape"
        )
