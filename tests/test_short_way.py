"""A step like the one before it goes the short way, and does what the long one would."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, Optimizer, contents, rules, schedules
from adam_any import coefficients as c
from adam_any.engines.protocol import Takes
from adam_any.groups import kind_of
from adam_any.libraries import numpy_objects
from adam_any.scalars import traced
from tests.helpers.bits import snapshot
from tests.helpers.family import FAMILY
from tests.helpers.libraries import Lib

LONG = contents.ALIKE


def shortened(opt: Optimizer) -> bool:
    """Whether the last step went the short way."""
    return opt._contents._again is not None and opt._contents._change is opt._contents._again


# Scalars ------------------------------------------------------------------------------------------

CASES = [
    pytest.param(row.made(options), id=f"{row.name}-{i}")
    for row in FAMILY
    for i, options in enumerate(row.cases)
]
CASES += [
    rules.Averaged(rules.Bounded(rules.Clipped(rules.Adam(), value=1.0), 0.0, 1.0)),
    rules.Accumulated(rules.Adam(schedules.cosine(0.1, 0.0, 10)), 3),
    rules.Lookahead(rules.Masked(rules.Adam()), 4, 0.5),
    rules.Scaled(rules.SGD(lambda n: np.float32(0.1) / (1 + n)), by=2.0),
]


@pytest.mark.parametrize("rule", CASES)
def test_the_scalars_of_a_count_are_the_rule_s_own(rule: Any) -> None:
    kind = kind_of(rule)
    program = kind.traced.program
    scalars = traced(rule, "float64", Takes(program.coefficients, program.constants))
    assert scalars is not None
    for count in (*range(12), 999, 10**6):
        own = c.rounded(kind.at(count), count + 1, "float64")
        assert tuple(scalars(count, ())) == tuple(program.values(own)), count


def test_sums_of_leaves_are_added_exactly() -> None:
    scalars = traced(rules.Clipped(rules.Adam(), norm=1.0), "float64", Takes(("scale",)), 3)
    assert scalars is not None
    assert tuple(scalars(0, [1e16, 1.0, 1.0])) == (1 / math.sqrt(1e16 + 2),)


def test_a_rule_with_an_if_on_the_count_has_scalars_of_the_long_way() -> None:
    class Warm(rules.Adam):
        def coefficients(self, t: int) -> dict[str, Any]:
            return {**super().coefficients(t), "alpha": (0.1 if t < 5 else 0.2) / (1 - 0.9**t)}

    program = kind_of(Warm()).traced.program
    assert traced(Warm(), "float64", Takes(program.coefficients, program.constants)) is None
    p = np.zeros(3)
    opt = Optimizer(p, Warm())
    for _ in range(10):
        opt.step(np.ones(3))
    assert shortened(opt) and p == pytest.approx([-(4 * 0.1 + 6 * 0.2)] * 3)


# Steps --------------------------------------------------------------------------------------------

#: Shapes in containers of every kind that has a way of its own; None is a Python float.
TREES: dict[str, Any] = {
    "bare": (5,),
    "dict": {"b": (5,), "a": (2, 3)},
    "list": [(5,), (2, 3)],
    "one": {"a": (1,)},
    "nested": {"a": (3,), "b": [(2, 2), ()], "c": None},
    "many": [(k % 5 + 1,) for k in range(40)],
    "floats": {"w": None, "b": None},
}
RULES: dict[str, Any] = {
    "bare": rules.Adam(0.1),
    "dict": {"a": rules.Adam(0.1), "b": rules.Adam(0.2)},
    "list": {
        "0": rules.SGD(schedules.cosine(0.1, 0.0, 50)),
        "1": rules.Bounded(rules.Adam(), 0, 1),
    },
    "one": rules.Accumulated(rules.Adam(0.1), 3),
    "nested": {"a": rules.Lion(0.1), "b.1": None, "*": rules.Adam(0.1)},
    "many": rules.RAdam(0.1),
    "floats": rules.NAdam(0.1),
}


def filled(tree: Any, lib: Lib, seed: int, scale: float = 1.0) -> Any:
    """Random numbers in the shapes of a tree."""
    random = np.random.default_rng(seed)

    def fill(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: fill(value) for key, value in x.items()}
        if isinstance(x, list):
            return [fill(value) for value in x]
        new = scale * random.normal(size=() if x is None else x)
        return float(new) if x is None else lib.array(new, "float32")

    return fill(tree)


@pytest.mark.parametrize("name", TREES)
def test_it_has_the_bits_of_the_long_way(
    lib: Lib, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    for alike in (LONG, -1):
        monkeypatch.setattr(contents, "ALIKE", alike)
        opt = Optimizer(filled(TREES[name], lib, 0), RULES[name], engine=lib.engine)
        for seed in range(1, 12):
            now = opt.step(filled(TREES[name], lib, seed))
        quick = {"cpu", "cuda", "xla"} >= {choice.engine for choice in opt.explain()} - {"none"}
        assert shortened(opt) is (quick and alike == LONG)
        assert type(now) is type(opt.params)
        ended.append(snapshot(opt))
    assert ended[0] == ended[1]


NORMS: dict[str, tuple[Any, Any, bool]] = {  # a rule, a tree, and whether there is a short way
    "group": (rules.Clipped(rules.Adam(0.1), norm=0.7), [(5,), (2, 3), ()], True),
    "schedule": (rules.Clipped(rules.SGD(0.1), norm=schedules.linear(3, 1, 9)), (5,), True),
    "inside": (rules.Averaged(rules.Clipped(rules.Adam(0.1), norm=0.7)), [(3,), (4,)], True),
    "leaf": (rules.Clipped(rules.Adam(0.1), leaf_norm=0.7), (5,), True),
    "both": (rules.Clipped(rules.Adam(0.1), leaf_norm=1.5, norm=1.0), [(5,)], True),
    "leaves": (rules.Clipped(rules.Adam(0.1), leaf_norm=0.7), [(5,), (3,)], False),
    "value": (rules.Clipped(rules.Adam(0.1), value=0.5, norm=0.7), (5,), False),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("policy", ["propagate", "skip"])
def test_a_norm_has_the_bits_of_the_long_way(
    lib: Lib, name: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, tree, short = NORMS[name]
    ended = []
    for alike in (LONG, -1):
        monkeypatch.setattr(contents, "ALIKE", alike)
        opt = Optimizer(filled(tree, lib, 0), rule, nonfinite=policy, engine=lib.engine)
        went = []
        for seed in range(1, 14):
            scale = {9: 0.0, 10: 1e30, 11: float("inf")}.get(seed, 10.0 ** (seed % 4 - 2))
            opt.step(filled(tree, lib, seed, scale))
            went.append(shortened(opt))
        quick = {"cpu", "cuda"} >= {choice.engine for choice in opt.explain()}
        assert any(went) is went[-1] is (quick and short and alike == LONG)
        ended.append(snapshot(opt))
    assert ended[0] == ended[1]


def warm(params: Any, grads: Any, **options: Any) -> Adam:
    """An optimizer whose steps go the short way."""
    opt = Adam(params, lr=0.1, **options)
    for _ in range(LONG + 2):
        opt.step(grads)
    assert shortened(opt)
    return opt


def odd(g: Any) -> dict[str, Any]:
    """Gradients that cannot go the short way, and would do."""
    return {
        "none": None,
        "strided": np.repeat(g, 2)[::2],
        "wide": g.astype(np.float64),
        "locked": np.frombuffer(g.tobytes(), np.float32),
        "itself": ...,
    }


@pytest.mark.parametrize("many", [2, 40])
@pytest.mark.parametrize("kind", odd(np.ones(3, np.float32)))
def test_what_differs_goes_the_long_way_and_back(many: int, kind: str) -> None:
    """With the count of every step, and a leaf that was skipped behind the others."""

    def run(short: bool) -> Any:
        params = [np.zeros(3, np.float32) for _ in range(many)]
        grads = [np.full(3, 0.5 + k, np.float32) for k in range(many)]
        opt = (warm if short else _long)(params, grads)
        other = odd(grads[0])[kind]
        opt.step([params[0] if other is ... else other, *grads[1:]])
        for _ in range(LONG + 2):
            opt.step(grads)
        assert opt.steps["0"] == 2 * (LONG + 2) + (kind != "none")
        return snapshot(opt)

    assert run(short=True) == run(short=False)


def _long(params: Any, grads: Any) -> Adam:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "ALIKE", -1)
        opt = Adam(params, lr=0.1)
        for _ in range(LONG + 2):
            opt.step(grads)
    return opt


@pytest.mark.parametrize("many", [1, 40])
def test_what_is_refused_is_refused_as_ever(many: int) -> None:
    params = [np.zeros(3) for _ in range(many)]
    grads: list[Any] = [np.ones(3) for _ in range(many)]
    opt = warm(params, grads)
    before = snapshot(opt)
    for wrong, error in (
        (np.ones(4), ValueError),
        (np.ones((3, 1)), ValueError),
        (np.ones(3, int), TypeError),
        ([1.0] * 3, ValueError),
        (1.0, TypeError),
        ("abc", TypeError),
        (np.ma.ones(3), TypeError),
    ):
        with pytest.raises(error, match="'0'"):
            opt.step([wrong, *grads[1:]])
    assert snapshot(opt) == before
    params[0].resize(5, refcheck=False)
    with pytest.raises(ValueError, match="'0'"):
        opt.step(grads)


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({"a": np.zeros(2)}, {"a": np.ones(2), "b": np.ones(2)}),
        ({"a": np.zeros(2), "b": np.zeros(2)}, {"a": np.ones(2), "c": np.ones(2)}),
        ([np.zeros(2)], [np.ones(2), np.ones(2)]),
        ([np.zeros(2), np.zeros(2)], [np.ones(2)]),
    ],
)
def test_another_structure_is_refused_as_ever(params: Any, wrong: Any) -> None:
    several = isinstance(params, dict)
    same = {key: np.ones(2) for key in params} if several else [np.ones(2) for _ in params]
    opt = warm(params, same)
    before = snapshot(opt)
    with pytest.raises(ValueError, match=r"differs from|missing"):
        opt.step(wrong)
    assert snapshot(opt) == before


def test_what_is_set_holds_from_the_next_step_on() -> None:
    p, g = np.zeros(3), np.ones(3)
    opt = warm(p, g)
    state, before = opt.state_dict(), p.copy()
    opt.lr = 1.0
    for _ in range(LONG + 2):
        opt.step(g)
    assert shortened(opt) and p - before == pytest.approx([-1.0 * (LONG + 2)] * 3)
    opt.load_state_dict(state)
    assert opt.steps == {"": LONG + 2} and opt.lr == 0.1
    for _ in range(LONG + 2):
        opt.step(g)
    assert shortened(opt) and opt.steps == {"": 2 * (LONG + 2)}
    opt.reset()
    opt.step(g)
    assert opt.steps == {"": 1} and opt.moment("m") == pytest.approx(0.1)


def compiled(opt: Adam) -> None:
    """As if steps enough had been made for another kernel to pay now."""
    (plan,) = opt._contents._plans
    plan._at_once, plan.current = None, lambda: False


def written_by_others(opt: Adam) -> None:
    opt.params.flags.writeable = False
    opt.step(np.ones(3))
    opt.params = np.zeros(3)


@pytest.mark.parametrize("change", [compiled, written_by_others, Adam.reset])
def test_plans_that_are_made_anew_have_a_short_way_again(change: Callable[[Adam], Any]) -> None:
    opt = warm(np.zeros(3), np.ones(3))
    change(opt)
    plans = opt._contents._plans
    for _ in range(LONG + 2):
        opt.step(np.ones(3))
    assert opt._contents._plans is not plans and shortened(opt)


def test_a_parameter_that_has_changed_is_found() -> None:
    p = np.zeros(3)
    opt = warm(p, np.ones(3))
    p.flags.writeable = False
    before = p.copy()
    new = opt.step(np.ones(3))
    assert new is not p and np.array_equal(p, before)
    assert new == pytest.approx([-0.1 * (LONG + 3)] * 3) and opt.steps == {"": LONG + 3}


@pytest.mark.parametrize("norm", [None, 1.0])
def test_the_count_is_known_at_any_time(norm: float | None) -> None:
    seen = []

    def lr(count: int) -> float:
        seen.append((count, opt.steps[""]))
        return 0.1

    rule = rules.Adam(lr=lr)
    opt = Optimizer(np.zeros(2), rule if norm is None else rules.Clipped(rule, norm=norm))
    for _ in range(10):
        opt.step(np.ones(2))
    assert shortened(opt)
    assert seen == [(k, k) for k in range(10)]  # asked once a step, which is not counted yet


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_gradient_that_is_not_finite_is_found(lib: Lib, policy: str) -> None:
    params = [lib.array([1.0, 2.0], "float32"), lib.array([3.0], "float32")]
    grads = [lib.array([0.1, 0.2], "float32"), lib.array([0.3], "float32")]
    opt = Adam(params, lr=0.1, nonfinite=policy, engine=lib.engine)
    for _ in range(LONG + 2):
        opt.step(grads)
    assert shortened(opt) is ({x.engine for x in opt.explain()} <= {"cpu", "cuda", "xla"})
    before = snapshot(opt)
    for bad in (float("nan"), float("-inf"), 1e30):
        wrong = [grads[0], lib.array([bad], "float32")]
        if policy == "skip":
            opt.step(wrong)
        else:
            with pytest.raises(ValueError, match="'1'"):
                opt.step(wrong)
        assert snapshot(opt) == before
    assert opt.skipped == (3 if policy == "skip" else 0)
    opt.step(grads)
    assert set(opt.steps.values()) == {LONG + 3}


def at_the_ninth(value: float) -> Callable[[int], float]:
    return lambda count: value if count == 8 else 0.1


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (rules.Adam(at_the_ninth(-1.0)), "lr"),
        (rules.Bounded(rules.Adam(0.1), 0.0, at_the_ninth(-1.0)), "lower"),
    ],
)
def test_a_schedule_that_fails_changes_nothing(rule: Any, names: str) -> None:
    opt = Optimizer(np.zeros(2), rule)
    for _ in range(8):
        opt.step(np.ones(2))
    assert shortened(opt)
    before = snapshot(opt)
    for _ in range(2):
        with pytest.raises(ValueError, match=names):
            opt.step(np.ones(2))
    assert snapshot(opt) == before


def test_a_coefficient_that_the_dtype_cannot_hold_is_refused() -> None:
    p = np.zeros(2, np.float32)
    opt = Adam(p, lr=lambda count: 1e39 if count == 8 else 0.1)
    for _ in range(8):
        opt.step(np.ones(2, np.float32))
    before = snapshot(opt)
    with pytest.raises(ValueError, match="float32"):
        opt.step(np.ones(2, np.float32))
    assert snapshot(opt) == before


# Where arrays lie ---------------------------------------------------------------------------------


def test_array_objects_are_understood() -> None:
    """Else every small step is slow, and right: this is to be noticed."""
    assert numpy_objects.understood()


def test_nothing_is_read_where_array_objects_are_stored_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numpy_objects.understood.cache_clear()
    monkeypatch.setattr(numpy_objects, "ELEMENTS", 5)
    assert not numpy_objects.understood()
    p = np.zeros(3)
    opt = Adam(p, lr=0.1)
    for _ in range(LONG + 2):
        opt.step(np.ones(3))
    assert not shortened(opt) and p == pytest.approx([-0.1 * (LONG + 2)] * 3)
    numpy_objects.understood.cache_clear()
