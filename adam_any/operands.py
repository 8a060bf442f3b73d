"""Fields that are arrays or trees, given out to the leaves of a group.

In the rule of a leaf an `Operand` stands for an array, or there is the leaf's own number. The array
itself is kept with the leaf, in the form that moments have: real numbers of the compute dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import check, detect
from .dtypes import is_complex
from .leaf import Leaf
from .rule import Operand, Range, chain, check_order, held, is_spread, items, range_of, replaced
from .tree import flatten
from .words import few, named, shown


def spread(rule: Any, leaves: Sequence[Leaf], look: bool) -> Iterable[tuple[Any, dict[str, Any]]]:
    """For each leaf of a group the rule as it is there, and its operands."""
    fields = [
        (prefix, level, field.name, range_of(field), _entries(prefix + field.name, value, leaves))
        for prefix, level in chain(rule)
        for field, value in items(level)
        if is_spread(field, value)
    ]
    if not fields:
        yield from ((rule, {}) for _ in leaves)
        return
    for i, leaf in enumerate(leaves):
        values, operands = {}, {}
        for prefix, level, name, allowed, entries in fields:
            path, what = prefix + name, f"{name} of {type(level).__name__}"
            x = entries[i]
            if x is not None and detect.library(x) is not None and not _is_float(x):
                operands[path] = array(leaf, what, x, allowed, look)
                x = Operand(path)
            elif x is not None and not callable(x):
                if not allowed.admits(x):
                    raise ValueError(
                        f"{named(leaf.path)}: {what} is {shown(x)}; it must be "
                        f"{allowed.describe(1)}"
                    )
                x = float(x)
            values[path] = x
        own = _with(rule, values)
        if look:
            _check_order(own, leaf, operands)
        yield own, operands


def _is_float(x: Any) -> bool:
    return isinstance(x, float | int)


def _entries(path: str, value: Any, leaves: Sequence[Leaf]) -> list[Any]:
    """The entry of each leaf in a field: the array itself, or what a tree has at the leaf's path.

    A tree is like all the parameters, or like the container that the leaves of the group are in.
    """
    if detect.library(value) is not None:
        return [value] * len(leaves)
    tree, found = flatten(value)
    entries = dict(zip(tree.paths, found, strict=True))
    outer = _outer([leaf.path for leaf in leaves])
    chosen = []
    for leaf in leaves:
        name = next((x for x in (leaf.path, leaf.path[len(outer) :]) if x in entries), None)
        if name is None:
            raise ValueError(
                f"{named(leaf.path)}: {path} has no entry for it; it has {few(list(entries))}; "
                "pass an array of its shape, or a tree like the parameters"
            )
        chosen.append(name)
    extra = [x for x in entries if x not in chosen and entries[x] is not None]
    if extra:
        raise ValueError(f"{path} has entries for no parameter of its rule: {few(extra)}")
    return [entries[name] for name in chosen]


def _outer(paths: Sequence[str]) -> str:
    """The beginning that all paths have in common, of whole names, with the dot behind it."""
    parts = [path.split(".")[:-1] for path in paths]
    common: list[str] = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return "".join(f"{name}." for name in common)


def array(leaf: Leaf, what: str, x: Any, allowed: Range, look: bool) -> Any:
    """An array field as a leaf's kernels read it: real numbers of the compute dtype, checked.

    Itself or a view of it, where it can be.
    """
    check.operand(leaf.path, what, leaf.backend, leaf.shape, x)
    library = leaf.library
    with library.on(leaf.array):
        new = library.computable(library.beside(leaf.array, x), leaf.backend.compute)
        if leaf.dtype.complex and not is_complex(x):
            xp = library.namespace(x)
            new = xp.stack([new, new], axis=-1)
    if look and library.lazy:
        ((new,),) = library.computed([(new,)])
    if look and not detect.is_tracer(new):
        least = allowed.least
        fine = library.all_hold(lambda xp, x: x >= least, new)  # and not NaN
        if not fine:
            raise ValueError(f"{named(leaf.path)}: {what} has a NaN, or a number below {least:g}")
    return new


def _check_order(rule: Any, leaf: Leaf, operands: Mapping[str, Any]) -> None:
    """Raise ValueError where a lower field of a leaf is above the upper one."""
    for prefix, level in chain(rule):
        for low, high in getattr(level, "ordered", ()):
            below, above = (
                operands.get(prefix + name, getattr(level, name)) for name in (low, high)
            )
            if below is None or above is None or callable(below) or callable(above):
                continue
            arrays = [x for x in (below, above) if not _is_float(x)]
            if not arrays:
                try:
                    check_order(level)
                except ValueError as error:
                    raise ValueError(f"{named(leaf.path)}: {error}") from None
            elif not any(map(detect.is_tracer, arrays)) and not leaf.library.all_hold(
                lambda xp, low, high: low <= high, below, above
            ):
                raise ValueError(
                    f"{named(leaf.path)}: {low} of {type(level).__name__} is above {high} "
                    "somewhere; exchange them"
                )


def _with(rule: Any, values: Mapping[str, Any]) -> Any:
    """A rule with other values of fields, by path."""
    own = {path: x for path, x in values.items() if "." not in path}
    inner = {path.partition(".")[2]: x for path, x in values.items() if "." in path}
    if inner:
        own["rule"] = _with(held(rule), inner)
    return replaced(rule, own)
