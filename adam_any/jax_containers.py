"""JAX's registered containers, such as dataclasses and modules, made known to optree.

It is imported only where JAX is. A class is registered when the first object of it is met, in a
namespace of our own, so that nobody else's trees change.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import optree
from jax import tree_util

from .tree import NAMESPACE


def learn(x: Any) -> bool:
    """Make the class of `x` a container, if JAX has it as one; whether it has."""
    children, spec = tree_util.tree_flatten(x, is_leaf=lambda y: y is not x)
    if children and tree_util.treedef_is_leaf(spec):  # to JAX an empty container is a leaf, too
        return False
    with suppress(ValueError):  # another thread may have been faster
        optree.register_pytree_node(
            type(x),
            _flatten,
            _unflatten,
            path_entry_type=optree.FlattenedEntry,
            namespace=NAMESPACE,
        )
    return True


def _flatten(x: Any) -> tuple[list[Any], Any, tuple[Any, ...]]:
    """The children of one container, what else it is made of, and the children's names."""
    pairs, spec = tree_util.tree_flatten_with_path(x, is_leaf=lambda y: y is not x)
    return [child for _, child in pairs], spec, tuple(_name(key) for (key,), _ in pairs)


def _unflatten(spec: Any, children: Iterable[Any]) -> Any:
    return tree_util.tree_unflatten(spec, list(children))


def _name(key: Any) -> Any:
    """The name in a key of one of JAX's classes: of an attribute, a dict, or a sequence."""
    names = (getattr(key, kind, None) for kind in ("name", "key", "idx"))
    return next((name for name in names if name is not None), str(key))
