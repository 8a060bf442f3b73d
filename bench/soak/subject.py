"""One optimizer in the soak: how it is made, stepped, and compared with its shadows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optree

from adam_any import Adam

from .leaves import Random, host
from .oracle import Rate
from .shadows import Grads, MismatchError, Shadows, Values, adam
from .trees import Recipe

#: The most steps between two comparisons.
STEPS = 8


class Subject:
    """An optimizer of a recipe and its shadows. All that happens to it is drawn from `random`, so
    it does not depend on the thread, nor on what happens to others."""

    def __init__(self, recipe: Recipe, name: str, random: Random, file: Path) -> None:
        self.recipe, self.name, self.random, self.file = recipe, name, random, file
        self.done, self.faults = Counter({"optimizers": 1}), Counter[str]()
        self.strain = 0.0
        self.lr: Rate = 2.0 ** -int(random.integers(4, 12))
        start = [leaf.values(random) for leaf in recipe.leaves]
        self.adopt(self.made(start))
        exact = [c.library in ("numpy", "python") or c.engine == "cpu" for c in self.opt.explain()]
        self.shadows = Shadows(recipe.leaves, start, exact, recipe.options, self.lr)

    def made(self, values: Values) -> Adam:
        """An optimizer of this kind over new arrays of these values."""
        arrays = [x.parameter(v) for x, v in zip(self.recipe.leaves, values, strict=True)]
        tree, how = self.recipe.spec.unflatten(arrays), self.recipe
        return adam(tree, how.options, self.lr, engine=how.engine, nonfinite=how.nonfinite)

    def adopt(self, opt: Adam) -> None:
        """Go on with this optimizer."""
        self.opt, self.arrays = opt, optree.tree_leaves(opt.params)

    def burst(self, fault: Callable[[Subject], str]) -> None:
        """Some steps, a fault, and some more; all is compared before and after."""
        self.steps()
        self.faults[fault(self)] += 1
        self.check()

    def steps(self) -> None:
        """Make some steps, and compare."""
        for _ in range(self.random.integers(1, STEPS)):
            self.step()
        self.check()

    def step(self) -> None:
        """Step the optimizer and its shadows."""
        values, grads = self.gradients()
        self.take(self.opt.step(grads))
        self.follow(values)
        given = [v for v in values if v is not None]
        for g, v in zip(optree.tree_leaves(grads), given, strict=True):
            if not np.array_equal(host(g), v) and all(g is not x for x in self.arrays):
                raise MismatchError("a gradient was written")

    def follow(self, values: Grads) -> None:
        """Step the shadows."""
        self.shadows.step(values)
        self.done["steps"] += 1
        self.done["elements updated"] += sum(v.size for v in values if v is not None)

    def take(self, params: Any) -> None:
        """Look at what came back from a step."""
        arrays = optree.tree_leaves(params)
        for leaf, new, old in zip(self.recipe.leaves, arrays, self.arrays, strict=True):
            if leaf.in_place and new is not old:
                raise MismatchError(f"{leaf} was not updated in place")
        self.arrays = arrays

    def gradients(self) -> tuple[Grads, Any]:
        """Random ones: their numbers, None where there is none, and the tree of them."""
        random, recipe = self.random, self.recipe
        chance = random.random()
        if chance < 0.05:  # a gradient may be its own parameter
            return self.values(), recipe.spec.unflatten(self.arrays)
        values = [leaf.values(random) for leaf in recipe.leaves]
        grads: list[Any] = [leaf.grad(v) for leaf, v in zip(recipe.leaves, values, strict=True)]
        if chance > 0.3:
            return values, recipe.spec.unflatten(grads)
        first, end = recipe.ends[recipe.skipped : recipe.skipped + 2]
        none = [None] * (end - first)
        tree = recipe.spec.unflatten([*grads[:first], *none, *grads[end:]])
        return [*values[:first], *none, *values[end:]], (
            recipe.without(tree) if chance < 0.15 else tree
        )

    def values(self) -> Values:
        """The parameters' numbers as they are, copied."""
        hosts = map(host, self.arrays)
        return [x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in hosts]

    def check(self) -> None:
        """Raise unless everything is as it should be."""
        self.take(self.opt.params)
        self.strain = max(self.strain, self.shadows.compare(self.opt, self.arrays))

    def digest(self) -> bytes:
        """A checksum of all that the optimizer holds."""
        state = self.opt.state_dict()["state"].values()
        held = [x for entry in state for x in entry.values()] + self.arrays
        return hashlib.sha256(b"".join(host(x).tobytes() for x in held)).digest()
