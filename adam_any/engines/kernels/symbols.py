"""The symbols that a rule computes with while it is traced; they write down what is done with them.

- Each operation is recorded under the name of the NumPy ufunc that it is.
- What no program can express is refused with what to write instead; the rule then runs in the
  reference engine, which can do more.
- What no engine can do right is a mistake of the rule's, and ends the trace: writing into an
  operand, which belongs to somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from ...rule import NOT_KNOWN, Varying
from ...words import a, shown

#: Operations on numbers, comparisons of numbers, and operations on the conditions that these give;
#: under the array API's names, with how many operands each has.
NUMERIC = dict.fromkeys(("negative", "sqrt", "abs", "sign"), 1)
NUMERIC |= dict.fromkeys(("add", "subtract", "multiply", "divide", "maximum", "minimum"), 2)
COMPARISONS = dict.fromkeys(
    ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"), 2
)
LOGICAL = {"logical_not": 1, "logical_and": 2, "logical_or": 2}
WHERE = "where"

#: The functions of `xp`, and the operations whose results are conditions.
_FUNCTIONS = NUMERIC | COMPARISONS | LOGICAL | {WHERE: 3}
CONDITIONS = frozenset(COMPARISONS | LOGICAL)

#: What to write instead of an operation that a program does not have.
_INSTEAD = {
    "**": "write x * x * x",
    "unary +": "leave it out",
    "xp.square": "write x * x",
    "xp.pow": "write x * x",
    "xp.positive": "leave it out",
    "xp.clip": "write xp.minimum(xp.maximum(x, low), high)",
    "bool()": "choose with xp.where(condition, x, y)",
}
_ANYTHING = "use + - * /, abs, comparisons, and xp.sqrt, sign, maximum, minimum and where"


class UnsupportedError(Exception):
    """A rule that no program can express; the message names the operation."""


class MistakeError(ValueError):
    """A rule that no engine can run; the message says what it must do."""


def unsupported(operation: str) -> UnsupportedError:
    """The error for an operation, with what to write instead."""
    return UnsupportedError(f"{operation}; {_INSTEAD.get(operation, _ANYTHING)}")


class Instruction(NamedTuple):
    """`result = operation(*operands)`, all by name."""

    result: str
    operation: str
    operands: tuple[str, ...]


@dataclass
class Tape:
    """The record: instructions, and what else than p, g and moments they use, in order."""

    #: The paths of the coefficients that are arrays, and of the fields that these are.
    operands: Mapping[str, str]
    record: list[Instruction] = field(default_factory=list)
    #: The names of operands, and their fields; of coefficients, and their paths; and of constants.
    arrays: dict[str, str] = field(default_factory=dict)
    coefficients: dict[str, str] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)

    def apply(self, operation: str, *operands: Any) -> Symbol | Condition:
        """Record one operation; at least one operand is an array."""
        if not any(type(x) in (Symbol, Condition) for x in operands):
            raise UnsupportedError(f"{operation} of scalars; compute it in coefficients()")
        self._check_conditions(operation, operands)
        names = tuple(self.operand(x) for x in operands)
        result = f"t{len(self.record)}"
        self.record.append(Instruction(result, operation, names))
        return (Condition if operation in CONDITIONS else Symbol)(self, result)

    def _check_conditions(self, operation: str, operands: Sequence[Any]) -> None:
        """Raise unless conditions are where they belong, and only there."""
        belong = len(operands) if operation in LOGICAL else int(operation == WHERE)
        for i, x in enumerate(operands):
            condition = type(x) is Condition or (operation == WHERE and type(x) is _Scalar)
            if i < belong and not condition:
                raise UnsupportedError(f"{operation} of numbers; compare them first")
            if i >= belong and type(x) is Condition:
                raise UnsupportedError(f"{operation} of a condition; use xp.where")

    def operand(self, x: Any) -> str:
        """The name of an array, a coefficient, or a Python number, which becomes a constant."""
        if isinstance(x, _Name):
            return x.name
        if x is Varying:
            raise MistakeError(f"computes with a number whose value is not known: it {NOT_KNOWN}")
        if type(x) not in (float, int):
            raise UnsupportedError(f"an operand that is {a(type(x))}; use a Python float")
        name = f"k{len(self.constants)}"
        try:
            self.constants[name] = float(x)
        except OverflowError:
            raise MistakeError(f"uses the constant {shown(x)}, too large for a float") from None
        return name

    def result(self, name: str, x: Any) -> str:
        """The name of what is returned as the parameter or a moment."""
        if type(x) is Symbol:
            return x.name
        known: dict[type, str] = {_Scalar: "a coefficient", Condition: "a condition"}
        kind = known.get(type(x)) or a(type(x))
        if type(x) in known or not hasattr(x, "shape"):
            raise MistakeError(f"returns {kind} as {name}; it must be an array")
        raise UnsupportedError(f"a result that is {kind}; compute it from the operands")


def _recorded(operation: str) -> Callable[..., Any]:
    def method(self: _Name, *others: Any) -> Any:
        return self.tape.apply(operation, self, *others)

    return method


def _reflected(operation: str) -> Callable[..., Any]:
    def method(self: _Name, other: Any) -> Any:
        return self.tape.apply(operation, other, self)

    return method


def _refused(operation: str) -> Callable[..., Any]:
    def method(self: _Name, *others: Any) -> NoReturn:
        raise unsupported(operation)

    return method


class _Name:
    """A value, while a rule is traced."""

    __array_ufunc__ = None  # NumPy's own scalars and functions leave it alone, too

    def __init__(self, tape: Tape, name: str) -> None:
        self.tape = tape
        self.name = name

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # Python and NumPy ask for these on their own account
        raise unsupported(f".{name}")

    def __pow__(self, exponent: Any) -> Any:
        if type(exponent) is int and exponent == 2:  # of whose bits every library is sure
            return self.tape.apply("multiply", self, self)
        raise unsupported("**")

    __add__, __radd__ = _recorded("add"), _reflected("add")
    __sub__, __rsub__ = _recorded("subtract"), _reflected("subtract")
    __mul__, __rmul__ = _recorded("multiply"), _reflected("multiply")
    __truediv__, __rtruediv__ = _recorded("divide"), _reflected("divide")
    __neg__, __abs__ = _recorded("negative"), _recorded("abs")
    __pos__, __bool__, __float__ = _refused("unary +"), _refused("bool()"), _refused("float()")
    __rpow__ = _refused("**")
    __mod__ = __rmod__ = _refused("%")
    __floordiv__ = __rfloordiv__ = _refused("//")
    __matmul__ = __rmatmul__ = _refused("@")
    __lt__, __le__ = _recorded("less"), _recorded("less_equal")
    __gt__, __ge__ = _recorded("greater"), _recorded("greater_equal")
    __eq__, __ne__ = _recorded("equal"), _recorded("not_equal")
    __and__, __rand__ = _recorded("logical_and"), _reflected("logical_and")
    __or__, __ror__ = _recorded("logical_or"), _reflected("logical_or")
    __invert__ = _recorded("logical_not")
    __getitem__, __iter__, __len__ = _refused("[]"), _refused("iteration"), _refused("len()")
    __hash__ = None  # type: ignore[assignment]


def _written(operation: str) -> Callable[..., Any]:
    def method(self: Symbol, other: Any) -> Any:
        if self.name[0] in "pgso":  # an operand: what is computed from them is the rule's own
            raise MistakeError(
                f"writes into its operand {self.name[2:] or self.name} with {operation}=; write "
                f"x = x {operation} y, which makes a new array"
            )
        return NotImplemented  # Python then takes the plain operation

    return method


class Symbol(_Name):
    """An array."""

    __iadd__, __isub__, __imul__, __itruediv__, __ipow__ = map(_written, ("+", "-", "*", "/", "**"))


class Condition(_Name):
    """An array of truth values: the result of a comparison."""


class _Scalar(_Name):
    """A coefficient."""


class Scalars:
    """Coefficients by name: scalars, and operands, which are arrays."""

    def __init__(self, tape: Tape, prefix: str = "") -> None:
        self._tape, self._prefix = tape, prefix

    @property
    def rule(self) -> Scalars:
        """The coefficients of the rule that a wrapper holds."""
        return Scalars(self._tape, f"{self._prefix}rule.")

    def __getattr__(self, name: str) -> _Name:
        tape, path = self._tape, f"{self._prefix}{plain(name)}"
        full = path.replace(".", "_")
        if path in tape.operands:
            tape.arrays[f"o_{full}"] = tape.operands[path]
            return Symbol(tape, f"o_{full}")
        while tape.coefficients.setdefault(f"c_{full}", path) != path:  # rule_a and rule.a
            full += "_"
        return _Scalar(tape, f"c_{full}")


class Namespace:
    """The part of the array API that a program can express."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _FUNCTIONS:
            raise unsupported(f"xp.{name}")

        def function(*operands: Any) -> Any:
            if len(operands) != _FUNCTIONS[name]:
                raise UnsupportedError(f"xp.{name} of {len(operands)} operands")
            return self._tape.apply(name, *operands)

        return function


def plain(name: str) -> str:
    """A name that every language takes."""
    if not (name.isascii() and name.isidentifier()):
        raise UnsupportedError(f"the name {name!r}; use an ASCII identifier")
    return name
