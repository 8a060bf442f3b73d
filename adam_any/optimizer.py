"""The optimizer: owns parameters, step counts and moments, and runs the flow of a step.

grads tree -> match paths with params -> check every leaf, before anything is written
           -> test for finite numbers, where asked for
           -> coefficients of each step count -> each plan.step -> params tree
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from . import check, engines, groups, nonfinite
from . import rule as rules
from .contents import Contents, leaf_of
from .journal import FREE, alone, alone_in_step
from .rule import Rule
from .state import state_dict
from .state.state_dict import Restored
from .sums import Sums
from .tree import flatten
from .words import few, named


class Optimizer:
    """Step parameters by a rule.

    Parameters
    ----------
    params : array, float, or nested dict, list, tuple or namedtuple of them
        Leaves may belong to several libraries and devices; None stays None. The dtypes are
        float16, bfloat16 (torch, JAX, and NumPy with ml_dtypes), float32, float64, complex64 and
        complex128. JAX's registered containers, such as dataclasses and modules, are trees, too.
    rule : rule, or mapping from paths to rules
        The mathematics, such as `rules.Adam()`, or a wrapper around one; `rule.Rule` describes what
        it needs, and all of that is checked. In a mapping an exact path wins, else exactly one glob
        must match, to which ``"*"`` yields; None freezes a leaf, whose gradient is not looked at.
    nonfinite : {"propagate", "raise", "skip"}
        How to treat a gradient that has an infinity, a NaN, or a number whose square overflows the
        compute dtype: propagate it into the parameter, as others do; raise ValueError, naming the
        first such leaf, with nothing changed; or skip the whole step: parameters, moments and step
        counts stay, and `skipped` counts it. The latter two read each gradient once more, and wait
        once for each device.
    engine : None or "eager"
        None chooses the fastest engine for each leaf; "eager" forces the reference.

    Raises
    ------
    TypeError
        For a leaf that is not an array, or of a dtype not listed.
    ValueError
        For two leaves of one path, leaves that share memory, torch's parameter groups, a tensor
        that is not a leaf of autograd, a rule that breaks what it promises, or a hyperparameter
        that is out of range, or that the compute dtype cannot hold.

    Notes
    -----
    **Which arrays are written.** NumPy, CuPy and torch arrays that can be written are updated in
    place, and come back as the same objects. JAX, Dask and read-only arrays, Python floats and
    NumPy scalars are replaced. ``params = opt.step(grads)`` is right for all. Gradients are never
    written, and nothing has changed when an error is raised.

    **Which engine runs a leaf.** JAX arrays: ``xla``, one compiled call. Dense NumPy arrays and
    torch CPU tensors: ``cpu``, one pass over memory. Dense CuPy arrays and torch CUDA tensors:
    ``cuda``, one launch. Everything else, and what these refuse: ``eager``, the rule applied
    directly. `explain` shows the choice for each leaf, and the reason.

    Real and imaginary part of a complex array are updated as two real arrays. Its gradient points
    uphill, dL/dRe + i dL/dIm, as torch gives it; conjugate what `jax.grad` and HIPS autograd give.
    Half precision is computed in float32, with float32 moments.

    Examples
    --------
    >>> import numpy as np
    >>> from adam_any import Optimizer, rules
    >>> x = np.zeros(2)
    >>> opt = Optimizer(x, rules.Adam(lr=0.1, weight_decay=0.01))
    >>> opt.step(np.array([1.0, -2.0]))
    array([-0.1,  0.1])
    """

    __slots__ = ("__weakref__", "_contents", "_engine", "_free", "_nonfinite", "_skipped", "_tree")

    def __init__(
        self,
        params: Any,
        rule: Rule | Mapping[str, Rule | None],
        *,
        nonfinite: str = "propagate",
        engine: str | None = None,
    ) -> None:
        self._begin(params, groups.validated(rule), engines.valid(engine))
        self._nonfinite, self._skipped = _policy(nonfinite), 0
        contents = self._contents
        from . import rule_check  # which computes with NumPy, so it imports it

        for i, kind in enumerate(contents.kinds):
            mine = ((leaf.backend, leaf.array) for leaf in contents.leaves if leaf.kind == i)
            rule_check.check(kind.traced, mine)
        for leaf in contents.leaves:
            leaf.moments = contents.begin(leaf)

    def _begin(self, params: Any, rule: Any, engine: str | None) -> None:
        """Set everything but the moments."""
        self._engine, self._free = engine, list(FREE)
        self._tree, arrays = flatten(params)
        leaves = [
            leaf_of(i, path, x)
            for i, (path, x) in enumerate(zip(self._tree.paths, arrays, strict=True))
            if x is not None
        ]
        self._contents = Contents(rule, leaves)

    @alone_in_step
    def step(self, grads: Any) -> Any:
        """Update the parameters once.

        Parameters
        ----------
        grads : tree
            The same structure as the parameters: a list may stand for a tuple, and any dict for
            another. The same shapes, libraries and devices; any one real number for a Python
            float, a Python number for a NumPy scalar. None for a leaf or a subtree skips it: its
            step count stays, too. A real gradient of another floating precision is converted to
            the compute dtype.

        Returns
        -------
        tree
            The parameters, in a container like the one given: the same objects where they can be
            written, new ones where not.

        Raises
        ------
        ValueError
            For another structure or shape, None for the whole tree, or with ``nonfinite="raise"``.
        TypeError
            For another library, device or dtype.
        RuntimeError
            After a step that was interrupted in its middle, while a CUDA stream is captured, or
            while the optimizer is in another call.

        Warns
        -----
        UserWarning
            The first time that every gradient is None.
        """
        if not self._contents.step_again(grads):
            self._step(grads)
        return self._current()

    def _step(self, grads: Any) -> None:
        """The long way of a step."""
        contents = self._whole()
        aligned = self._align(grads)
        plans = contents.current_plans(self._engine)
        sums, finite = Sums(), self._nonfinite != "propagate"
        try:
            gathered = [plan.gather(aligned, contents.written) for plan in plans]
        except Exception:
            contents.abstain(finite)
            raise
        if contents.asks(finite):
            computed = nonfinite.computed(contents.leaves, aligned)
            if computed is not None:
                aligned = computed
                gathered = [plan.gather(aligned, contents.written) for plan in plans]
            sums, bad = contents.sums(plans, gathered, aligned, finite)
            if bad is not None and self._nonfinite == "raise":
                raise ValueError(nonfinite.message(bad, aligned[bad.index]))
            if bad is not None:
                self._skipped += 1
                return
        turns = [
            turn
            for plan, mine in zip(plans, gathered, strict=True)
            for turn in contents.turns(plan, mine, aligned, sums)
        ]
        contents.step(turns, aligned)
        if len(contents.leaves) == len(aligned):
            contents.find_short_way(self._tree, aligned, finite)

    def _current(self) -> Any:
        """The parameters as they are now."""
        leaves = self._contents.leaves
        if self._tree.bare and leaves:
            return leaves[0].array
        arrays: list[Any] = [None] * len(self._tree.paths)
        for leaf in leaves:
            arrays[leaf.index] = leaf.array
        return self._tree.build(arrays)

    def _align(self, grads: Any) -> list[Any]:
        """The gradients in the order of the tree's leaves."""
        leaves = self._contents.leaves
        if self._tree.bare and leaves and type(grads) is type(leaves[0].array):
            return [grads]
        aligned = self._tree.gradients(grads, stacklevel=6)
        if len(leaves) < len(aligned):
            present = {leaf.index for leaf in leaves}
            for i, g in enumerate(aligned):
                if i not in present:
                    check.none(self._tree.paths[i], g)
        return aligned

    @property
    def params(self) -> Any:
        """The parameters, in a new container.

        Set it to arrays of the same structure, shapes, dtypes, libraries and devices, such as a
        projection. They are copied into arrays that can be written, which stay the same objects;
        what cannot be written is replaced. Moments and step counts stay.
        """
        self._settled()
        return self._current()

    @params.setter
    @alone
    def params(self, params: Any) -> None:
        arrays = self._tree.align(params, "new value")
        present = {leaf.index for leaf in self._contents.leaves}
        for i, (path, x) in enumerate(zip(self._tree.paths, arrays, strict=True)):
            if (i in present) != (x is not None):
                raise ValueError(f"{named(path)}: None must stay None, and an array an array")
        self._contents = self._contents.with_arrays(arrays)
        self._contents.settle()

    @property
    def rule(self) -> Any:
        """The rule, or the rules by path, as it was given, with every number a float.

        Set it to one of the same structure: the same keys, classes, options and array fields, with
        any other numbers, schedules and arrays. Moments and step counts stay.
        """
        return self._contents.rule

    @rule.setter
    @alone
    def rule(self, rule: Any) -> None:
        new = groups.validated(rule)
        groups.check_alike(self._contents.rule, new)
        self._contents = self._contents.with_rule(new)

    @property
    def lr(self) -> Any:
        """The learning rate, which can be set: a finite number, 0 or more, or a schedule.

        A schedule is a callable of the number of updates that a leaf has already had (0 at its
        first). It is that of the rule in all wrappers. Where rules are given by path and differ in
        it, it is a dict of those by key; a number or schedule then sets all of them.
        """
        return groups.rate(self._contents.rule)

    @lr.setter
    @alone
    def lr(self, lr: Any) -> None:
        new = groups.validated(groups.with_rate(self._contents.rule, lr))
        self._contents = self._contents.with_rule(new)

    def moment(self, name: str) -> Any:
        """Return a moment of every leaf, in a tree like the parameters.

        Parameters
        ----------
        name : str
            Such as ``m``, or ``average`` for `rules.Averaged`.

        Returns
        -------
        tree
            The moments themselves, in the compute dtype; they change with the next step. Those of a
            complex leaf are complex. None for a leaf whose rule does not have it.

        Raises
        ------
        KeyError
            Where no rule has it.
        """
        contents = self._settled()
        found: list[Any] = [None] * len(self._tree.paths)
        known: set[str] = set()
        for leaf in contents.leaves:
            names = contents.kind(leaf).rule.moments
            known.update(names)
            if name in names:
                x = leaf.moments[names.index(name)]
                x = leaf.library.paired(x) if leaf.dtype.complex else x
                found[leaf.index] = leaf.library.whole(leaf.array, x)
        if name not in known:
            raise KeyError(f"no rule has the moment {name!r}; there are {sorted(known)}")
        return self._tree.build(found)

    @alone
    def reset(self, path: str = "*") -> None:
        """Begin anew for some leaves: their moments as before the first step, their counts 0.

        Parameters
        ----------
        path : str
            A path, or a glob of paths; all unless given. The parameters stay.

        Raises
        ------
        ValueError
            For one that matches no leaf.
        """
        contents = self._whole()
        chosen = [x for x in contents.leaves if x.path == path or fnmatchcase(x.path, path)]
        if not chosen:
            raise ValueError(
                f"{path!r} matches no parameter; the paths are {few(list(self._tree.paths))}"
            )
        begun = {x.index: contents.begin(x) for x in chosen}
        self._contents = contents.with_state(
            (leaf, 0, begun[leaf.index])
            if leaf.index in begun
            else (leaf, leaf.steps, leaf.moments)
            for leaf in contents.leaves
        )

    @property
    def steps(self) -> dict[str, int]:
        """The number of updates that each leaf has had, by path."""
        return {leaf.path: leaf.steps for leaf in self._settled().leaves}

    @property
    def skipped(self) -> int:
        """The number of steps left out because of ``nonfinite="skip"``."""
        return self._skipped

    def explain(self) -> engines.Explanation:
        """Return for each leaf the engine that runs it, and why; it is shown as a table."""
        return engines.explain(self._contents.kinds, self._contents.leaves, self._engine)

    @alone
    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the moments and step counts, without the parameters.

        Those are yours to keep, unlike in `save`; the key ``params`` is False to say so.

        Returns
        -------
        dict
            Format, rule, options, hyperparameters, and by path the step count and the moments.
            Moments of a complex leaf are real, with a last axis of two.

        Raises
        ------
        RuntimeError
            After an interrupted step.
        """
        contents = self._whole()
        return state_dict.to_dict(contents)

    @alone
    def load_state_dict(self, state: Any, *, hyperparameters: bool = True) -> None:
        """Copy moments and step counts in, from whatever library or device, by path.

        The parameters stay as they are.

        Parameters
        ----------
        state : dict
            What `state_dict` returned. Rule, options, paths and shapes must be equal.
        hyperparameters : bool
            Whether the numbers of the rule, such as the learning rate, are set to those of the
            state. A schedule is saved as None, and stays as constructed.

        Raises
        ------
        ValueError
            Where the state does not fit; nothing has changed then.
        """
        contents = self._contents
        new = state_dict.from_dict(contents, state, hyperparameters)
        self._restore(*new)

    @alone
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a file, which `load` reads: a run can go on from it.

        Parameters, moments, step counts and the rule's options and numbers, but no schedules, in
        the safetensors format. It takes the place of an old file at once, or not at all. Leaves on
        a device, and Dask's, are copied to the host one array at a time.

        Parameters
        ----------
        path : path-like
            The file.

        Raises
        ------
        OSError
            Where the file cannot be written.
        ValueError
            For a rule's option, or a path, that a file cannot hold.
        TypeError
            For a parameter that has changed under its own name, as after ``model.half()``.
        RuntimeError
            After an interrupted step.
        """
        from .state import file  # a third of the time of importing the package

        contents = self._whole()
        file.save(path, contents)

    @alone
    def load(self, path: str | os.PathLike[str], *, params: bool = True) -> None:
        """Set everything to what a file has, saved on whatever library or device, by path.

        Parameters are written into the arrays that can be written; others are replaced, so take
        them from `params`. A schedule stays as constructed. A checksum covers all of the file, and
        nothing is unpickled.

        Parameters
        ----------
        path : path-like
            A file that `save` wrote.
        params : bool
            Whether the parameters are restored, too; if not, they stay as they are.

        Raises
        ------
        OSError
            Where the file cannot be read.
        ValueError
            Where its content does not fit or is damaged, or where it is of the older format,
            which has no parameters, without ``params=False``; nothing has changed then.
        TypeError
            For a parameter that has changed under its own name, as after ``model.half()``.
        """
        from .state import file

        contents = self._contents
        self._restore(*file.load(path, contents, params))

    def _restore(self, rule: Any, restored: Iterable[Restored]) -> None:
        rule, leaves, values = groups.validated(rule), [], []
        for leaf, steps, moments, array in restored:
            new = dataclasses.replace(leaf, steps=steps, moments=moments)
            if array is not None and leaf.library.writable(leaf.array):
                values.append((new, array))
            elif array is not None:
                new.array = array
            leaves.append(new)
        self._contents = Contents(rule, leaves, values)
        self._contents.settle()

    @alone
    def __getstate__(self) -> dict[str, Any]:
        contents = self._contents
        return {
            "rule": contents.rule,
            "engine": self._engine,
            "torn": contents.torn,
            "nonfinite": (self._nonfinite, self._skipped),
            "params": self.params,
            # After an interrupted step they may be gone, and nobody reads them any more.
            "state": [
                (leaf.steps, () if contents.torn else leaf.moments) for leaf in contents.leaves
            ],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(state["params"], state["rule"], state["engine"])
        self._nonfinite, self._skipped = state["nonfinite"]
        for leaf, (steps, moments) in zip(self._contents.leaves, state["state"], strict=True):
            leaf.steps, leaf.moments = steps, moments or self._contents.begin(leaf)
        self._contents.torn = state["torn"]

    @alone
    def __copy__(self) -> Optimizer:
        """An optimizer that steps alone: its parameters and moments are copies."""
        new = type(self).__new__(type(self))
        for name in ("_tree", "_engine", "_nonfinite", "_skipped"):
            setattr(new, name, getattr(self, name))
        new._free, new._contents = list(FREE), self._contents.copy()
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        return self.__copy__()

    def __repr__(self) -> str:
        spec: Any = {key: rules.without_arrays(x) for key, x in groups.by_key(self.rule).items()}
        several = isinstance(self.rule, Mapping)
        shown = {"rules": spec} if several else rules.fields(spec[groups.ALL])
        if self._nonfinite != "propagate":
            shown["nonfinite"] = self._nonfinite
        options = ", ".join(f"{k}={v!r}" for k, v in shown.items())
        leaves = self._contents.leaves
        elements = sum(math.prod(leaf.shape) for leaf in leaves)
        return f"<{type(self).__name__}({options}): {len(leaves)} leaves, {elements:,} elements>"

    def _repr_html_(self) -> str:
        """A table for notebooks: of each leaf its steps, its engine and its rule."""
        from .html import table

        steps = self.steps.values()
        rows = [
            (choice.path or "the parameter", "x".join(map(str, leaf.shape)), count, *choice[1:])
            for choice, leaf, count in zip(
                self.explain(), self._contents.leaves, steps, strict=True
            )
        ]
        heads = ("path", "shape", "steps", *engines.Choice._fields[1:])
        return table(repr(self), rows, heads)

    def _settled(self) -> Contents:
        """The contents, after what an interruption has left to do; not during a call."""
        if self._free:
            self._contents.settle()
        else:
            self._contents.count()
        return self._contents

    def _whole(self) -> Contents:
        """The contents; RuntimeError after a step that was interrupted in its middle."""
        contents = self._settled()
        if contents.torn:
            raise RuntimeError(
                "this optimizer was interrupted in the middle of a step, so its parameters and "
                "moments do not belong together; load a file, which has both; or put the "
                "parameters back, and load moments with load_state_dict"
            )
        return contents


_policy = nonfinite.policy  # where a keyword of the same name hides the module
