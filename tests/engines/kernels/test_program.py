"""A rule on symbols: what its program holds, what it refuses, and a rule of the user's own."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from adam_any import Optimizer
from adam_any.engines import compiled
from adam_any.program import UnsupportedError, program
from adam_any.rules import Adam
from tests.helpers.bits import same
from tests.helpers.rules import Custom, every_operation, lion

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
    "**": lambda xp, c, p, g, m: (p - g**2, m),
    "xp.where": lambda xp, c, p, g, m: (xp.where(p > 0, p, g), m),
    ">": lambda xp, c, p, g, m: (p if p > g else g, m),
    "==": lambda xp, c, p, g, m: (p if p == g else g, m),
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
    "a result that is a float": lambda xp, c, p, g, m: (p, 0.0),
    "no tuple of 2": lambda xp, c, p, g, m: (p,),
    "ZeroDivisionError": lambda xp, c, p, g, m: (p * (1 / 0), m),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_a_program_cannot_express_is_refused_by_name(named: str) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(named)):
        program(Custom(REFUSED[named]))


def test_a_refused_rule_runs_as_it_stands() -> None:
    opt = Optimizer({"w": np.ones(3)}, Custom(REFUSED["**"]))
    (choice,) = opt.explain()
    assert (choice.engine, choice.reason) == ("eager", "the rule uses **")
    assert opt.step({"w": np.full(3, 2.0)})["w"].tolist() == [-3.0] * 3


def data(dtype: str, seed: int, size: int = 1001) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size) * 10.0 ** rng.integers(-45, 39, size)
    x[:: size // 9] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 5e-324, 1e-45, 1e300]
    with np.errstate(all="ignore"):
        return rng.permutation(x).astype(dtype)


def compare(rule: Any, dtype: str, gradient: Any = None) -> None:
    """Step a rule on the fast engine, in both its ways, and on the reference: the same bits."""
    ways = [None, "not here"] if compiled.missing() is None else [compiled.missing()]
    for missing in ways:
        with pytest.MonkeyPatch().context() as patch:
            patch.setattr(compiled, "missing", lambda missing=missing: missing)
            fast, slow = (data(dtype, 0) for _ in range(2))
            opt, ref = Optimizer(fast, rule), Optimizer(slow, rule, engine="eager")
            assert opt.explain()[0].engine == "cpu"
            for t in range(3):
                g = data(dtype, t + 1)
                opt.step(gradient(fast) if gradient else g)
                ref.step(gradient(slow) if gradient else g)
        same(fast, slow)
        for name in rule.moments:
            same(opt.state_dict()["state"][""][name], ref.state_dict()["state"][""][name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "function",
    [
        every_operation,
        lambda xp, c, p, g, m: (xp.maximum(p, g), xp.minimum(p, g)),
        lambda xp, c, p, g, m: (xp.maximum(-p, p), xp.sign(m * g)),
        lambda xp, c, p, g, m: (xp.sign(g), p),  # a moment becomes what p was
        lambda xp, c, p, g, m: (m, p),  # both change places
        lambda xp, c, p, g, m: (g, m),
        lambda xp, c, p, g, m: (p - g, p - g),
        lambda xp, c, p, g, m: (p * math.inf, -m),
        lambda xp, c, p, g, m: ((p - c.a * g), (m + g) * (p * g)),  # p is used after its new value
        lambda xp, c, p, g, m: _late(p, g, m),
    ],
)
def test_every_operation_has_the_bits_of_the_reference(function: Any, dtype: str) -> None:
    compare(Custom(function), dtype)


def _late(p: Any, g: Any, m: Any) -> tuple[Any, Any]:
    new = m + g
    return p - new * m, new  # the old moment is used after the new one is made


def test_a_gradient_that_is_its_parameter_is_read_before_it_is_written() -> None:
    rule = Custom(lambda xp, c, p, g, m: (p - c.a * g, m + g * g))
    compare(rule, "float32", gradient=lambda p: p)


@pytest.mark.promise("A rule of your own has the bits of the reference, too.")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_rule_on_the_page_runs_on_both_engines_with_the_same_bits(dtype: str) -> None:
    compare(lion()(lr=0.1, weight_decay=0.1), dtype)
