"""The operations of a program in a compiled language, stated once for all languages.

- An expression is a text in which `{0}`, `{1}` and `{2}` stand for the operands. Python and C share
  it: operators, `abs` and `sqrt` mean the same in both, and `real` is the type of the computation.
- A choice is `(condition, then, otherwise)`, which the two languages write in different order.
- Each is the NumPy ufunc of its name, to the bit: NaNs propagate, and zeros have NumPy's sign.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: A text, or (condition, then, otherwise), of which the last may be another choice.
Expression = str | tuple[str, str, "Expression"]

_EXPRESSIONS: dict[str, Expression] = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "negative": "-{0}",
    "abs": "abs({0})",
    "sqrt": "sqrt({0})",
    "sign": ("{0} > 0", "real(1)", ("{0} < 0", "real(-1)", "{0} + real(0)")),
    "maximum": ("({0} > {1}) | ({0} != {0})", "{0}", "{1}"),
    "minimum": ("({0} < {1}) | ({0} != {0})", "{0}", "{1}"),
    # Conditions, and the choice between two numbers; a bool among the coefficients is one, too.
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "logical_and": "{0} & {1}",
    "logical_or": "{0} | {1}",
    "logical_not": "{0} == 0",
    "where": ("{0} != 0", "{1}", "{2}"),
}

#: Where maximum and minimum take the first of two zeros, or the greater and the lesser.
_FIRST: dict[str, Expression] = {
    "maximum": ("({0} >= {1}) | ({0} != {0})", "{0}", "{1}"),
    "minimum": ("({0} <= {1}) | ({0} != {0})", "{0}", "{1}"),
}
_ORDERED: dict[str, Expression] = {
    "maximum": ("({0} == 0) & ({1} == 0)", "{0} + {1}", _FIRST["maximum"]),
    "minimum": ("({0} == 0) & ({1} == 0)", "-(-{0} - {1})", _FIRST["minimum"]),
}

#: The three ways in which a NumPy may choose between +0 and -0.
TIES: tuple[dict[str, Expression], ...] = ({}, _FIRST, _ORDERED)


def expressions(write: Callable[[Expression], str]) -> dict[str, str]:
    """The text of each operation, as `python` or `c` writes it."""
    return {name: write(x) for name, x in (_EXPRESSIONS | ties()).items()}


def python(x: Expression) -> str:
    """An expression in Python."""
    return x if isinstance(x, str) else f"{x[1]} if {x[0]} else {python(x[2])}"


def c(x: Expression) -> str:
    """An expression in C."""
    return x if isinstance(x, str) else f"{x[0]} ? {x[1]} : {c(x[2])}"


def ties() -> dict[str, Expression]:
    """The choice of this NumPy between +0 and -0: its SIMD decides, so it is asked."""
    zeros = np.array([0.0] * 64, np.float32)
    if np.signbit(np.maximum(zeros, -zeros)[0]):
        return TIES[0]
    return TIES[1] if np.signbit(np.maximum(-zeros, zeros)[0]) else TIES[2]
