"""Nested containers: their leaves with paths, and other trees matched with them.

The containers are optree's: dict, OrderedDict, defaultdict, list, tuple, namedtuple.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple, cast

import optree


def flatten(params: Any) -> tuple[Tree, list[Any]]:
    """The structure of a tree of parameters, and its leaves, None among them.

    Raises ValueError where two leaves have the same path.
    """
    accessors, leaves, spec = optree.tree_flatten_with_accessor(params, none_is_leaf=True)
    paths = [".".join(str(getattr(e, "field", e.entry)) for e in a) for a in accessors]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{twice!r}: two leaves have this path; rename a key of one of them")
    return Tree(paths, spec), leaves


class Tree:
    """The containers of the parameters, with which those of gradients and states are matched."""

    def __init__(self, paths: list[str], spec: optree.PyTreeSpec) -> None:
        #: A path for each leaf, None among them.
        self.paths = paths
        self._spec = spec
        self._leaf_types: set[type] = set()

    @property
    def bare(self) -> bool:
        """Whether the whole tree is one leaf."""
        return self._spec.type is None

    def build(self, leaves: Iterable[Any]) -> Any:
        """A tree of this structure, in new containers."""
        return optree.tree_unflatten(self._spec, leaves)

    def align(self, tree: Any, what: str) -> list[Any]:
        """The leaves of `tree` in this order; None for a subtree stands for all its leaves.

        Raises ValueError where its structure is another one.
        """
        leaves = self._flatten_known(tree)
        if leaves is None:
            leaves, found = optree.tree_flatten(tree, none_is_leaf=True)
            if found == self._spec:
                self._leaf_types.update(map(type, leaves))
            else:
                leaves = []
                _descend(self._spec, tree, what, (), leaves)
        return leaves

    def _flatten_known(self, tree: Any) -> list[Any] | None:
        """The leaves of a tree with this structure and leaves of classes seen before; else None.

        It is five times as fast as asking optree about each leaf whether it is one.
        """
        if not self._leaf_types or self._container is None or not self._container.matches(tree):
            return None
        leaves = self._spec.flatten_up_to(tree)
        return leaves if self._leaf_types.issuperset(map(type, leaves)) else None

    @cached_property
    def _container(self) -> Container | None:
        return _container(self._spec)


class Container(NamedTuple):
    """One of Python's own containers: its class, its keys or length, and the containers in it."""

    kind: type
    keys: set[Any] | int
    inner: list[tuple[Any, Container]]

    def matches(self, tree: Any) -> bool:
        """Whether `tree` has this structure.

        It is asked before optree, whose error would print every array.
        """
        if type(tree) is not self.kind:
            return False
        there: Any = tree
        if (there.keys() if isinstance(there, dict) else len(there)) != self.keys:
            return False
        return all(below.matches(there[entry]) for entry, below in self.inner)


def _container(spec: optree.PyTreeSpec) -> Container | None:
    """The structure of a tree of nothing but Python's own containers; else None."""
    kind, entries = spec.type, spec.entries()
    standard = kind in (dict, OrderedDict, defaultdict, list, tuple)
    if not (standard or optree.is_namedtuple_class(kind)):
        return None
    pairs = zip(entries, spec.children(), strict=True)
    inner = [(entry, _container(child)) for entry, child in pairs if child.type is not None]
    if any(below is None for _, below in inner):
        return None
    keys = set(entries) if issubclass(cast(type, kind), dict) else len(entries)
    return Container(cast(type, kind), keys, cast(Any, inner))


def _descend(
    spec: optree.PyTreeSpec, tree: Any, what: str, path: tuple[str, ...], leaves: list[Any]
) -> None:
    """Append the leaves of `tree`, or raise ValueError at the first container that differs."""
    here = repr(".".join(path))
    if tree is None:
        leaves.extend([None] * spec.num_leaves)
    elif spec.type is None:
        if not optree.tree_is_leaf(tree, none_is_leaf=True):
            raise ValueError(
                f"{here}: the {what} has {a(type(tree))} where the parameters have one leaf; "
                "pass a single array, or None"
            )
        leaves.append(tree)
    elif type(tree) is not spec.type:
        raise ValueError(
            f"{here}: the {what} has {a(type(tree))} where the parameters have {a(spec.type)}; "
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


def a(kind: type) -> str:
    """A class with its article, for a message."""
    return f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}"
