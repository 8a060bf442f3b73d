"""The checks of parameters and gradients, and the messages about those that are refused.

- A message starts with the path of the leaf, then says what was wrong and what would be right.
- TypeError: not an array, wrong library, device or dtype. ValueError: structure, shape, values.
- Nothing here writes, so whatever raises leaves everything as it was.
"""

from __future__ import annotations

from typing import Any

from . import detect
from .detect import Backend, load
from .dtypes import DTYPES
from .tree import a


def parameter(path: str, x: Any, *, traced: bool = False) -> Backend:
    """The facts about a parameter that is accepted, a tracer only where `traced`; else an error."""
    facts = _array(path, x, "parameter", traced)
    _computable(path, facts)
    return facts


def gradient(
    path: str, want: Backend, shape: tuple[int, ...], g: Any, *, traced: bool = False
) -> None:
    """Raise unless `g` can be the gradient of a parameter with these facts and this shape."""
    _computable(path, want)
    if want.library == "python" and isinstance(g, float):
        return
    have = _array(path, g, "gradient", traced)
    _beside(path, want, have, "gradient")
    if have.facts.complex != want.facts.complex:
        raise TypeError(
            f"{path!r}: the gradient is {have.dtype}, its parameter {want.dtype}; "
            f"pass {'complex' if want.facts.complex else 'real'} numbers"
        )
    _shaped(path, shape, g, "gradient")


def none(path: str, g: Any) -> None:
    """Raise unless `g`, the gradient of a parameter that is None, is None."""
    if g is not None:
        raise ValueError(f"{path!r}: a gradient for a parameter that is None; pass None")


def replacement(path: str, want: Backend, shape: tuple[int, ...], x: Any) -> Backend:
    """The facts about an array that may take a parameter's place; an error for one that may not."""
    have = parameter(path, x)
    _beside(path, want, have, "new parameter")
    if have.dtype != want.dtype:
        raise TypeError(
            f"{path!r}: the new parameter is {have.dtype}, but it was {want.dtype}; convert it"
        )
    _shaped(path, shape, x, "new parameter")
    return have


def uncaptured(path: str, capturing: bool) -> None:
    """Raise where a step would only be recorded in a CUDA graph."""
    if capturing:
        raise RuntimeError(
            f"{path!r}: its stream is being captured, but the bias correction changes at every "
            "step, and a graph would replay that of one; capture what computes the gradients, and "
            "step outside the graph"
        )


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array or a Python float."""
    return tuple(getattr(x, "shape", ()))


def _array(path: str, x: Any, what: str, traced: bool) -> Backend:
    if detect.is_tracer(x) and not traced:
        raise TypeError(
            f"{path!r}: the {what} is a JAX tracer, which a class that keeps state cannot hold; "
            "use adam_any.functional.init and step inside jax.jit"
        )
    library = detect.library(x)
    if library is None:
        raise TypeError(
            f"{path!r}: the {what} is {a(type(x))}, not an array; pass an array of "
            f"floating-point numbers{' or a Python float' if what == 'parameter' else ''}"
        )
    try:
        library.accept(x, what)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path!r}: {error}") from None
    if library.dtype(x) not in DTYPES or not library.native(x):
        raise TypeError(
            f"{path!r}: the {what} has dtype {x.dtype}; convert it to one of "
            f"{', '.join(DTYPES)}, in native byte order"
        )
    if any(size is None or size != size for size in shape_of(x)):
        raise ValueError(
            f"{path!r}: the {what} has shape {shape_of(x)}, of which a part is not known yet; "
            "compute it first (Dask: compute_chunk_sizes())"
        )
    facts = detect.backend(x)
    assert facts is not None  # it has a library
    return facts


def _computable(path: str, facts: Backend) -> None:
    reason = load(facts.library).unable(facts.dtype)
    if reason is not None:
        raise TypeError(f"{path!r}: {reason}")


def _beside(path: str, want: Backend, have: Backend, what: str) -> None:
    if have.library != want.library:
        raise TypeError(
            f"{path!r}: the {what} belongs to {have.library}, its parameter to {want.library}; "
            "convert one of them"
        )
    if have.device != want.device and None not in (have.device, want.device):
        raise TypeError(
            f"{path!r}: the {what} is on {have.device}, its parameter on {want.device}; "
            "move one of them"
        )


def _shaped(path: str, shape: tuple[int, ...], x: Any, what: str) -> None:
    if shape_of(x) != shape:
        raise ValueError(
            f"{path!r}: the {what} has shape {shape_of(x)}, its parameter {shape}; "
            "nothing is broadcast, so pass the same shape"
        )
