"""Nested containers: their leaves with paths, and other trees matched with them.

- The containers are optree's: dict, OrderedDict, defaultdict, list, tuple, namedtuple; and JAX's
  registered ones, where JAX is loaded.
- A tree is matched leniently: a list may stand for a tuple, and any dict for any other.
- Nothing here recurses, and all that is done for a leaf is done once, so the depth of a tree does
  not matter, and its size only as it must.
"""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple, cast

import optree

from . import check, detect
from .words import a, at, few

#: Where JAX's containers are registered with optree.
NAMESPACE = "adam_any"

SEQUENCES = (list, tuple)
DICTS = (dict, OrderedDict, defaultdict)

#: A path while a tree is walked: that of the container, and the name in it.
Steps = tuple["Steps", str] | None


def flatten(params: Any) -> tuple[Tree, list[Any]]:
    """The structure of a tree of parameters, and its leaves, None among them.

    Raises ValueError where two leaves have the same path, or containers are nested too deep.
    """
    check.no_groups(params)
    try:
        accessors, leaves, spec = _flattened(params)
    except RecursionError:
        raise ValueError(
            f"the parameters are nested more than {optree.MAX_RECURSION_DEPTH} deep; pass a "
            "flatter tree"
        ) from None
    paths = [
        ".".join(str(getattr(e, "field", e.entry)) for e in accessor) for accessor in accessors
    ]
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ValueError(f"{path!r}: two leaves have this path; rename a key of one of them")
        seen.add(path)
    return Tree(paths, spec, empty=all(x is None for x in leaves)), leaves


def _flattened(params: Any) -> Any:
    """Accessors, leaves and structure; containers of JAX's are made known where they are met."""
    found = optree.tree_flatten_with_accessor(params, none_is_leaf=True, namespace=NAMESPACE)
    if "jax" in sys.modules and any(map(_is_new_container, _one_of_each(found[1]))):
        return _flattened(params)
    return found


def _one_of_each(leaves: Iterable[Any]) -> Iterable[Any]:
    return {type(x): x for x in leaves}.values()


def _is_new_container(x: Any) -> bool:
    if x is None or check.is_lazy(x) or detect.library(x) is not None:
        return False
    from .jax_containers import learn

    return learn(x)


class Tree:
    """The containers of the parameters, with which those of gradients and states are matched."""

    def __init__(self, paths: list[str], spec: optree.PyTreeSpec, *, empty: bool) -> None:
        #: A path for each leaf, None among them.
        self.paths = paths
        self._spec, self._empty = spec, empty
        #: Whether the whole tree is one leaf.
        self.bare = spec.type is None
        self._leaf_types: set[type] = set()
        self._warned = False

    @property
    def structure(self) -> optree.PyTreeSpec:
        """The containers without their leaves, hashable."""
        return self._spec

    @property
    def ordered(self) -> bool:
        """Return whether the leaves are in the order of their containers.

        A dict of several is sorted.
        """
        return not _sorts(self._spec)

    def build(self, leaves: Iterable[Any]) -> Any:
        """A tree of this structure, in new containers."""
        return self._spec.unflatten(leaves)

    def gradients(self, tree: Any, *, stacklevel: int) -> list[Any]:
        """The leaves of a tree of gradients, in this order.

        Raises ValueError for None in its place; warns, once, where all of them are None.
        """
        if self._empty:
            return self.align(tree, "gradient")
        if tree is None:
            raise ValueError(
                "the gradient is None for the whole tree; does the function that computes it "
                "return it? None for a leaf or a subtree skips that"
            )
        aligned = self.align(tree, "gradient")
        if aligned[0] is None and not self._warned and all(g is None for g in aligned):
            self._warned = True
            warnings.warn(
                "every gradient is None, so the step changes nothing; have they been computed, by "
                "backward() or a gradient function?",
                stacklevel=stacklevel,
            )
        return aligned

    def align(self, tree: Any, what: str) -> list[Any]:
        """The leaves of `tree` in this order; None for a subtree stands for all its leaves.

        Raises ValueError where its structure is another one.
        """
        leaves = self._flatten_known(tree)
        if leaves is None:
            leaves = self._flatten_like(tree)
        return self._descend(tree, what) if leaves is None else leaves

    def quick(self) -> Callable[[Any], Sequence[Any] | None]:
        """A function that gives the leaves of a tree of just this structure; of others, None."""
        kind, number, entries = self._spec.type, self._spec.num_leaves, self._spec.entries()
        if kind is None:
            return lambda tree: (tree,)
        if number != self._spec.num_children or kind not in (dict, *SEQUENCES):
            return self._flatten_known
        if kind is not dict:
            return lambda tree: (
                cast("Sequence[Any]", tree) if type(tree) is kind and len(tree) == number else None
            )
        pick = itemgetter(*entries) if number > 1 else lambda tree: (tree[entries[0]],)

        def values(tree: Any) -> Sequence[Any] | None:
            if type(tree) is not dict or len(tree) != number:
                return None
            try:
                found: Sequence[Any] = pick(tree)
            except KeyError:
                return None
            return found

        return values

    def _flatten_known(self, tree: Any) -> list[Any] | None:
        """The leaves of a tree with this structure and leaves of classes seen before; else None.

        It is five times as fast as asking optree about each leaf whether it is one.
        """
        if not self._leaf_types or not self._containers or not _match(self._containers, tree):
            return None
        leaves = self._spec.flatten_up_to(tree)
        return leaves if self._leaf_types.issuperset(map(type, leaves)) else None

    def _flatten_like(self, tree: Any) -> list[Any] | None:
        """The leaves of a tree with just this structure; else None."""
        try:
            leaves, found = optree.tree_flatten(tree, none_is_leaf=True, namespace=NAMESPACE)
        except RecursionError:  # it is deeper than any that has been accepted
            return None
        if found != self._spec:
            return None
        self._leaf_types.update(map(type, leaves))
        return leaves

    def _descend(self, tree: Any, what: str) -> list[Any]:
        """The leaves of `tree`; ValueError at the first container that differs."""
        leaves: list[Any] = []
        todo: list[tuple[optree.PyTreeSpec, Any, Steps]] = [(self._spec, tree, None)]
        while todo:
            spec, found, steps = todo.pop()
            if found is None:
                leaves.extend([None] * spec.num_leaves)
            elif spec.type is None:
                if type(found) not in self._leaf_types and not _is_leaf(found):
                    raise ValueError(
                        f"{_at(steps)}the {what} has {a(type(found))} where the parameters have "
                        "one leaf; pass a single array, or None"
                    )
                leaves.append(found)
            else:
                given, wanted = _children(spec, found, what, steps), spec.entries()
                known = set(wanted)
                if given.keys() != known:
                    missing = [entry for entry in wanted if entry not in given]
                    extra = [entry for entry in given if entry not in known]
                    raise ValueError(
                        f"{_at(steps)}the {what} differs from the parameters: missing "
                        f"{few(missing)}, not known {few(extra)}; pass the same entries, with "
                        "None for those to skip"
                    )
                names = getattr(spec.type, "_fields", wanted)
                below = zip(wanted, names, spec.children(), strict=True)
                todo += [(x, given[entry], (steps, str(name))) for entry, name, x in below][::-1]
        return leaves

    @cached_property
    def _containers(self) -> list[Container]:
        """The containers, if they are all Python's own, each before those in it; else none."""
        containers: list[Container] = []
        todo: list[tuple[optree.PyTreeSpec, int, Any]] = [(self._spec, -1, None)]
        while todo:
            spec, parent, entry = todo.pop()
            kind, entries = cast(type, spec.type), spec.entries()
            if kind is None:
                continue
            if kind not in (*SEQUENCES, *DICTS) and not optree.is_namedtuple_class(kind):
                return []
            keys = set(entries) if kind in DICTS else len(entries)
            below = zip(spec.children(), entries, strict=True)
            todo += [
                (child, len(containers), name) for child, name in below if child.type is not None
            ]
            containers.append(Container(kind, keys, parent, entry))
        return containers


def _sorts(spec: optree.PyTreeSpec) -> bool:
    several = spec.type in (dict, defaultdict) and spec.num_children > 1
    return several or any(map(_sorts, spec.children()))


class Container(NamedTuple):
    """One of Python's own containers: its class, its keys or length, and where it is.

    `parent` is the index of the container that it is in, `entry` its place there.
    """

    kind: type
    keys: set[Any] | int
    parent: int
    entry: Any


def _match(containers: Iterable[Container], tree: Any) -> bool:
    """Return whether `tree` has this structure.

    It is asked before optree, whose error would print every array.
    """
    met: list[Any] = []
    for kind, keys, parent, entry in containers:
        here = met[parent][entry] if met else tree
        if type(here) is not kind:
            return False
        there: Any = here
        if (there.keys() if kind in DICTS else len(there)) != keys:
            return False
        met.append(there)
    return True


def _is_leaf(x: Any) -> bool:
    return optree.tree_is_leaf(x, none_is_leaf=True, namespace=NAMESPACE)


def _children(spec: optree.PyTreeSpec, tree: Any, what: str, steps: Steps) -> Mapping[Any, Any]:
    """The children of a container by entry, if it may stand for one of this structure."""
    kind, want = type(tree), cast(type, spec.type)
    if want in SEQUENCES and kind in SEQUENCES:
        return dict(enumerate(tree))
    if want in DICTS and issubclass(kind, dict):
        return cast(dict[Any, Any], tree)
    if kind is not want:
        raise ValueError(
            f"{_at(steps)}the {what} has {a(kind)} where the parameters have {a(want)}; "
            "pass the same kind of container, or None"
        )
    children, _, entries, _ = optree.tree_flatten_one_level(
        tree, none_is_leaf=True, namespace=NAMESPACE
    )
    return dict(zip(entries, children, strict=True))


def _at(steps: Steps) -> str:
    """The beginning of a message about a place."""
    names: list[str] = []
    while steps is not None:
        steps, name = steps
        names.append(name)
    return at(".".join(reversed(names)))
