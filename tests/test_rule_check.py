"""A rule is checked when an optimizer is made of it: what each mistake gets, in words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, Optimizer, detect, functional, rule_check, rules
from adam_any.coefficients import Coefficients
from adam_any.engines import eager
from adam_any.engines.kernels.program import Traced
from tests.helpers.bits import differ
from tests.helpers.libraries import Lib
from tests.helpers.rules import Custom, Sgd, lion


@dataclasses.dataclass(frozen=True)
class Broken:
    """A rule with two moments, of which a test gives what matters to it."""

    function: Any = lambda xp, c, p, g, m, v: (p - c.lr * g, m + g, v + g * g)
    names: Any = ("m", "v")
    scalars: Any = None
    first: Any = None
    lr: Any = 0.1

    @property
    def moments(self) -> Any:
        return self.names

    def coefficients(self, t: int) -> Any:
        return {"lr": 0.1} if self.scalars is None else self.scalars(t)

    def update(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> Any:
        return self.function(xp, c, p, g, *moments)


class Starting(Broken):
    """The same with a start."""

    def start(self, xp: Any, p: Any) -> Any:
        return self.first(xp, p)


def refused(rule: Any, message: str, p: Any = None, error: Any = ValueError) -> None:
    """Both faces refuse the rule, in the same words."""
    for make in (lambda p: Optimizer(p, rule), lambda p: functional.init(p, rule)):
        with pytest.raises(error, match=message) as raised:
            make({"w": np.ones((2, 3), "f4") if p is None else p})
        assert raised.type is error and "\n" not in str(raised.value)


def late(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same results by way of a function that no program has, so that arrays are tried."""

    def update(xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> Any:
        return function(xp, c, xp.where(xp.isnan(p), p, p), g, *moments)

    return update


WANTED = "it must return a tuple of 3: the parameter, m, v$"

RESULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "bare": (lambda xp, c, p, g, m, v: p - c.lr * g, f"returns a bare array from update; {WANTED}"),
    "one": (
        lambda xp, c, p, g, m, v: (p - c.lr * g,),
        "returns 1 result from update; it must return 3: the parameter, m, v$",
    ),
    "four": (lambda xp, c, p, g, m, v: (p, m, v, g), r"returns 4 results from update; .* return 3"),
    "a list": (lambda xp, c, p, g, m, v: [p, m, v], f"returns a list from update; {WANTED}"),
    "nothing": (lambda xp, c, p, g, m, v: None, f"returns a NoneType from update; {WANTED}"),
    "unknown": (
        lambda xp, c, p, g, m, v: (p - c.rate * g, m, v),
        r"asks for the coefficient 'rate'; coefficients returns \['lr'\]",
    ),
}


@pytest.mark.parametrize("on", [lambda f: f, late], ids=["symbols", "arrays"])
@pytest.mark.parametrize("name", RESULTS)
def test_results_of_another_number(name: str, on: Any) -> None:
    function, message = RESULTS[name]
    refused(Broken(on(function)), f"^the rule Broken {message}")


@pytest.mark.parametrize("result", [None, 0.0, 1, "m", [1.0]], ids=repr)
def test_a_result_that_is_not_an_array(result: Any) -> None:
    function = lambda xp, c, p, g, m, v: (p, m, result)  # noqa: E731
    for on in (lambda f: f, late):
        refused(Broken(on(function)), r"^the rule Broken returns an? \w+ as v")
    refused(Broken(lambda xp, c, p, g, m, v: (p, c.lr, v)), r"returns a coefficient as m; .* array")


@pytest.mark.parametrize(
    ("function", "have"),
    [
        (lambda xp, p, g: xp.sum(g), r"float32 of shape \(\) as v"),
        (lambda xp, p, g: g[..., None], r"float32 of shape \(2, 2, 1\) as v"),
        (lambda xp, p, g: xp.astype(g, xp.int64), r"int64 of shape \(2, 2\) as v"),
        (lambda xp, p, g: xp.where(g > 0, xp.astype(g, xp.float64), 0.0), "float64 of shape .*"),
        (lambda xp, p, g: xp.isnan(g), "bool of shape .* as v"),
    ],
)
def test_results_of_another_shape_or_dtype(lib: Lib, function: Any, have: str) -> None:
    if lib.device == "emulated":
        pytest.skip("operators of emulated arrays need a GPU")
    rule = Broken(lambda xp, c, p, g, m, v: (p - c.lr * g, m, function(xp, p, g)))
    message = rf"^the rule Broken returns {have} .*where its operands are float32 of shape \(2, 2\)"
    refused(rule, message, lib.array(np.ones((5, 3)), "float32"))


def test_results_of_another_library(torch_: Any) -> None:
    rule = Broken(lambda xp, c, p, g, m, v: (p, m, torch_.sqrt(v)))
    opt = Optimizer(torch_.ones(3), rule)
    opt.step(torch_.ones(3))
    assert "call the functions of xp" in str(opt.explain())
    refused(rule, "^the rule Broken raises TypeError from update, on small arrays of numpy")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ("m", "'m'"),
        (["m", "v"], r"\['m', 'v'\]"),
        (("m", "m"), r"\('m', 'm'\)"),
        (("m", "1v"), r"\('m', '1v'\)"),
        (("m", ""), r"\('m', ''\)"),
        (("m", 2), r"\('m', 2\)"),
        (("m", "step"), r"\('m', 'step'\)"),
        (None, "None"),
    ],
)
def test_names_of_moments(names: Any, shown: str) -> None:
    refused(Broken(names=names), rf"^the rule Broken has the moments {shown}; they must be a tuple")


NAMES = [
    "p",
    "g",
    "m_i",
    "m_at",
    "m_pack",
    "i_m",
    "at_m",
    "pack_m",
    "state",
    "args",
    "t0",
    "k",
    "i",
]


def test_names_do_not_meet_in_generated_code(lib: Lib) -> None:
    names = ("m", *NAMES)

    def update(xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> Any:
        new = [x + (k + 1) * g for k, x in enumerate(moments)]
        return p - c.lr * sum(new[1:], new[0]), *new

    if lib.device == "emulated":
        values = [-0.1 * sum(range(1, len(names) + 1)) * 2] * 3
        opt = Optimizer(lib.array(np.zeros(3)), Broken(update, names))
        opt.step(lib.array(np.full(3, 2.0)))
        assert lib.numpy(opt.params) == pytest.approx(np.array(values))
        return
    opt = Optimizer(lib.array(np.zeros(3)), Broken(update, names), engine=lib.engine)
    for _ in range(2):
        opt.step(lib.array(np.full(3, 2.0)))
    assert opt.explain()[0].engine == lib.runs
    state = opt.state_dict()["state"][""]
    for k, name in enumerate(names):
        assert lib.numpy(state[name]).tolist() == [4.0 * (k + 1)] * 3


@pytest.mark.parametrize("moments", [("m",), ("m", "v")])
def test_results_in_another_order(moments: Any) -> None:
    def turned(xp: Any, c: Any, p: Any, g: Any, *rest: Any) -> Any:
        new = [x + g for x in rest]
        return *new, p - c.lr * new[0]

    message = "^the rule Broken returns its results in another order: result 1 does not depend on "
    refused(Broken(turned, moments), f"{message}the parameter; return the parameter, m")


def test_orders_that_only_look_like_others_are_fine() -> None:
    """A new parameter, or moment, need not depend on the old one."""
    averaging = lambda xp, c, p, g, x0, z: (x0 - c.lr * (z + g), x0, z + g)  # noqa: E731
    last = lambda xp, c, p, g, m, old: (p - c.lr * (g - old), m + g, g)  # noqa: E731
    for function in (averaging, last):
        Optimizer(np.ones(2), Broken(function)).step(np.ones(2))
    Optimizer(np.ones(2), lion()())
    for options in ({}, {"amsgrad": True}, {"betas": (0.0, 0.0)}, {"weight_decay": 0.1}):
        Adam(np.ones(2), **options)


def test_a_dataclass_that_is_not_frozen() -> None:
    @dataclasses.dataclass
    class Loose(Broken.__mro__[1]):  # type: ignore[misc]
        moments = ("m",)

        def coefficients(self, t: int) -> Any:
            return {}

        def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> Any:
            return p, m

    refused(Loose(), r"^the rule Loose is not frozen; .*@dataclass\(frozen=True\)", error=TypeError)


@pytest.mark.parametrize("lacking", ["moments", "coefficients", "update"])
def test_a_dataclass_that_is_not_a_rule(lacking: str) -> None:
    parts = {"moments": ("m",), "coefficients": lambda self, t: {}, "update": lambda *x: x[3:]}
    del parts[lacking]
    kind = dataclasses.dataclass(frozen=True)(type("Half", (), parts))
    refused(kind(), f"^the rule Half has no {lacking}", error=TypeError)


HUGE = [10**400, Fraction(10**400), 10**5000]


@pytest.mark.parametrize(
    "value", [None, "0.1", 1j, np.ones(2), [1.0], *HUGE], ids=lambda x: str(type(x))
)
def test_a_coefficient_that_is_not_a_number(value: Any) -> None:
    message = "^the rule Broken returns .* as the coefficient 'lr'; it must be a number"
    refused(Broken(scalars=lambda t: {"lr": value}), message)
    opt = Optimizer(np.ones(2), Broken(scalars=lambda t: {"lr": 0.1 if t < 2 else value}))
    opt.step(np.ones(2))
    with pytest.raises(
        ValueError, match=r"^coefficient 'lr' is .* at update 2 of .*finite float64"
    ):
        opt.step(np.ones(2))
    assert opt.steps == {"": 1}


@pytest.mark.parametrize("value", [None, [0.1], 0.1, ("lr",), {1: 0.1}], ids=repr)
def test_coefficients_that_are_no_dict(value: Any) -> None:
    refused(
        Broken(scalars=lambda t: value), "^the rule Broken returns .* from coefficients; it must"
    )


def test_coefficients_that_raise() -> None:
    rule = Broken(scalars=lambda t: {"lr": 1 / (t - 1)})
    refused(rule, r"^the rule Broken raises ZeroDivisionError from coefficients\(1\)")


@pytest.mark.parametrize("value", HUGE, ids=["int", "fraction", "longer int"])
def test_a_constant_too_large_for_a_float(lib: Lib, value: Any) -> None:
    if lib.device == "emulated" and not isinstance(value, int):
        pytest.skip("operators of emulated arrays need a GPU")
    rule = Broken(lambda xp, c, p, g, m, v: (p - value * g, m, v))
    refused(rule, "^the rule Broken (uses the constant .*too large|raises )", lib.array([1.0]))


@pytest.mark.parametrize("value", HUGE, ids=["int", "fraction", "longer int"])
def test_numbers_too_large_for_a_float(value: Any) -> None:
    x = np.ones(2)
    for name in ("lr", "eps", "weight_decay"):
        with pytest.raises(ValueError, match=rf"^{name} is .*must be"):
            Adam(x, **{name: value})
        opt = Adam(x, **{name: lambda count: value})
        with pytest.raises(ValueError, match=rf"^{name}\(0\) is .*must be"):
            opt.step(x)
    with pytest.raises(ValueError, match=r"^betas is .*must be"):
        Adam(x, betas=(0.9, value))
    with pytest.raises(ValueError, match=r"^count is .*that a float can hold"):
        Optimizer(x, Sgd(count=value))
    for lr in (value, lambda count: value):
        with pytest.raises(ValueError, match=r"lr(\(0\))? is .*must be") as error:
            functional.step(x, x, functional.init(x), lr=lr)
        assert len(str(error.value)) < 300


def test_a_learning_rate_that_is_an_array(lib: Lib) -> None:
    """The class takes numbers and schedules; a step of the pure functions takes a 0-d array."""
    if lib.device == "emulated":
        pytest.skip("a float of an emulated array needs a GPU")
    lr, x = lib.array(0.25), np.ones(2)
    opt = Adam(x.copy())
    for use in (lambda: Adam(x, lr=lr), lambda: setattr(opt, "lr", lr), lambda: rule_of(lr)):
        with pytest.raises(ValueError, match=r"^lr is .*; pass float\(lr\)$"):
            use()
    with pytest.raises(ValueError, match=r"^betas is .*; pass float\(betas\[1\]\)$"):
        Adam(x, betas=(0.9, lr))
    want = Adam(x.copy(), lr=0.25, engine="eager").step(x)
    assert Adam(x.copy(), lr=lambda count: lr).step(x).tolist() == want.tolist()
    for given in (lr, lambda count: lr):
        new, _ = functional.step(x, x, functional.init(x), lr=given)
        assert new.tolist() == want.tolist()


def rule_of(lr: Any) -> Any:
    return functional.init(np.ones(2), rules.Adam(lr=lr))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (lambda xp, p: p, "returns a ndarray from start; it must return a tuple of 2: m, v"),
        (lambda xp, p: (p,), "returns a tuple of 1 from start; it must"),
        (lambda xp, p: (p, 0.0), "returns a float as v from start; it must be an array like"),
        (lambda xp, p: (p, p[0]), r"returns float32 of \(3,\) as v from start; .* of \(2, 3\)"),
        (lambda xp, p: (np.ones((2, 3)), p), r"returns float64 of \(2, 3\) as m from start"),
    ],
)
def test_what_start_returns(start: Any, message: str) -> None:
    refused(Starting(first=start), f"^the rule Starting {message}")


def test_start_of_another_library(torch_: Any) -> None:
    rule = Starting(first=lambda xp, p: (p, np.ones(3, "f4")))
    refused(rule, "returns float32 of .* as v from start", torch_.ones(3))
    Optimizer(torch_.ones(3), Starting(first=lambda xp, p: (p * 0, p))).step(torch_.ones(3))


@pytest.mark.parametrize("operator", ["+", "-", "*", "/", "**"])
def test_a_rule_that_writes_into_its_operands(operator: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def update(xp, c, p, g, m, v):\n    m {operator}= g\n    return p - m, m, v", scope)
    message = r"^the rule Broken writes into its operand m with .*; write x = x . y, which makes"
    refused(Broken(scope["update"]), message.replace(" . ", " .{1,2} "))
    refused(Broken(late(scope["update"])), "^the rule Broken raises ValueError .*read-only")


def test_a_rule_may_write_into_what_it_has_made() -> None:
    def update(xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
        u = m + g
        u *= c.lr
        return p - u, m, v

    opt = Optimizer(np.ones(2), Broken(update))
    assert opt.step(np.ones(2)).tolist() == [0.9] * 2
    assert opt.explain()[0].engine == "cpu"


@pytest.mark.parametrize("on", [lambda f: f, late], ids=["symbols", "arrays"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_rule_that_reads_its_learning_rate_in_update(lib: Lib, on: Any, turned: bool) -> None:
    if lib.device == "emulated":
        pytest.skip("operators of emulated arrays need a GPU")

    @dataclasses.dataclass(frozen=True)
    class Eager(Broken):
        def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
            step = lambda xp, c, p, g: (p - (g * self.lr if turned else self.lr * g), m, v)  # noqa: E731
            return on(step)(xp, c, p, g)

    message = "^the rule Eager .* has no value in update; let coefficients return it"
    if lib.name == "array_api_strict" and turned:  # which does not ask the other operand
        message = "^the rule Eager .*_NotKnown|has no value in update"
    refused(Eager(), message, lib.array([1.0]))


# What looks at several elements ------------------------------------------------------------------

NORMS: dict[str, tuple[Callable[..., Any], str]] = {
    "xp.sum": (lambda xp, g: xp.sqrt(xp.sum(g * g)), "with xp.sum"),
    "xp.max": (lambda xp, g: xp.max(xp.abs(g)), "with xp.max"),
    "method": (lambda xp, g: (g * g).sum(), ""),
    "linalg": (lambda xp, g: xp.linalg.vector_norm(g), "with xp.linalg"),
    "after where": (lambda xp, g: xp.mean(xp.where(g > 0, g, 0.0)), "with xp.mean"),
    "any": (lambda xp, g: xp.where(xp.any(xp.isnan(g)), g, g * 2), "with xp.any"),
    "numpy": (lambda xp, g: np.linalg.norm(np.asarray(g)), ""),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_reduction_is_refused_where_it_cannot_be_right(name: str) -> None:
    norm, used = NORMS[name]
    rule = Broken(
        lambda xp, c, p, g, m, v: (p - c.lr * xp.where(xp.isnan(g), g, g / norm(xp, g)), m, v)
    )
    Optimizer(np.ones(3), rule).step(np.ones(3))
    message = f"^the rule \\w+ computes an element of its results from other elements.*{used}"
    refused(rule, f"{message}.*real and imaginary parts", np.ones(3, "c8"))
    dask = pytest.importorskip("dask.array", reason="dask is not installed: pip install dask")
    refused(rule, f"{message}; on Dask .* one chunk at a time", dask.ones((4, 4), chunks=2))


def test_a_reduction_that_is_a_method_is_named_where_it_comes_first() -> None:
    for function, used in ((lambda g: g / g.sum(), r"\.sum"), (lambda g: g * (g @ g), "@")):
        rule = Custom(lambda xp, c, p, g, m, f=function: (p - f(g), m))
        refused(rule, f"^the rule Custom computes .* elements, with {used}; ", np.ones(2, "c8"))


def test_what_works_element_by_element_is_fine_everywhere(lib: Lib) -> None:
    if lib.device == "emulated":
        pytest.skip("operators of emulated arrays need a GPU")
    rule = Broken(lambda xp, c, p, g, m, v: (xp.where(xp.isnan(g), p, p - c.lr), m, v))
    for dtype in lib.dtypes:
        p = lib.array([[1.0, 2.0]], dtype)
        new = Optimizer(p, rule).step(p)
        assert np.real(lib.numpy(new)) == pytest.approx(np.array([[0.9, 1.9]]), rel=0.01)


# What it costs -----------------------------------------------------------------------------------


def test_thousands_of_leaves_cost_one_check() -> None:
    seen = []

    def update(xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
        seen.append(type(p))
        return xp.where(xp.isnan(p), p, p - c.lr * g), m, v

    Optimizer([np.ones(n % 7 + 1) for n in range(1000)], Broken(update))
    assert seen.count(np.ndarray) <= 2 and len(seen) <= 3


def test_jax_neither_computes_nor_compiles() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    seen = []

    def update(xp: Any, c: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
        seen.append(isinstance(p, jax.core.Tracer))
        return xp.where(xp.isnan(p), p, p - c.lr * g), m, v

    params = [jax.numpy.ones(n + 1) for n in range(9)]
    leaves = [(detect.backend(p), p) for p in params]
    with jax.transfer_guard("disallow"):
        rule_check.check(Traced(Broken(update)), leaves)
    assert sum(seen) == 2 and len(seen) == 3  # for shapes of one element and of more; and symbols
    wrong = Broken(late(lambda xp, c, p, g, m, v: (p, m, xp.sum(v))))
    with pytest.raises(ValueError, match=r"^the rule Broken returns float32 of shape"):
        jax.jit(lambda p: functional.init(p, wrong))(params[1])
    jax.jit(lambda p: functional.init(p, Broken(update)))(params[1])


# The square --------------------------------------------------------------------------------------


def squared(xp: Any, c: Any, p: Any, g: Any, m: Any) -> Any:
    return p - c.a * (g - m) ** 2, m + (g * 0.3) ** 2


def multiplied(xp: Any, c: Any, p: Any, g: Any, m: Any) -> Any:
    u, v = g - m, g * 0.3
    return p - c.a * (u * u), m + v * v


@pytest.mark.uses("operators")
def test_a_square_is_a_product_on_every_engine(lib: Lib) -> None:
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, 300))
    for one in (lambda x: [lib.array(x)], lambda x: [lib.array(y) for y in x[:40]]):
        a, b = (Optimizer(one(p), Custom(f), engine=lib.engine) for f in (squared, multiplied))
        assert {choice.engine for choice in a.explain()} == {lib.runs}
        for _ in range(2):
            for x, y in zip(a.step(one(g)), b.step(one(g)), strict=True):
                assert lib.numpy(x).tolist() == lib.numpy(y).tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_reference_squares_a_single_number_as_it_does_an_array(dtype: str) -> None:
    """NumPy's own scalars have another `**`, which rounds one in 1,000 squares otherwise."""
    rng = np.random.default_rng(0)
    p, g, m = rng.standard_normal((3, 5000)).astype(dtype)
    c = Coefficients(a=0.1)
    for x, y, z in zip(p, g, m, strict=True):
        old = np.asarray(x), np.asarray(y), [np.asarray(z)]
        found = [eager.update(Custom(f), c, dtype, *old) for f in (squared, multiplied)]
        assert found[0] == found[1]
        assert found[0][0].shape == found[0][1][0].shape == ()


@pytest.mark.parametrize("power", [3, 4, 2.0, -1, 0, 0.5])
def test_other_powers_are_left_to_the_reference(power: Any) -> None:
    opt = Optimizer(np.ones(3), Custom(lambda xp, c, p, g, m: (p - g**power, m)))
    (choice,) = opt.explain()
    assert (choice.engine, choice.reason) == ("eager", "the rule uses **; write x * x * x")


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (lambda xp, p, g: xp.clip(p, 0, 1), r"write xp.minimum\(xp.maximum\(x, low\), high\)"),
        (lambda xp, p, g: xp.square(g), r"write x \* x"),
        (lambda xp, p, g: xp.exp(g), r"use \+ - \* /, abs, comparisons, and xp.sqrt"),
        (lambda xp, p, g: +p, "leave it out"),
        (lambda xp, p, g: np.float64(2) * p, "use a Python float"),
        (lambda xp, p, g: np.sqrt(p * p), "call the functions of xp"),
    ],
)
def test_a_rule_that_falls_to_the_reference_is_told_what_to_write(
    function: Any, advice: str
) -> None:
    opt = Optimizer(np.ones(3), Custom(lambda xp, c, p, g, m: (function(xp, p, g), m)))
    assert opt.explain()[0].engine == "eager"
    assert re.search(advice, opt.explain()[0].reason)


def test_a_leaf_that_falls_to_the_reference_is_told_what_to_pass() -> None:
    (choice,) = Adam(np.broadcast_to(np.ones(1), 3)).explain()
    assert choice.engine == "eager" and choice.reason.endswith("pass a copy that can be written")


def test_bits_of_a_rule_with_squares_are_those_of_the_reference() -> None:
    p = np.random.default_rng(0).standard_normal(1000)
    fast, slow = (Optimizer(p.copy(), Custom(squared), engine=engine) for engine in (None, "eager"))
    assert differ(fast.step(p), slow.step(p)) == 0
