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
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple, NoReturn

from ...rule import Coefficients, Rule, coefficient_names, static
from ...words import a

UNARY = ("negative", "sqrt", "abs", "sign")
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum")

#: The functions of `xp`, in the array API's names.
_FUNCTIONS = frozenset((*UNARY, *BINARY))


class UnsupportedError(Exception):
    """A rule that no program can express; the message names the operation."""


class Instruction(NamedTuple):
    """`result = operation(*operands)`, all by name."""

    result: str
    operation: str
    operands: tuple[str, ...]


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
        self._given = rule
        self.rule = static(rule)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its coefficients."""
        return coefficient_names(self._given)

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
    """Run a rule on symbols. Raises UnsupportedError for one that no program can express."""
    tape = _Tape()
    try:
        state = ("p", *(f"s_{_plain(name)}" for name in rule.moments))
        p, *moments = (Symbol(tape, name) for name in state)
        new = rule.update(_Namespace(tape), _Scalars(tape), p, Symbol(tape, "g"), *moments)
    except UnsupportedError:
        raise
    except Exception as error:  # the rule's own: the reference will raise it where it belongs
        raise UnsupportedError(f"code that raises {type(error).__name__}: {error}") from error
    if not isinstance(new, tuple) or len(new) != len(state):
        raise UnsupportedError(
            f"another result than a tuple of {len(state)}: the parameter and its moments"
        )
    outputs = tuple(tape.array(x) for x in new)
    scalars = (*tape.coefficients, *tape.constants)
    return Program(state, outputs, tuple(tape.record), scalars, tuple(tape.constants.values()))


@dataclass
class _Tape:
    record: list[Instruction] = field(default_factory=list)
    coefficients: dict[str, None] = field(default_factory=dict)  # an ordered set
    constants: dict[str, float] = field(default_factory=dict)

    def apply(self, operation: str, *operands: Any) -> Symbol:
        """Record one operation; at least one operand is an array."""
        if not any(type(x) is Symbol for x in operands):
            raise UnsupportedError(f"{operation} of scalars; compute it in coefficients()")
        names = tuple(self.operand(x) for x in operands)
        result = f"t{len(self.record)}"
        self.record.append(Instruction(result, operation, names))
        return Symbol(self, result)

    def operand(self, x: Any) -> str:
        """The name of an array, a coefficient, or a Python number, which becomes a constant."""
        if isinstance(x, _Name):
            return x.name
        if type(x) not in (float, int):
            raise UnsupportedError(f"an operand that is {a(type(x))}; use a Python float")
        name = f"k{len(self.constants)}"
        self.constants[name] = float(x)
        return name

    def array(self, x: Any) -> str:
        """The name of a result."""
        if type(x) is not Symbol:
            raise UnsupportedError(f"a result that is {a(type(x))}, not an array")
        return x.name


def _recorded(operation: str) -> Callable[..., Any]:
    def method(self: _Name, *others: Any) -> Symbol:
        return self.tape.apply(operation, self, *others)

    return method


def _reflected(operation: str) -> Callable[..., Any]:
    def method(self: _Name, other: Any) -> Symbol:
        return self.tape.apply(operation, other, self)

    return method


def _refused(operation: str) -> Callable[..., Any]:
    def method(self: _Name, *others: Any) -> NoReturn:
        raise UnsupportedError(operation)

    return method


class _Name:
    """A value, while a rule is traced."""

    __array_ufunc__ = None  # NumPy's own scalars and functions leave it alone, too

    def __init__(self, tape: _Tape, name: str) -> None:
        self.tape = tape
        self.name = name

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # Python and NumPy ask for these on their own account
        raise UnsupportedError(f".{name}")

    __add__, __radd__ = _recorded("add"), _reflected("add")
    __sub__, __rsub__ = _recorded("subtract"), _reflected("subtract")
    __mul__, __rmul__ = _recorded("multiply"), _reflected("multiply")
    __truediv__, __rtruediv__ = _recorded("divide"), _reflected("divide")
    __neg__, __abs__ = _recorded("negative"), _recorded("abs")
    __pos__, __bool__, __float__ = _refused("unary +"), _refused("bool()"), _refused("float()")
    __pow__ = __rpow__ = _refused("**")
    __mod__ = __rmod__ = _refused("%")
    __floordiv__ = __rfloordiv__ = _refused("//")
    __matmul__ = __rmatmul__ = _refused("@")
    __lt__, __le__, __gt__, __ge__ = map(_refused, ("<", "<=", ">", ">="))
    __eq__, __ne__ = _refused("=="), _refused("!=")
    __getitem__, __iter__, __len__ = _refused("[]"), _refused("iteration"), _refused("len()")
    __hash__ = None  # type: ignore[assignment]


class Symbol(_Name):
    """An array."""


class _Scalar(_Name):
    """A coefficient."""


class _Scalars:
    """Coefficients by name."""

    def __init__(self, tape: _Tape) -> None:
        self._tape = tape

    def __getattr__(self, name: str) -> _Scalar:
        full = f"c_{_plain(name)}"
        self._tape.coefficients[full] = None
        return _Scalar(self._tape, full)


class _Namespace:
    """The part of the array API that a program can express."""

    def __init__(self, tape: _Tape) -> None:
        self._tape = tape

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name not in _FUNCTIONS:
            raise UnsupportedError(f"xp.{name}")

        def function(*operands: Any) -> Symbol:
            if len(operands) != (1 if name in UNARY else 2):
                raise UnsupportedError(f"xp.{name} of {len(operands)} operands")
            return self._tape.apply(name, *operands)

        return function


def _plain(name: str) -> str:
    if not (name.isascii() and name.isidentifier()):
        raise UnsupportedError(f"the name {name!r}; use an ASCII identifier")
    return name
