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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from ...rule import Coefficients, Rule, some_coefficients, static
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


@dataclass(frozen=True)
class Program:
    """One update of one element.

    Names: `p`, `g`, `s_...` moments, `c_...` coefficients, `k...` constants, `t...` results.
    """

    #: `p` and the moments: each is read, and afterwards written.
    state: tuple[str, ...]
    #: For each of `state`, the name of its new value.
    outputs: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    #: The names of the scalars, coefficients before constants, and the constants' values.
    scalars: tuple[str, ...]
    constants: tuple[float, ...]

    @cached_property
    def values(self) -> Callable[[Coefficients], Sequence[float]]:
        """A function that gives the scalars of one step, in order, from the coefficients."""
        names = [name.removeprefix("c_") for name in self.scalars if name.startswith("c_")]
        constants = self.constants
        if constants or len(names) < 2:
            return lambda c: [*(getattr(c, name) for name in names), *constants]
        return attrgetter(*names)


class Traced:
    """A rule as `update` may know it, and its program: traced once, when first asked for."""

    def __init__(self, rule: Rule) -> None:
        self.given, self.rule = rule, static(rule)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its coefficients."""
        return tuple(some_coefficients(self.given))

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
        try:
            return trace(self.rule)
        except UnsupportedError as error:
            return f"the rule uses {error}"


def trace(rule: Rule) -> Program:
    """Run a rule on symbols.

    Raises UnsupportedError for a rule that no program can express, MistakeError, a ValueError, for
    one that no engine can run.
    """
    tape = Tape()
    try:
        state = ("p", *(f"s_{plain(name)}" for name in rule.moments))
        p, *moments = (Symbol(tape, name) for name in state)
        new = rule.update(Namespace(tape), Scalars(tape), p, Symbol(tape, "g"), *moments)
        named = zip(("the parameter", *rule.moments), counted(rule, new), strict=True)
        outputs = tuple(tape.result(name, x) for name, x in named)
    except UnsupportedError:
        raise
    except MistakeError as error:
        raise MistakeError(f"the rule {type(rule).__name__} {error}") from None
    except Exception as error:
        raise UnsupportedError(
            f"code that raises {type(error).__name__}: {error}; call the functions of xp"
        ) from error
    scalars = (*tape.coefficients, *tape.constants)
    return Program(state, outputs, tuple(tape.record), scalars, tuple(tape.constants.values()))


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
