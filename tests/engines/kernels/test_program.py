"""A rule on symbols: what its program holds, what it refuses, and a rule of the user's own."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from adam_any import Optimizer
from adam_any.engines.kernels.program import UnsupportedError
from adam_any.engines.kernels.program import trace as program
from adam_any.rules import Adam
from tests.helpers.rules import Custom

PLAIN = [
    "t0 = subtract(g, s_m)",
    "t1 = multiply(c_w1, t0)",
    "t2 = add(s_m, t1)",
    "t3 = multiply(g, g)",
    "t4 = subtract(t3, s_v)",
    "t5 = multiply(c_w2, t4)",
    "t6 = add(s_v, t5)",
    "t7 = sqrt(t6)",
    "t8 = multiply(t7, c_s)",
    "t9 = add(t8, c_eps)",
    "t10 = divide(t2, t9)",
    "t11 = multiply(c_alpha, t10)",
    "t12 = subtract(p, t11)",
]


def test_adam_is_thirteen_operations_in_the_order_of_the_rule() -> None:
    made = program(Adam())
    assert [
        f"{it.result} = {it.operation}({', '.join(it.operands)})" for it in made.instructions
    ] == PLAIN
    assert made.state == ("p", "s_m", "s_v")
    assert made.outputs == ("t12", "t2", "t6")
    assert made.scalars == ("c_w1", "c_w2", "c_s", "c_eps", "c_alpha")
    assert made.constants == ()


def operations(**options: Any) -> list[str]:
    return [it.operation for it in program(Adam(**options)).instructions]


def test_an_option_is_in_the_program_or_not() -> None:
    plain = operations()
    assert operations(maximize=True) == ["negative", *plain]
    assert operations(weight_decay=0.1) == ["multiply", "add", *plain]
    assert operations(amsgrad=True) == [*plain[:7], "maximum", *plain[7:]]
    assert operations(weight_decay=0.1, decoupled=True) == [
        *plain[:-1],
        "multiply",
        "add",
        "subtract",
    ]
    # Below one half a moving average is written from its other end.
    assert program(Adam(betas=(0.1, 0.999))).instructions[0].operands == ("s_m", "g")


def test_a_learning_rate_is_not_in_the_program() -> None:
    assert program(Adam(lr=1.0)) == program(Adam(lr=lambda count: 0.1))


REFUSED = {
    "**; write x * x * x": lambda xp, c, p, g, m: (p - g**3, m),
    "bool(); choose with xp.where": lambda xp, c, p, g, m: (p if p > g else g, m),
    "multiply of a condition; use xp.where": lambda xp, c, p, g, m: (p * (g > 0), m),
    "where of numbers; compare them first": lambda xp, c, p, g, m: (xp.where(p, p, g), m),
    "logical_and of numbers": lambda xp, c, p, g, m: (xp.where(p & (g > 0), p, g), m),
    "where of a condition": lambda xp, c, p, g, m: (xp.where(p > 0, p > g, g), m),
    "less of scalars": lambda xp, c, p, g, m: (xp.where(c.a < c.b, p, g), m),
    "bool()": lambda xp, c, p, g, m: (p if p else g, m),
    "unary +": lambda xp, c, p, g, m: (+p, m),
    "[]": lambda xp, c, p, g, m: (p[0], m),
    ".sum": lambda xp, c, p, g, m: (p - g.sum(), m),
    "xp.mean": lambda xp, c, p, g, m: (p - xp.mean(g), m),
    "multiply of scalars": lambda xp, c, p, g, m: (p - c.a * c.b * g, m),
    "negative of scalars": lambda xp, c, p, g, m: (p + -c.a * g, m),
    "sqrt of scalars": lambda xp, c, p, g, m: (p - xp.sqrt(c.a), m),
    "an operand that is a float64": lambda xp, c, p, g, m: (p - np.float64(2) * g, m),
    "an operand that is a ndarray": lambda xp, c, p, g, m: (p - np.ones(3) * g, m),
    "__array_ufunc__": lambda xp, c, p, g, m: (p - np.sqrt(g), m),
    "xp.maximum of 1 operands": lambda xp, c, p, g, m: (xp.maximum(p), m),
    "a result that is a ndarray": lambda xp, c, p, g, m: (p, np.zeros(3)),
    "ZeroDivisionError": lambda xp, c, p, g, m: (p * (1 / 0), m),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_a_program_cannot_express_is_refused_by_name(named: str) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(named)):
        program(Custom(REFUSED[named]))


def test_a_refused_rule_runs_as_it_stands() -> None:
    opt = Optimizer({"w": np.ones(3)}, Custom(lambda xp, c, p, g, m: (p - g**3, m)))
    (choice,) = opt.explain()
    assert (choice.engine, choice.reason) == ("eager", "the rule uses **; write x * x * x")
    assert opt.step({"w": np.full(3, 2.0)})["w"].tolist() == [-7.0] * 3
