"""What is stepped: random nests of leaves, and the options of the optimizer over them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import optree

from .leaves import Leaf, Random, leaf, pick
from .oracle import Options


class Recipe(NamedTuple):
    """A tree and the optimizer for it."""

    spec: optree.PyTreeSpec
    leaves: tuple[Leaf, ...]
    options: Options
    engine: str | None
    nonfinite: str
    #: Which child of the root has no gradient at times. Always the same, since JAX compiles anew
    #: for every other set of leaves.
    skipped: int

    @property
    def ends(self) -> list[int]:
        """Where the leaves of each child of the root begin, and where the last one's end."""
        children = self.spec.children() or [self.spec]
        return list(accumulate((child.num_leaves for child in children), initial=0))

    def without(self, tree: Any) -> Any:
        """The tree with None in place of the child that is skipped."""
        root = self.spec.one_level()
        if root is None:
            return None
        children: list[Any] = list(root.flatten_up_to(tree))
        children[self.skipped] = None
        return root.unflatten(children)


class Pair(NamedTuple):
    """A container of the user's own."""

    first: Any
    second: Any


def recipe(random: Random, libraries: Sequence[str], options: Options) -> Recipe:
    """A random one, of leaves of these libraries."""
    spec = optree.tree_structure(_nest(random, int(random.integers(1, 9))))
    leaves = tuple(leaf(random, pick(random, libraries)) for _ in range(spec.num_leaves))
    engine = "eager" if random.random() < 0.2 else None
    nonfinite = pick(random, ("propagate", "raise", "skip"))
    skipped = int(random.integers(spec.num_children or 1))
    return Recipe(spec, leaves, options, engine, nonfinite, skipped)


def plain(options: Options) -> Recipe:
    """One for two small leaves, which need as many kernels as any others of these options."""
    two: Any = [0.0, 0.0]
    like = ("float32", "C"), ("float64", "C")
    leaves = tuple(Leaf("numpy", dtype, (3,), layout, (dtype, layout)) for dtype, layout in like)
    return Recipe(optree.tree_structure(two), leaves, options, None, "propagate", 0)


def options(random: Random) -> Options:
    """Random ones."""
    decoupled = bool(random.integers(2))
    return Options(
        betas=(pick(random, (0.0, 0.3, 0.9)), pick(random, (0.4, 0.99, 0.999))),
        eps=pick(random, (1e-8, 1e-6)),
        # Less than cancels any gradient that is not 0: what is left of it would be but rounding.
        weight_decay=pick(random, (0.0, 0.1 if decoupled else 1e-5)),
        decoupled=decoupled,
        amsgrad=bool(random.integers(2)),
        maximize=bool(random.integers(2)),
    )


def _nest(random: Random, leaves: int) -> Any:
    """A tree of so many leaves."""
    if leaves == 1 and random.random() < 0.7:
        return 0.0
    cuts = np.sort(random.integers(0, leaves + 1, random.integers(0, 3)))
    sizes = np.diff([0, *cuts, leaves]).tolist()
    children = [_nest(random, size) if size else None for size in sizes]
    kind = pick(random, ("list", "tuple", "dict", "pair"))
    if kind == "dict":
        return {f"{random.integers(100)}-{i}": child for i, child in enumerate(children)}
    if kind == "pair" and len(children) == 2:
        return Pair(*children)
    return tuple(children) if kind == "tuple" else children
