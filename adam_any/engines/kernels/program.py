"""A rule traced once, on symbols, into the straight-line program that `cpu` and `cuda` compile.

- The rule's `update` is the only statement of the mathematics. The program has one instruction for
  each of its operations, in its order; nothing is simplified, moved or joined.
- Every instruction is one NumPy ufunc of the same name, rounded once.
- A coefficient meets arrays only: arithmetic between scalars would be done in float64 by the
  reference, and in the compute dtype here.
- A rule that a program cannot express is refused with the name of the operation, and the reference
  engine runs it instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from ...coefficients import Coefficients, nested, sample
from ...rule import Operand, Rule, static
from ...sums import Terms, sample_scales
from ...words import a
from .symbols import (
    Instruction,
    MistakeError,
    Namespace,
    Scalars,
    Symbol,
    Tape,
    UnsupportedError,
    plain,
)

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Program:
    """One update of one element.

    Names: `p`, `g`, `s_...` moments, `o_...` operands, `c_...` coefficients, `k...` constants,
    `t...` results.
    """

    #: `p` and the moments: each is read, and afterwards written.
    state: tuple[str, ...]
    #: For each of `state`, the name of its new value.
    outputs: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    #: The names of arrays that are only read, and the paths of the rule's fields that they are.
    operands: tuple[str, ...]
    fields: tuple[str, ...]
    #: The names of the scalars, coefficients before constants; the paths of the coefficients, and
    #: the values of the constants.
    scalars: tuple[str, ...]
    coefficients: tuple[str, ...]
    constants: tuple[float, ...]

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arrays whose addresses stay: state before operands."""
        return (*self.state, *self.operands)

    @cached_property
    def values(self) -> Callable[[Coefficients], Sequence[float]]:
        """A function that gives the scalars of one step, in order, from the coefficients."""
        getters = [attrgetter(path) for path in self.coefficients]
        constants = self.constants
        if constants or len(getters) < 2:
            return lambda c: [*(get(c) for get in getters), *constants]
        return attrgetter(*self.coefficients)


class Kind(NamedTuple):
    """A program, and the real dtypes of parameter, gradient and computation.

    Moments and operands have that of the computation.
    """

    program: Program
    parameter: str
    gradient: str
    compute: str

    @property
    def stored(self) -> dict[str, str]:
        """The real dtype of each array, by its name: the gradient, then `program.arrays`."""
        own = {"g": self.gradient, "p": self.parameter}
        return {name: own.get(name, self.compute) for name in ("g", *self.program.arrays)}


class Traced:
    """A rule as `update` may know it, and its programs: traced once, when first asked for."""

    def __init__(self, rule: Rule) -> None:
        self.given, self.rule = rule, static(rule)
        self._terms: dict[bool, Terms] = {}
        self._summing: dict[bool, Program | str] = {}

    @cached_property
    def sample(self) -> dict[str, Any]:
        """Its coefficients by path, with some values: numbers, bools and operands."""
        return sample(self.given) | self._scales

    @cached_property
    def _scales(self) -> dict[str, float]:
        return sample_scales(self.given, sample(self.given), nested)

    @property
    def scales(self) -> tuple[str, ...]:
        """The paths of its coefficients that are made of sums."""
        return tuple(self._scales)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The paths of its coefficients that are numbers or bools."""
        return tuple(name for name, x in self.sample.items() if not isinstance(x, Operand))

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """The paths of its coefficients that are bools."""
        return tuple(name for name, x in self.sample.items() if isinstance(x, bool))

    @cached_property
    def operands(self) -> dict[str, str]:
        """The paths of its coefficients that are arrays, and of the fields that these are."""
        return {name: x.path for name, x in self.sample.items() if isinstance(x, Operand)}

    @property
    def program(self) -> Program:
        """Its program, where `refusal` is None."""
        assert isinstance(self._result, Program)
        return self._result

    @property
    def refusal(self) -> str | None:
        """The reason why it has no program, or None."""
        return None if isinstance(self._result, Program) else self._result

    @cached_property
    def _result(self) -> Program | str:
        program = _trace_or_reason(lambda: trace(self.rule, self.operands))
        summing = self.summing(False)
        return summing if isinstance(summing, str) else program

    def terms(self, finite: bool) -> Terms:
        """The terms to be added of its gradients; with `finite` also the test for finite ones."""
        if finite not in self._terms:
            self._terms[finite] = Terms(self.rule, finite)
        return self._terms[finite]

    def summing(self, finite: bool) -> Program | str:
        """The program of these terms, or the reason why there is none."""
        if finite not in self._summing:
            terms = self.terms(finite)
            self._summing[finite] = _trace_or_reason(
                lambda: trace_terms(terms, self.rule, self.operands)
            )
        return self._summing[finite]


def _trace_or_reason(make: Callable[[], Program]) -> Program | str:
    try:
        return make()
    except UnsupportedError as error:
        return f"the rule uses {error}"


def trace(rule: Rule, operands: Mapping[str, str] = _NONE) -> Program:
    """Run a rule on symbols. `operands` has the fields of the coefficients that are arrays.

    Raises UnsupportedError for a rule that no program can express, MistakeError, a ValueError, for
    one that no engine can run.
    """

    def update(tape: Tape, *given: Any) -> tuple[str, ...]:
        named = zip(
            ("the parameter", *rule.moments), counted(rule, rule.update(*given)), strict=True
        )
        return tuple(tape.result(name, x) for name, x in named)

    tape, state, outputs = _run(rule, operands, update)
    return _program(tape, state, outputs, tape.arrays)


def trace_terms(terms: Terms, rule: Rule, operands: Mapping[str, str]) -> Program:
    """Run the terms of a rule on symbols: a program that reads all arrays, and writes none."""

    def add(tape: Tape, *given: Any) -> tuple[str, ...]:
        pairs = zip(terms.names, terms(*given), strict=True)
        return tuple(tape.result(name, x) for name, x in pairs)

    tape, state, outputs = _run(rule, operands, add)
    used = {name for it in tape.record for name in it.operands} | {*outputs}
    read = {name: name for name in state if name in used} | tape.arrays
    return _program(tape, (), outputs, read)


def _run(
    rule: Rule, operands: Mapping[str, str], function: Callable[..., tuple[str, ...]]
) -> tuple[Tape, tuple[str, ...], tuple[str, ...]]:
    """A function on the symbols of a rule: the tape, the names of the state, and the results."""
    tape = Tape(operands)
    try:
        state = ("p", *(f"s_{plain(name)}" for name in rule.moments))
        p, *moments = (Symbol(tape, name) for name in state)
        given = Namespace(tape), Scalars(tape), p, Symbol(tape, "g"), *moments
        return tape, state, function(tape, *given)
    except UnsupportedError:
        raise
    except MistakeError as error:
        raise MistakeError(f"the rule {type(rule).__name__} {error}") from None
    except Exception as error:
        raise UnsupportedError(
            f"code that raises {type(error).__name__}: {error}; call the functions of xp"
        ) from error


def _program(
    tape: Tape, state: tuple[str, ...], outputs: tuple[str, ...], arrays: Mapping[str, str]
) -> Program:
    return Program(
        state,
        outputs,
        tuple(tape.record),
        tuple(arrays),
        tuple(arrays.values()),
        (*tape.coefficients, *tape.constants),
        tuple(tape.coefficients.values()),
        tuple(tape.constants.values()),
    )


def counted(rule: Rule, new: Any) -> tuple[Any, ...]:
    """The results of `update`, if they are as many as they must be; else MistakeError."""
    names = ("the parameter", *rule.moments)
    wanted = f"{len(names)}: {', '.join(names)}"
    if not isinstance(new, tuple):
        kind = "a bare array" if isinstance(new, Symbol) or hasattr(new, "shape") else a(type(new))
        raise MistakeError(f"returns {kind} from update; it must return a tuple of {wanted}")
    if len(new) != len(names):
        results = f"{len(new)} result{'s' * (len(new) != 1)}"
        raise MistakeError(f"returns {results} from update; it must return {wanted}")
    return new
