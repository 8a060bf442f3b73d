"""The optimizer: owns parameters, step counts and moments, and runs the flow of a step.

grads tree -> match paths with params -> check every leaf, before anything is written
           -> test for finite numbers, where asked for
           -> coefficients of each step count -> each plan.step -> params tree
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import optree

from . import check, checkpoint, engines, nonfinite, rules
from .engines.base import Leaf, Plan, Update
from .libraries import zeros
from .memory import Written
from .rules import Rule, Schedule

#: One call of a plan: the plan, the coefficients, and a gradient or None for each of its leaves.
Turn = tuple[Plan, rules.Coefficients, Sequence[Any]]


class Optimizer:
    """Steps parameters by a rule: a frozen dataclass such as `adam_any.rules.Adam`.

    params : an array, a Python float, or any nested dict, list, tuple or namedtuple of them
        (optree's containers). Leaves may belong to several libraries and devices; None stays None.
        dtypes: float16, bfloat16 (torch, JAX), float32, float64, complex64, complex128.
    rule : the mathematics, as `adam_any.rules.Rule` describes it.
    engine : None chooses the fastest for each leaf; "eager" forces the reference.

    **What is written.** NumPy, CuPy and torch arrays that can be written are updated in place, and
    come back as the same objects. JAX, Dask and read-only arrays, Python floats and NumPy scalars
    are replaced. `params = opt.step(grads)` is right for all. Gradients are never written, and
    nothing has changed when an error is raised.

    Raises TypeError for a leaf that is no array, or of a dtype not listed; ValueError for two
    leaves of one path, leaves that share memory, or a hyperparameter that the compute dtype cannot
    hold.
    """

    _rule: Rule
    _engine: str | None
    _paths: list[str]
    _structure: check.Structure
    _slots: list[Leaf | None]
    _leaves: list[Leaf]
    _empty: list[int]
    #: The class of the parameter, where it is the whole tree: a gradient of it is a leaf, too.
    _bare: type | None
    _plans: list[Plan] | None
    _written: Written
    _torn: bool
    #: What `nonfinite` says, and how many steps it has left out; `Adam` has them in its face.
    _nonfinite: str = "propagate"
    _skipped: int = 0

    def __init__(self, params: Any, rule: Rule, *, engine: str | None = None) -> None:
        if not dataclasses.is_dataclass(rule) or isinstance(rule, type):
            raise TypeError(f"rule is {rule!r}; it must be an instance of a frozen dataclass")
        self._begin(params, rule, engines.valid(engine))
        for leaf in self._leaves:
            leaf.moments = self._zeros(leaf)

    def _begin(self, params: Any, rule: Rule, engine: str | None) -> None:
        """Everything but the moments."""
        self._paths, arrays, self._structure = check.flatten(params)
        self._slots = [
            None if x is None else _leaf(i, path, x)
            for i, (path, x) in enumerate(zip(self._paths, arrays, strict=True))
        ]
        self._leaves = [leaf for leaf in self._slots if leaf is not None]
        one = self._structure.spec.type is None and self._leaves
        self._bare = type(arrays[0]) if one else None
        self._empty = [i for i, leaf in enumerate(self._slots) if leaf is None]
        self._check_representable(rule)
        self._written = _written(self._leaves)
        self._rule, self._engine, self._plans, self._torn = rule, engine, None, False

    def _zeros(self, leaf: Leaf) -> tuple[Any, ...]:
        compute = leaf.backend.compute
        return tuple(zeros(leaf.library, leaf.array, compute) for _ in self._rule.moments)

    def step(self, grads: Any) -> Any:
        """Update the parameters once, and return them in a container like the one given.

        grads : the same structure as the parameters, containers of the same kind; the same shapes,
            libraries and devices. None for a leaf or a subtree skips it: its step count stays, too.
            A real gradient of another floating precision is converted to the compute dtype.

        Raises ValueError for structure and shape, TypeError for library, device and dtype, and
        RuntimeError after an interrupted step.
        """
        self._refuse_torn()
        bare = self._bare is type(grads)
        aligned = [grads] if bare else self._structure.align(grads, "gradient")
        for i in self._empty:
            if aligned[i] is not None:
                path = self._paths[i]
                raise ValueError(f"{path!r}: a gradient for a parameter that is None; pass None")
        gathered = [(plan, plan.gather(aligned, self._written)) for plan in self._current_plans()]
        if self._nonfinite != "propagate":
            gathered = nonfinite.settled(gathered)
            complaint = nonfinite.complaint(gathered, aligned)
            if complaint is not None and self._nonfinite == "raise":
                raise ValueError(complaint)
            if complaint is not None:
                self._skipped += 1
                return self._tree()
        turns = [turn for plan, mine in gathered for turn in self._turns(plan, mine)]

        updates: list[Update] = []
        for plan, c, mine in turns:  # what fails before the first that writes has changed nothing
            if plan.in_place:
                # Put where it is, past __setattr__, which would take a tenth of a small step.
                self.__dict__["_torn"] = True
            updates += plan.step(self._rule, c, mine)
        self.__dict__["_torn"] = True
        for leaf, array, moments in updates:
            leaf.array, leaf.moments = array, moments
        for plan, mine in gathered:
            for leaf, g in zip(plan.leaves, mine, strict=True):
                if g is not None:
                    leaf.steps += 1
        self.__dict__["_torn"] = False
        return self._tree()

    def _current_plans(self) -> list[Plan]:
        """The plans, those that write in place last; made anew if there are none, or a parameter
        has changed under its own name, as after `model.half()`."""
        if self._plans is None or not all(plan.current() for plan in self._plans):
            self.params = self._tree()  # checks everything, and drops the plans
            plans = engines.plans(self._rule, self._leaves, self._engine)
            self._plans = sorted(plans, key=attrgetter("in_place"))
        return self._plans

    def _turns(self, plan: Plan, grads: Sequence[Any]) -> list[Turn]:
        """One call of the plan for each step count among its leaves; almost always there is one."""
        pairs = zip(plan.leaves, grads, strict=True)
        counts = {leaf.steps for leaf, g in pairs if g is not None}
        turns = []
        for count in sorted(counts):
            lr = rules.evaluate(getattr(self._rule, "lr", 0.0), count)
            c = rules.rounded(self._rule, count + 1, lr, plan.leaves[0].backend.compute)
            if len(counts) > 1:
                pairs = zip(plan.leaves, grads, strict=True)
                mine: Sequence[Any] = [g if leaf.steps == count else None for leaf, g in pairs]
            else:
                mine = grads
            turns.append((plan, c, mine))
        return turns

    @property
    def params(self) -> Any:
        """The parameters, in a new container. Set it to put other arrays of the same structure,
        shapes, dtypes, libraries and devices in their place: a projection, say. Moments and step
        counts stay."""
        return self._tree()

    @params.setter
    def params(self, params: Any) -> None:
        arrays = self._structure.align(params, "new value")
        changed = []
        for path, slot, x in zip(self._paths, self._slots, arrays, strict=True):
            if (slot is None) != (x is None):
                raise ValueError(f"{path!r}: None must stay None, and an array an array")
            if slot is not None:
                facts = check.replacement(path, slot.backend, slot.shape, x)
                x = float(x) if facts.library == "python" else x
                changed.append(dataclasses.replace(slot, array=x, backend=facts))
        self._written = _written(changed)
        self._leaves, self._plans = changed, None
        for leaf in changed:
            self._slots[leaf.index] = leaf

    @property
    def lr(self) -> float | Schedule:
        """The learning rate: a finite number, 0 or more, or a callable of the number of updates
        that a leaf has already had (0 at its first). It can be set."""
        lr: float | Schedule = getattr(self._rule, "lr")  # noqa: B009 (a rule may have none)
        return lr

    @lr.setter
    def lr(self, lr: float | Schedule) -> None:
        rule = dataclasses.replace(self._rule, lr=rules.learning_rate(lr))  # type: ignore[type-var]
        self._check_representable(rule)
        self._rule = rule

    @property
    def steps(self) -> dict[str, int]:
        """The number of updates that each leaf has had, by path."""
        return {leaf.path: leaf.steps for leaf in self._leaves}

    def explain(self) -> engines.Explanation:
        """For each leaf the engine that runs it, and why; `str` of it is a table."""
        return engines.explain(self._rule, self._leaves, self._engine)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state: format, rule, options, hyperparameters, and by path the step count
        and the moments. Moments of a complex leaf are real, with a last axis of two.

        Raises RuntimeError after an interrupted step.
        """
        self._refuse_torn()
        return checkpoint.to_dict(self._rule, self._leaves)

    def load_state_dict(self, state: Any) -> None:
        """Copy a state in, from whatever library or device, by path.

        Rule, options, paths and shapes must be equal; hyperparameters are set. A callable lr is
        saved as None, and stays as constructed. Raises ValueError where the state does not fit.
        """
        self._restore(*checkpoint.from_dict(self._rule, self._leaves, state))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, in the safetensors format; `load` reads it.

        It takes the place of an old file at once, or not at all. Leaves on a device, and Dask's,
        need one copy of the state on the host meanwhile. A callable lr is not saved.

        Raises OSError where the file cannot be written, ValueError for a rule's option that a file
        cannot hold, and RuntimeError after an interrupted step.
        """
        from . import files  # a third of the time of importing the package

        self._refuse_torn()
        files.save(path, self._rule, self._leaves)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Set the state to that of a file, saved on whatever library or device, by path.

        As `load_state_dict`; a checksum covers all of the file, and nothing is unpickled. Raises
        ValueError where the content does not fit or is damaged, and OSError where it cannot be
        read; nothing has changed then.
        """
        from . import files

        self._restore(*files.load(path, self._rule, self._leaves))

    def _restore(self, rule: Rule, restored: Iterable[checkpoint.Restored]) -> None:
        self._check_representable(rule)
        self._torn = True  # until all of it is in place
        self._rule, self._plans = rule, None
        for leaf, steps, moments in restored:
            leaf.steps, leaf.moments = steps, moments
        self._torn = False

    def __getstate__(self) -> dict[str, Any]:
        return {
            "rule": self._rule,
            "engine": self._engine,
            "torn": self._torn,
            "nonfinite": (self._nonfinite, self._skipped),
            "params": self._tree(),
            # After an interrupted step they may be gone, and nobody reads them any more.
            "state": [(leaf.steps, () if self._torn else leaf.moments) for leaf in self._leaves],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(state["params"], state["rule"], state["engine"])
        for leaf, (steps, moments) in zip(self._leaves, state["state"], strict=True):
            leaf.steps, leaf.moments = steps, moments or self._zeros(leaf)
        self._torn = state["torn"]
        self._nonfinite, self._skipped = state["nonfinite"]

    def __copy__(self) -> Optimizer:
        """An optimizer that steps alone: its parameters and moments are copies."""
        state = self.__getstate__()
        arrays = [None if s is None else s.library.copy(s.array) for s in self._slots]
        state["params"] = optree.tree_unflatten(self._structure.spec, arrays)
        state["state"] = [
            (steps, tuple(map(leaf.library.copy, moments)))
            for leaf, (steps, moments) in zip(self._leaves, state["state"], strict=True)
        ]
        new = type(self).__new__(type(self))
        new.__setstate__(state)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        return self.__copy__()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("lr", "params") and not name.startswith("_"):
            raise AttributeError(
                f"{name!r} cannot be set on {type(self).__name__}; lr and params can. "
                "For other options make a new optimizer, and load this one's state_dict"
            )
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shown = rules.fields(self._rule)
        if self._nonfinite != "propagate":
            shown["nonfinite"] = self._nonfinite
        options = ", ".join(f"{k}={v!r}" for k, v in shown.items())
        elements = sum(math.prod(leaf.shape) for leaf in self._leaves)
        return (
            f"<{type(self).__name__}({options}): {len(self._leaves)} leaves, {elements:,} elements>"
        )

    def _tree(self) -> Any:
        if self._bare is not None:
            return self._leaves[0].array
        arrays = [None if slot is None else slot.array for slot in self._slots]
        return optree.tree_unflatten(self._structure.spec, arrays)

    def _check_representable(self, rule: Rule) -> None:
        for compute in ("float32", "float64"):
            leaf = next((x for x in self._leaves if x.backend.compute == compute), None)
            if leaf is not None:
                try:
                    rules.representable(rule, compute)
                except ValueError as error:
                    raise ValueError(f"{leaf.path!r}: {error}") from None

    def _refuse_torn(self) -> None:
        if self._torn:
            raise RuntimeError(
                "this optimizer was interrupted in the middle of a step, so its parameters and "
                "moments do not belong together; restore the parameters, and load a state with "
                "load or load_state_dict"
            )


def _leaf(index: int, path: str, x: Any) -> Leaf:
    facts = check.parameter(path, x)  # before anything else is asked of it
    return Leaf(index, path, x, check.shape_of(x), facts)


def _written(leaves: Iterable[Leaf]) -> Written:
    located = ((leaf.path, leaf.extent, leaf.backend.writable) for leaf in leaves)
    return Written([(path, at, written) for path, at, written in located if at is not None])
