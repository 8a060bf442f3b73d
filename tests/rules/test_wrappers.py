"""Rules that hold rules, against what each says it does, written in float64 from its definition."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adam_any import Optimizer, functional, rules
from tests.helpers import ROOT, oracle
from tests.helpers.dense import compare, run
from tests.helpers.family import FAMILY
from tests.helpers.libraries import Lib, named, ready, tolerance

LR, STEPS = 0.1, 12
SHAPES = {"a": (5,), "b": (2, 3)}

Tree = dict[str, Any]


def adam(state: Any, g: Any, **options: Any) -> Any:
    return oracle.step(state, g, lr=options.pop("lr", LR), **options)


def alone(step: Callable[..., Any]) -> Callable[..., Any]:
    """The path of every leaf, by a step of one leaf: step(state, g, memory) -> state."""

    def walk(params: Tree, grads: list[Tree], arrays: Any) -> Any:
        paths, memories = {}, {}
        for name, p in params.items():
            state, memory = oracle.start(p), {key: x[name] for key, x in arrays.items()}
            path = [state.p]
            for g in grads:
                state = step(state, g[name], memory)
                path.append(state.p)
            paths[name], memories[name] = np.asarray(path, float), memory
        return paths, memories

    return walk


def bounded(state: Any, g: Any, memory: Any) -> Any:
    state = adam(state, g)
    return state._replace(p=np.clip(state.p, memory["lower"], memory["upper"]))


def held(state: Any, g: Any, memory: Any) -> Any:
    out = ((state.p <= -0.2) & (g > 0)) | ((state.p >= 0.3) & (g < 0))
    state = adam(state, np.where(out, 0.0, g))
    return state._replace(p=np.clip(state.p, -0.2, 0.3))


def penalised(state: Any, g: Any, memory: Any) -> Any:
    state = adam(state, g)
    psi = np.sqrt(state.v / (1 - 0.999**state.t)) + 1e-8
    threshold = LR * memory["weight"] / psi
    return state._replace(p=np.sign(state.p) * np.maximum(np.abs(state.p) - threshold, 0))


def clipped(state: Any, g: Any, memory: Any) -> Any:
    return adam(state, np.clip(g, -memory["value"], memory["value"]))


def clipped_to_a_number(state: Any, g: Any, memory: Any) -> Any:
    return adam(state, np.clip(g, -0.3, 0.3))


def leaf_clipped(state: Any, g: Any, memory: Any) -> Any:
    return adam(state, g * min(1.0, 0.5 / np.linalg.norm(g)))


def averaged(state: Any, g: Any, memory: Any) -> Any:
    state = adam(state, g)
    old = memory.get("average", state.p)
    memory["average"] = old + (1 - 0.9) * (state.p - old)
    return state


def masked(state: Any, g: Any, memory: Any) -> Any:
    """An Adam of its own for each element."""
    if "each" not in memory:
        memory["each"] = [oracle.start(x) for x in state.p.reshape(-1)]
    each = memory["each"]
    for i, x in enumerate(np.asarray(g).reshape(-1)):
        if x != 0:
            each[i] = adam(each[i], x)
    return state._replace(p=np.array([x.p for x in each]).reshape(state.p.shape))


def scaled(state: Any, g: Any, memory: Any) -> Any:
    return adam(state, g, lr=LR * memory["by"], weight_decay=0.1, decoupled=True)


def cautious(state: Any, g: Any, memory: Any) -> Any:
    new = adam(state, g)
    return new._replace(p=np.where((state.p - new.p) * g > 0, new.p, state.p))


def lookahead(state: Any, g: Any, memory: Any) -> Any:
    slow = memory.setdefault("slow", state.p)
    state = adam(state, g)
    if state.t % 3 == 0:
        memory["slow"] = slow + 0.4 * (state.p - slow)
        state = state._replace(p=memory["slow"])
    return state


def accumulated(state: Any, g: Any, memory: Any) -> Any:
    memory.setdefault("all", []).append(g)
    if len(memory["all"]) % 3:
        return state
    return adam(state, sum(memory["all"][-3:]))


def norm_clipped(params: Tree, grads: list[Tree], arrays: Any) -> Any:
    limited = []
    for g in grads:
        norm = np.sqrt(sum(np.sum(np.square(x)) for x in g.values()))
        limited.append({name: x * min(1.0, 0.7 / norm) for name, x in g.items()})
    return alone(lambda state, g, memory: adam(state, g))(params, limited, arrays)


class Case(NamedTuple):
    """A wrapper around Adam, its array fields, and what it does."""

    make: Callable[..., Any]
    walk: Callable[..., Any]
    arrays: Mapping[str, Callable[[Any], Any]] = MappingProxyType({})
    moment: str | None = None
    #: How much more it may differ than Adam itself, for what the wrapper does besides.
    slack: float = 1.0


def inner(**options: Any) -> Any:
    return rules.Adam(LR, **options)


def random(low: float, high: float) -> Callable[[Any], Any]:
    return lambda rng: {name: rng.uniform(low, high, shape) for name, shape in SHAPES.items()}


CASES = {
    "Clipped, a number": Case(
        lambda: rules.Clipped(inner(), value=0.3), alone(clipped_to_a_number)
    ),
    "Bounded": Case(
        lambda lower, upper: rules.Bounded(inner(), lower, upper),
        alone(bounded),
        {"lower": random(-0.5, -0.1), "upper": random(0.0, 0.4)},
    ),
    "Bounded, hold": Case(lambda: rules.Bounded(inner(), -0.2, 0.3, hold=True), alone(held)),
    "L1": Case(
        lambda weight: rules.L1(inner(), weight),
        alone(penalised),
        {"weight": random(0.0, 2.0)},
        slack=4,
    ),
    "Clipped, value": Case(
        lambda value: rules.Clipped(inner(), value=value),
        alone(clipped),
        {"value": random(0.1, 0.5)},
    ),
    "Clipped, leaf_norm": Case(
        lambda: rules.Clipped(inner(), leaf_norm=0.5), alone(leaf_clipped), slack=4
    ),
    "Clipped, norm": Case(lambda: rules.Clipped(inner(), norm=0.7), norm_clipped, slack=4),
    "Averaged": Case(
        lambda: rules.Averaged(inner(), 0.9), alone(averaged), moment="average", slack=2
    ),
    "Masked": Case(lambda: rules.Masked(inner()), alone(masked), slack=4),
    "Scaled": Case(
        lambda by: rules.Scaled(inner(weight_decay=0.1, decoupled=True), by),
        alone(scaled),
        {"by": random(0.0, 2.0)},
        slack=2,
    ),
    "Cautious": Case(lambda: rules.Cautious(inner()), alone(cautious)),
    "Lookahead": Case(
        lambda: rules.Lookahead(inner(), 3, 0.4), alone(lookahead), moment="slow", slack=2
    ),
    "Accumulated": Case(lambda: rules.Accumulated(inner(), 3), alone(accumulated), slack=2),
}


def problem(name: str) -> tuple[Tree, list[Tree], dict[str, Tree]]:
    """Parameters, gradients with zeros among them, and the arrays of a case."""
    rng = np.random.default_rng(list(CASES).index(name))

    def numbers(zeros: float) -> Tree:
        return {
            key: (rng.random(shape) >= zeros) * rng.standard_normal(shape)
            for key, shape in SHAPES.items()
        }

    arrays = {key: make(rng) for key, make in CASES[name].arrays.items()}
    return numbers(0.0), [numbers(0.3) for _ in range(STEPS)], arrays


@pytest.mark.promise("Each wrapper does what its definition says, on every library and engine.")
@pytest.mark.parametrize("name", CASES)
def test_a_wrapper_does_what_it_says(lib: Lib, name: str) -> None:
    case, (params, grads, arrays) = CASES[name], problem(name)
    dtype = "float64" if name != "Masked" else "float32"
    if lib.slow:
        grads = grads[:4]

    def there(tree: Tree) -> Tree:
        return {key: lib.array(x, dtype) for key, x in tree.items()}

    rule = case.make(**{key: there(tree) for key, tree in arrays.items()})
    exact = [
        {key: np.asarray(x, dtype).astype(float) for key, x in tree.items()}
        for tree in (params, *grads, *arrays.values())
    ]
    first, steps = exact[0], exact[1 : 1 + len(grads)]
    paths, memories = case.walk(
        first, steps, dict(zip(arrays, exact[1 + len(grads) :], strict=True))
    )
    opt = Optimizer(there(params), rule, engine=lib.engine)
    for g in grads:
        opt.step(there(g))
    for key, path in paths.items():
        allowed = case.slack * tolerance(dtype, path, LR)
        assert np.all(np.abs(lib.numpy(opt.params[key]) - path[-1]) <= allowed), key
        if case.moment is not None:
            moment = lib.numpy(opt.moment(case.moment)[key])
            assert np.all(np.abs(moment - memories[key][case.moment]) <= allowed), key


@pytest.mark.parametrize("name", CASES)
def test_the_functional_face_takes_a_wrapper(name: str) -> None:
    case, (params, grads, arrays) = CASES[name], problem(name)
    rule = case.make(**arrays)
    opt = Optimizer({key: x.copy() for key, x in params.items()}, rule, engine="eager")
    state = functional.init(params, rule)
    for g in grads:
        opt.step(g)
        params, state = functional.step(params, g, state, rule)
    for key, p in params.items():
        assert p.tobytes() == opt.params[key].tobytes()


@pytest.mark.parametrize("name", CASES)
def test_a_wrapper_is_traced_under_jit_and_scan(jax: Any, name: str) -> None:
    case, (params, grads, arrays) = CASES[name], problem(name)
    with jax.enable_x64(True):
        rule = case.make(**jax.tree.map(jax.numpy.asarray, arrays))

        def body(carry: Any, g: Any) -> Any:
            return functional.step(carry[0], g, carry[1], rule), None

        stacked = jax.tree.map(lambda *x: jax.numpy.stack(x), *grads)
        first = jax.tree.map(jax.numpy.asarray, params)
        (new, _), _ = jax.lax.scan(body, (first, functional.init(first, rule)), stacked)
    paths, _ = case.walk(params, grads, arrays)
    for key, path in paths.items():
        allowed = 4 * case.slack * tolerance("float64", path, LR)
        assert np.all(np.abs(np.asarray(new[key]) - path[-1]) <= allowed), key


# Composition --------------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[Any], Any]] = {
    "Bounded": lambda rule: rules.Bounded(rule, -1.0, 0.5),
    "hold": lambda rule: rules.Bounded(rule, None, 0.5, hold=True),
    "value": lambda rule: rules.Clipped(rule, value=0.3),
    "norm": lambda rule: rules.Clipped(rule, norm=2.0),
    "Averaged": lambda rule: rules.Averaged(rule, 0.99),
    "Masked": rules.Masked,
    "Scaled": lambda rule: rules.Scaled(rule, 0.5),
    "Cautious": rules.Cautious,
    "Lookahead": lambda rule: rules.Lookahead(rule, 2),
    "Accumulated": lambda rule: rules.Accumulated(rule, 2),
}


@pytest.mark.promise("Wrappers in any order have the same bits on every engine of dense memory.")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=6)
@given(
    layers=st.permutations(sorted(LAYERS)).flatmap(
        lambda names: st.integers(0, 4).map(lambda n: names[:n])
    ),
    amsgrad=st.booleans(),
    dtype=st.sampled_from(["float16", "float32", "float64", "complex64"]),
)
def test_wrappers_in_any_order_have_the_bits_of_the_reference(
    kernel: Lib, layers: list[str], amsgrad: bool, dtype: str
) -> None:
    rule: Any = rules.Adam(0.1, weight_decay=0.1, amsgrad=amsgrad)
    for name in layers:
        rule = LAYERS[name](rule)
    shapes = [(17_001,), (33,)] if "norm" in layers else [(1001,), (33,)]

    def make(params: Any, **engine: Any) -> Any:
        return Optimizer(params, rule, **engine)

    compare(kernel, *run(kernel, shapes, dtype, make))


def test_the_wrapper_on_the_page_has_the_bits_of_the_reference(kernel: Lib) -> None:
    page = (ROOT / "docs" / "RULES.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1]
    scope: dict[str, Any] = {"__name__": __name__}
    exec(code, scope)
    rule = rules.Clipped(scope["Smoothed"](rules.Adam(0.1)), value=1.0)
    compare(
        kernel, *run(kernel, [(1001,), (33,)], "float32", lambda p, **e: Optimizer(p, rule, **e))
    )


def test_on_jax_a_norm_is_computed_in_the_call_that_steps(
    jax: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adam_any.engines import xla

    added: list[int] = []
    add = xla.Plan.add
    monkeypatch.setattr(xla.Plan, "add", lambda *args: added.append(1) or add(*args))
    grads = {"a": np.full(5, 3.0, "f4"), "b": np.full((3, 3), -2.0, "f4")}
    params = {key: np.ones_like(g) for key, g in grads.items()}
    rule = rules.Clipped(rules.Adam(0.1, eps=1.0), norm=1.0, leaf_norm=0.8)
    there = Optimizer(jax.tree.map(jax.numpy.asarray, params), rule)
    here = Optimizer(params, rule)
    for mine in (grads, grads, {**grads, "b": None}, grads):
        there.step(jax.tree.map(jax.numpy.asarray, mine))
        here.step(mine)
        for key, p in params.items():
            assert np.asarray(there.params[key]) == pytest.approx(p, rel=1e-6)
    assert len(added) == 2  # where counts differ, a leaf's own norm and that of both are host's


@pytest.mark.promise("Counts of each element's own steps cost no precision: 2e-6 after 500 steps.")
def test_each_element_is_corrected_for_its_own_steps_in_float32() -> None:
    """2,000 elements, of which 15 % are lit at a time, against float64 with a count for each."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(2000).astype("f4")
    exact, m, v, t = p.astype(float), np.zeros(2000), np.zeros(2000), np.zeros(2000)
    opt = Optimizer(p, rules.Masked(rules.Adam(LR)))
    for _ in range(500):
        lit = rng.random(2000) < 0.15
        g = np.where(lit, rng.standard_normal(2000), 0.0).astype("f4")
        opt.step(g)
        t += lit
        m = np.where(lit, 0.9 * m + 0.1 * g.astype(float), m)
        v = np.where(lit, 0.999 * v + 0.001 * g.astype(float) ** 2, v)
        n = np.maximum(t, 1)
        step = LR * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
        exact = np.where(lit, exact - step, exact)
    assert t.min() > 20
    assert np.max(np.abs(p - exact)) <= 2e-6 * np.max(np.abs(exact))


@pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.name)
def test_every_rule_may_be_held(row: Any) -> None:
    """In tiles, which need no compiler, against the reference."""

    def made() -> Any:
        rule: Any = row.made({})
        rule = rules.Clipped(
            rules.Scaled(rule, [np.linspace(0.5, 2, 33), 0.5]), value=2.0, norm=3.0
        )
        return rules.Averaged(rules.Bounded(rule, -1.5, 1.5, hold=True), 0.9)

    kernel = named("numpy-tiles")

    def make(params: Any, **engine: Any) -> Any:
        return Optimizer(params, made(), **engine)

    with ready(kernel):
        compare(kernel, *run(kernel, [(33,), (7,)], "float64", make))
