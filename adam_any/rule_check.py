"""The check of a rule, when an optimizer is made of it: what `Rule` asks for, but no type says.

- The coefficients of the first update are computed, and the rule is run on symbols. That suffices
  for a rule that becomes a program: each of its operations keeps shape and dtype.
- Any other is tried on small arrays of ones, once for each library, device, dtype and shape of that
  size, so that thousands of leaves cost one check. For JAX nothing is computed or compiled.
- Not seen is what has the right form: a wrong formula, or results in another order, unless that
  shows in which result depends on which operand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any, cast

import array_api_compat.numpy
import numpy as np

from . import detect
from .check import shape_of
from .detect import Backend, load
from .dtypes import name_of
from .engines.kernels.program import Program, Traced, counted
from .engines.kernels.symbols import MistakeError
from .libraries import Library
from .rule import Operand, Rule, Varying, chain, innermost, mapped
from .words import a, few, shown

#: Functions of the array API that look at more than one element; methods have the same names.
REDUCTIONS = (
    *("all", "any", "argmax", "argmin", "argsort", "count_nonzero", "cumulative_prod"),
    *("cumulative_sum", "linalg", "matmul", "max", "mean", "min", "prod", "sort", "std", "sum"),
    *("take", "tensordot", "var", "vecdot"),
)


def check(traced: Traced, leaves: Iterable[tuple[Backend, Any]]) -> None:
    """Raise ValueError for a rule, already validated, that cannot step these arrays."""
    rule, name = traced.given, type(traced.given).__name__
    _check_names(name, rule.moments)
    for _, level in chain(rule):
        _check_own_coefficients(type(level).__name__, level)
    coefficients = traced.sample
    try:
        suffices = traced.refusal is None
    except MistakeError as error:
        raise ValueError(str(error)) from None  # the class that users know
    if suffices:
        _check_coefficients(name, traced.program, coefficients)
        inner = innermost(rule)  # what wrappers do may depend on everything
        own = traced if inner is rule else Traced(inner)
        if own.refusal is None:
            _check_order(type(inner).__name__, inner, own.program)
        return
    tried = set()
    for facts, x in leaves:
        # At most two along an axis, and 64 elements.
        shape = tuple(min(n, 2 if axis < 6 else 1) for axis, n in enumerate(shape_of(x)))
        kind = facts.library, facts.device, facts.dtype, shape
        if kind not in tried:
            tried.add(kind)
            trial = _Trial(name, traced, coefficients, facts, shape)
            trial.check_results(x)
            trial.check_elements()


def _check_names(name: str, moments: Any) -> None:
    fine = isinstance(moments, tuple) and all(
        isinstance(x, str) and x.isidentifier() and x != "step" for x in moments
    )
    if not fine or len(set(moments)) < len(moments):
        raise ValueError(
            f"the rule {name} has the moments {shown(moments)}; they must be a tuple of distinct "
            "names, such as ('m',), none of them 'step'"
        )


def _check_own_coefficients(name: str, rule: Rule) -> None:
    """Raise unless a rule gives its own coefficients, with some number for each schedule."""
    try:
        found: Any = mapped(rule, lambda _, x: Varying(0.5) if callable(x) else x).coefficients(1)
    except Exception as error:
        raise ValueError(
            f"the rule {name} raises {type(error).__name__} from coefficients(1): {error}"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(x, str) for x in found):
        raise ValueError(
            f"the rule {name} returns {shown(found)} from coefficients; it must be a dict of "
            "numbers by name"
        )
    for key, value in found.items():
        try:
            number = not isinstance(value, str | bytes) and float(value) is not None
        except (TypeError, ValueError, OverflowError):
            number = isinstance(value, Operand)
        if not number:
            raise ValueError(
                f"the rule {name} returns {shown(value)} as the coefficient {key!r}; it must be a "
                "number that a float can hold"
            )


def _check_coefficients(name: str, program: Program, known: Mapping[str, float]) -> None:
    for path in program.coefficients:
        if path not in known:
            raise ValueError(f"the rule {name} {_unknown(path, known)}")


def _unknown(name: str, known: Mapping[str, float]) -> str:
    return f"asks for the coefficient {name!r}; coefficients returns {few(known)}"


def _check_order(name: str, rule: Rule, program: Program) -> None:
    """Raise if each result depends on its own operand in another order, and only there."""
    reads: dict[str, set[str]] = {}
    for it in program.instructions:
        reads[it.result] = set().union(*(reads.get(x, {x}) for x in it.operands))
    results = [reads.get(out, {out}) for out in program.outputs]

    def fits(order: Iterable[int]) -> bool:
        return all(x in results[k] for x, k in zip(program.state, order, strict=True))

    indices = range(len(results))
    if len(indices) > 6 or fits(indices) or not any(map(fits, permutations(indices))):
        return
    names = ("the parameter", *rule.moments)
    wrong = next(k for k in indices if program.state[k] not in results[k])
    raise ValueError(
        f"the rule {name} returns its results in another order: result {wrong + 1} does not depend "
        f"on {names[wrong]}; return {', '.join(names)}"
    )


class _Coefficients:
    """Coefficients that say so when they are asked for one that does not exist."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values, self._prefix = values, prefix

    @property
    def rule(self) -> _Coefficients:
        """The coefficients of the rule that a wrapper holds."""
        return _Coefficients(self._values, f"{self._prefix}rule.")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        path = self._prefix + name
        if path not in self._values:
            raise MistakeError(_unknown(path, self._values))
        return self._values[path]


class _Watched:
    """A namespace that remembers which of its functions were asked for."""

    def __init__(self, xp: Any) -> None:
        self._xp, self.asked = xp, list[str]()

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return getattr(self._xp, name)


class _Trial:
    """A rule that is tried on small arrays."""

    def __init__(
        self,
        name: str,
        traced: Traced,
        coefficients: Mapping[str, float],
        facts: Backend,
        shape: tuple[int, ...],
    ) -> None:
        self._name, self._rule = name, traced.rule
        self._refusal = str(traced.refusal)
        self._values, self._operands = coefficients, tuple(traced.operands)
        self._facts, self._library = facts, load(facts.library)
        self._shape = (*shape, 2) if facts.facts.complex else shape
        self._names = ("the parameter", *traced.rule.moments)

    def _update(self, p: Any, *others: Any) -> tuple[Any, ...]:
        """The results for a parameter, a gradient and moments, then operands."""
        library = cast(Library, detect.library(p))
        xp, count = library.namespace(p), len(self._names)
        c = self._c(library, p, others[count:])
        return counted(self._rule, self._rule.update(xp, c, p, *others[:count]))

    def _c(self, library: Library, p: Any, operands: Sequence[Any]) -> _Coefficients:
        """The coefficients, with arrays for operands and truth values."""
        truths = {
            path: library.truth(p, x) for path, x in self._values.items() if isinstance(x, bool)
        }
        arrays = dict(zip(self._operands, operands, strict=True))
        return _Coefficients({**self._values, **truths, **arrays})

    def check_results(self, x: Any) -> None:
        """Raise unless the results are as many as the state, and like it."""
        try:
            with np.errstate(all="ignore"):
                new = self._library.tried(
                    self._update,
                    x,
                    1 + len(self._names) + len(self._operands),
                    self._shape,
                    self._facts.compute,
                )
        except MistakeError as error:
            raise ValueError(f"the rule {self._name} {error}") from None
        except Exception as error:
            first, *_ = str(error).splitlines() or [""]  # JAX goes on for a page
            raise ValueError(
                f"the rule {self._name} raises {type(error).__name__} from update, on small arrays "
                f"of {self._facts.library} of shape {self._shape}: {first}"
            ) from error
        want = self._facts.compute, self._shape
        for name, result in zip(self._names, new, strict=True):
            have = a(type(result))
            if hasattr(result, "shape") and hasattr(result, "dtype"):
                have = f"{name_of(result.dtype)} of shape {shape_of(result)}"
                if (name_of(result.dtype), shape_of(result)) == want:
                    continue
            raise ValueError(
                f"the rule {self._name} returns {have} as {name} from update, where its operands "
                f"are {want[0]} of shape {want[1]}; all results must be like the operands"
            )

    def check_elements(self) -> None:
        """Raise for a reduction where the rule sees another set of elements than the leaf has."""
        if self._library.lazy:
            why = "on Dask it would see one chunk at a time"
        elif self._facts.facts.complex:
            why = "of a complex leaf it would see real and imaginary parts as elements of their own"
        else:
            return
        used = self._reductions()
        if used is not None:
            raise ValueError(
                f"the rule {self._name} computes an element of its results from other elements"
                f"{used}; {why}, so compute that before the step"
            )

    def _reductions(self) -> str | None:
        """The operations that make one element depend on others, in words, or None."""
        operation = self._refusal.removeprefix("the rule uses ").partition(";")[0]
        uses = operation.rpartition(".")[2] in REDUCTIONS or operation == "@"
        xp = _Watched(array_api_compat.numpy)

        def first(others: float) -> list[bytes]:
            """The first element of each result, where all others are given."""
            count = 1 + len(self._names)
            arrays = [np.full(self._shape, 1.5 + k) for k in range(count + len(self._operands))]
            for x in arrays:
                x.reshape(-1)[1:] = others
            c = self._c(load("numpy"), arrays[0], arrays[count:])
            new = self._rule.update(xp, c, *arrays[:count])
            return [np.asarray(x).reshape(-1)[:1].tobytes() for x in new]

        try:
            with np.errstate(all="ignore"):
                alone = first(2.0) == first(1e30) == first(0.0) == first(np.nan)
        except Exception:  # it needs another library than NumPy
            alone = not uses
        if alone:
            return None
        names = [f"xp.{name}" for name in dict.fromkeys(xp.asked) if name in REDUCTIONS]
        return f", with {', '.join(names or [operation])}" if names or uses else ""
