"""What is accepted, and every message about what is not.

- A message starts with the path of the leaf, then says what was wrong and what would be right.
- TypeError: not an array, wrong library, device or dtype. ValueError: structure, shape, values.
- Nothing here writes, so whatever raises leaves everything as it was.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from functools import cached_property
from typing import Any, NamedTuple, cast

import optree

from . import detect
from .detect import Backend

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def flatten(params: Any) -> tuple[list[str], list[Any], Structure]:
    """The paths, leaves (None among them) and structure of a tree of parameters."""
    accessors, leaves, spec = optree.tree_flatten_with_accessor(params, none_is_leaf=True)
    paths = [".".join(str(getattr(e, "field", e.entry)) for e in a) for a in accessors]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{twice!r}: two leaves have this path; rename a key of one of them")
    return paths, leaves, Structure(spec)


class Structure:
    """The nested containers of the parameters, with which those of other trees are matched."""

    def __init__(self, spec: optree.PyTreeSpec) -> None:
        self.spec = spec
        self._leaf_types: set[type] = set()

    def align(self, tree: Any, what: str) -> list[Any]:
        """The leaves of `tree` in this order; None for a subtree stands for all its leaves."""
        leaves = self._again(tree)
        if leaves is None:
            leaves, found = optree.tree_flatten(tree, none_is_leaf=True)
            if found == self.spec:
                self._leaf_types.update(map(type, leaves))
            else:
                leaves = []
                _descend(self.spec, tree, what, (), leaves)
        return leaves

    def _again(self, tree: Any) -> list[Any] | None:
        """The leaves of a tree that is made as one before, five times faster than by asking about
        each whether it is one; or None."""
        if not self._leaf_types or self._made is None or not _fits(self._made, tree):
            return None
        leaves = self.spec.flatten_up_to(tree)
        return leaves if self._leaf_types.issuperset(map(type, leaves)) else None

    @cached_property
    def _made(self) -> Made | None:
        return _made(self.spec)


class Made(NamedTuple):
    """A container: its class, its keys or its length, and the containers in it, by key."""

    kind: type
    keys: set[Any] | int
    inner: list[tuple[Any, Any]]


def _made(spec: optree.PyTreeSpec) -> Made | None:
    """How a tree is made, if of nothing but Python's own containers."""
    kind, entries = spec.type, spec.entries()
    standard = kind in (dict, OrderedDict, defaultdict, list, tuple)
    if not (standard or optree.is_namedtuple_class(kind)):
        return None
    pairs = zip(entries, spec.children(), strict=True)
    inner = [(entry, _made(child)) for entry, child in pairs if child.type is not None]
    if any(below is None for _, below in inner):
        return None
    keys = set(entries) if issubclass(cast(type, kind), dict) else len(entries)
    return Made(cast(type, kind), keys, inner)


def _fits(made: Made, tree: Any) -> bool:
    """Whether a tree is made so. Asked before optree is, whose message would show all arrays."""
    if type(tree) is not made.kind:
        return False
    there: Any = tree
    if (there.keys() if isinstance(there, dict) else len(there)) != made.keys:
        return False
    return all(_fits(below, there[entry]) for entry, below in made.inner)


def _descend(
    spec: optree.PyTreeSpec, tree: Any, what: str, path: tuple[str, ...], leaves: list[Any]
) -> None:
    here = repr(".".join(path))
    if tree is None:
        leaves.extend([None] * spec.num_leaves)
    elif spec.type is None:
        if not optree.tree_is_leaf(tree, none_is_leaf=True):
            raise ValueError(
                f"{here}: the {what} has {_a(type(tree))} where the parameters have one leaf; "
                "pass a single array, or None"
            )
        leaves.append(tree)
    elif type(tree) is not spec.type:
        raise ValueError(
            f"{here}: the {what} has {_a(type(tree))} where the parameters have {_a(spec.type)}; "
            "pass the same kind of container, or None"
        )
    else:
        children, _, entries, _ = optree.tree_flatten_one_level(cast(Any, tree), none_is_leaf=True)
        given = dict(zip(entries, children, strict=True))
        wanted = spec.entries()
        missing = [entry for entry in wanted if entry not in given]
        extra = [entry for entry in given if entry not in wanted]
        if missing or extra:
            raise ValueError(
                f"{here}: the {what} differs from the parameters: missing {missing}, "
                f"not known {extra}; pass the same entries, with None for those to skip"
            )
        names = getattr(spec.type, "_fields", wanted)
        for entry, name, child in zip(wanted, names, spec.children(), strict=True):
            _descend(child, given[entry], what, (*path, str(name)), leaves)


def parameter(path: str, x: Any, *, traced: bool = False) -> Backend:
    """The facts about a parameter that is accepted, a tracer only where `traced`; else an error."""
    facts = _array(path, x, "parameter", traced)
    _wide(path, facts)
    return facts


def gradient(
    path: str, want: Backend, shape: tuple[int, ...], g: Any, *, traced: bool = False
) -> None:
    """Raise unless `g` can be the gradient of a parameter with these facts and this shape."""
    _wide(path, want)
    if want.library == "python" and isinstance(g, float):
        return
    have = _array(path, g, "gradient", traced)
    _beside(path, want, have, "gradient")
    if have.complex != want.complex:
        raise TypeError(
            f"{path!r}: the gradient is {have.dtype}, its parameter {want.dtype}; "
            f"pass {'complex' if want.complex else 'real'} numbers"
        )
    _shaped(path, shape, g, "gradient")


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
    facts = detect.backend(x)
    if facts is None:
        raise TypeError(
            f"{path!r}: the {what} is {_a(type(x))}, which is no array; pass an array of "
            f"floating-point numbers{' or a Python float' if what == 'parameter' else ''}"
        )
    _plain(path, facts, x, what)
    if facts.dtype not in DTYPES or not _native(facts, x):
        raise TypeError(
            f"{path!r}: the {what} has dtype {x.dtype}; convert it to one of {', '.join(DTYPES)}, "
            "in native byte order"
        )
    if any(size is None or size != size for size in shape_of(x)):
        raise ValueError(
            f"{path!r}: the {what} has shape {shape_of(x)}, of which a part is not known yet; "
            "compute it first (Dask: compute_chunk_sizes())"
        )
    return facts


def _wide(path: str, facts: Backend) -> None:
    if facts.library == "jax" and facts.compute == "float64" and not detect.jax_has_64_bits():
        raise TypeError(
            f"{path!r}: the parameter is {facts.dtype}, but outside jax.enable_x64(True) JAX "
            "would compute it in 32 bits; construct and step inside it"
        )


def _native(facts: Backend, x: Any) -> bool:
    # ml_dtypes lends NumPy a bfloat16, with operators of its own: its kind is not "f".
    return facts.library not in ("numpy", "dask") or bool(x.dtype.isnative and x.dtype.kind in "fc")


def _plain(path: str, facts: Backend, x: Any, what: str) -> None:
    """Refuse the classes and layouts whose operators mean something else."""
    if facts.library == "numpy":
        import numpy as np

        if not isinstance(x, np.generic) and type(x) not in (np.ndarray, np.memmap):
            raise TypeError(
                f"{path!r}: the {what} is {_a(type(x))}, whose operators differ from an array's; "
                "pass numpy.asarray of it"
            )
    if facts.library == "torch" and str(x.layout) != "torch.strided":
        raise TypeError(f"{path!r}: the {what} has layout {x.layout}; pass .to_dense() of it")
    if facts.library == "torch":
        _stored(path, facts, x, what)


def _stored(path: str, facts: Backend, x: Any, what: str) -> None:
    """Refuse a tensor whose memory is missing, or smaller than its shape says."""
    if facts.device.type == "meta":
        if what == "gradient":
            return  # its device is refused
        raise TypeError(f"{path!r}: the {what} is a meta tensor, without values; materialise it")
    if x._is_zerotensor():
        if what == "gradient":
            return  # which can be read
        raise TypeError(f"{path!r}: the {what} is a zero tensor, without memory; pass a clone")
    if x.numel() == 0:
        return
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    needed = (x.storage_offset() + last + 1) * x.element_size()
    have = x.untyped_storage().nbytes()
    if have < needed:
        raise ValueError(
            f"{path!r}: the storage of the {what} has {have} bytes, but its "
            f"shape {shape_of(x)} needs {needed}; it has been freed or resized, so restore it first"
        )


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


def _a(kind: type) -> str:
    """A class with its article, for a message."""
    return f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"
