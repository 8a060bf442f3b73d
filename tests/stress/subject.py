"""One optimizer in the stress test, with its shadows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optree

from adam_any import Adam

from ..helpers.optimizers import make
from .recipes import Random, Recipe
from .shadows import Mismatch, Shadows

#: The number of steps between two comparisons is less than this.
STEPS = 8


class Subject:
    """An optimizer of a recipe and its shadows. All that happens to it is drawn from `random`, so
    it depends neither on the thread nor on what happens to others."""

    def __init__(self, recipe: Recipe, name: str, random: Random, file: Path) -> None:
        self.recipe, self.name, self.random, self.file = recipe, name, random, file
        self.done, self.attacks = Counter(optimizers=1), Counter[str]()
        self.strain = 0.0
        self.lr: Any = 2.0 ** -int(random.integers(4, 12))
        start = [leaf.numbers(random) for leaf in recipe.leaves]
        self.adopt(self.fresh(start))
        exact = [
            c.dtype != "bfloat16" and (c.library in ("numpy", "python") or c.engine == "cpu")
            for c in self.opt.explain()
        ]
        self.shadows = Shadows(recipe, start, exact, self.lr)

    def fresh(self, values: Sequence[Any]) -> Adam:
        """Another optimizer of the recipe, over new arrays of these values."""
        options = {**self.recipe.options, "lr": self.lr, "nonfinite": self.recipe.nonfinite}
        return make(self.recipe.spec.unflatten(self._arrays(values)), options, self.recipe.engine)

    def adopt(self, opt: Adam) -> None:
        """Go on with this optimizer."""
        self.opt, self.arrays = opt, optree.tree_leaves(opt.params)

    # What happens to it --------------------------------------------------------------------------

    def steps(self) -> None:
        """Make some steps, and compare."""
        for _ in range(self.random.integers(1, STEPS)):
            values, grads, tree = self.gradients()
            self.take(self.opt.step(tree))
            self.follow(values)
            for leaf, v, g in zip(self.recipe.leaves, values, grads, strict=True):
                own = any(g is x for x in self.arrays)
                if v is not None and not own and not np.array_equal(leaf.lib.numpy(g), v):
                    raise Mismatch(f"{leaf}: its gradient was written")
        self.check()

    def gradients(self) -> tuple[Sequence[Any], Sequence[Any], Any]:
        """Random ones: their numbers, None where a leaf has none; themselves; and the tree."""
        recipe, chance = self.recipe, self.random.random()
        if chance < 0.05:  # a gradient may be its own parameter
            return self.values(), self.arrays, recipe.spec.unflatten(self.arrays)
        values = [leaf.numbers(self.random) for leaf in recipe.leaves]
        grads = [leaf.grad(v) for leaf, v in zip(recipe.leaves, values, strict=True)]
        for i in recipe.absent if chance < 0.3 else ():
            values[i] = grads[i] = None
        return values, grads, recipe.spec.unflatten(grads)

    def follow(self, values: Sequence[Any]) -> None:
        """Step the shadows by gradients of these numbers."""
        self.shadows.step(values)
        self.done["steps"] += 1
        self.done["elements updated"] += sum(v.size for v in values if v is not None)

    def learn(self, lr: Any) -> None:
        """Go on at this rate."""
        self.lr = self.opt.lr = lr
        self.shadows.learn(lr)

    def put(self, values: Sequence[Any]) -> None:
        """Go on from these numbers, assigned in new arrays and copied where they can be."""
        self.opt.params = self.recipe.spec.unflatten(self._arrays(values))
        self.take(self.opt.params)
        self.shadows.put(values)

    def restore(self, values: Sequence[Any]) -> None:
        """Go back to these parameters, by hand, and to the state that the file holds."""
        for i, x in enumerate(self._arrays(values)):
            if self.recipe.leaves[i].in_place:
                self.arrays[i][...] = x
            else:
                self.arrays[i] = x
        self.opt.params = self.recipe.spec.unflatten(self.arrays)
        self.opt.load(self.file)

    def _arrays(self, values: Sequence[Any]) -> list[Any]:
        return [leaf.parameter(v) for leaf, v in zip(self.recipe.leaves, values, strict=True)]

    # What is seen of it --------------------------------------------------------------------------

    def values(self) -> Sequence[Any]:
        """A copy of the parameters' numbers."""
        return [leaf.lib.numpy(x) for leaf, x in zip(self.recipe.leaves, self.arrays, strict=True)]

    def take(self, params: Any) -> None:
        """Look at what a step returned."""
        arrays = optree.tree_leaves(params)
        for leaf, new, old in zip(self.recipe.leaves, arrays, self.arrays, strict=True):
            leaf.lib.check(new, leaf.dtype, leaf.shape)
            if leaf.in_place and new is not old:
                raise Mismatch(f"{leaf} was not updated in place")
        self.arrays = arrays

    def check(self) -> None:
        """Raise unless everything is as it should be."""
        self.take(self.opt.params)
        self.strain = max(self.strain, self.shadows.compare(self.opt, self.arrays))

    def refuses(self, call: Callable[[], Any], *errors: type[Exception]) -> None:
        """Raise unless this call raises one of these."""
        try:
            call()
        except errors:
            return
        raise Mismatch("what should have been refused was taken")
