"""Schedules: their definitions, optax's, under a trace, in every number of Adam, and as data."""

from __future__ import annotations

import importlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_any import Adam, functional, rules, schedules
from adam_any.schedules import (
    constant,
    cosine,
    exponential,
    from_plain,
    linear,
    one_cycle,
    piecewise,
    restarts,
    to_plain,
    warmup,
)
from tests.helpers import oracle
from tests.helpers.libraries import EPS, Lib, tolerance

COUNTS = range(140)
ALL = {
    "constant": constant(0.3),
    "linear": linear(0.1, 0.3, 97),
    "cosine": cosine(0.3, 0.01, 97),
    "exponential": exponential(0.3, 0.97, 7),
    "staircase": exponential(0.3, 0.97, 7, staircase=True),
    "piecewise": piecewise((0.3, 0.03, cosine(0.03, 0, 20)), (40, 90)),
    "warmup": warmup(cosine(0.3, 0.003, 80), 20),
    "warmup to a number": warmup(0.3, 20, start=0.1),
    "one_cycle": one_cycle(0.3, 97),
    "restarts": restarts(0.3, 0.01, 10, growth=2),
    "equal restarts": restarts(0.3, 0.01, 33),
}


def peers(optax: Any) -> dict[str, Any]:
    """What optax has for each."""
    cycles = [
        {"init_value": 0.3, "peak_value": 0.3, "warmup_steps": 0, "decay_steps": n} for n in STEPS
    ]
    equal = [{**cycle, "decay_steps": 33, "end_value": 0.01} for cycle in cycles]
    return {
        "constant": optax.constant_schedule(0.3),
        "linear": optax.linear_schedule(0.1, 0.3, 97),
        "cosine": optax.cosine_decay_schedule(0.3, 97, 0.01 / 0.3),
        "exponential": optax.exponential_decay(0.3, 7, 0.97),
        "staircase": optax.exponential_decay(0.3, 7, 0.97, staircase=True),
        "piecewise": optax.join_schedules(
            [
                optax.piecewise_constant_schedule(0.3, {40: 0.1}),
                optax.cosine_decay_schedule(0.03, 20),
            ],
            [90],
        ),
        "warmup": optax.warmup_cosine_decay_schedule(0, 0.3, 20, 100, 0.003),
        "warmup to a number": optax.warmup_constant_schedule(0.1, 0.3, 20),
        "one_cycle": optax.cosine_onecycle_schedule(97, 0.3),
        "restarts": optax.sgdr_schedule([{**cycle, "end_value": 0.01} for cycle in cycles]),
        "equal restarts": optax.sgdr_schedule(equal),
    }


STEPS = (10, 20, 40, 80, 160)
ULP = 2 * np.spacing(0.3)  # of the largest value here: one of ours, and one of optax's


@pytest.mark.parametrize("name", ALL)
def test_they_are_those_of_optax(jax: Any, name: str) -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed: pip install optax")
    with jax.enable_x64(True):
        theirs = peers(optax)[name]
        for count in COUNTS:
            mine = ALL[name](count)
            assert type(mine) is float
            assert abs(mine - float(theirs(count))) <= ULP, count


@pytest.mark.parametrize("name", ALL)
def test_a_trace_gets_the_numbers_of_the_host(jax: Any, name: str) -> None:
    schedule, counts = ALL[name], np.arange(140, dtype="int32")
    want = np.array([schedule(int(count)) for count in counts])
    with jax.enable_x64(True):
        assert abs(np.asarray(jax.jit(jax.vmap(schedule))(counts)) - want).max() <= 2 * ULP
    narrow = jax.jit(schedule)
    for count in (0, 20, 41, 97, 139):
        assert np.shape(narrow(count)) == ()
        assert abs(narrow(count) - want[count]) <= 16 * EPS["float32"] * 0.3
    if name != "constant":
        assert abs(schedule(counts) - want).max() <= 2 * ULP


def test_the_first_and_the_last_value_are_exact() -> None:
    for kind in (linear, cosine):
        assert [kind(0.1, 0.3, 10)(n) for n in (0, 10, 11, 10**12)] == [0.1, 0.3, 0.3, 0.3]
    ends = one_cycle(0.5, 10, rise=0.5, divisors=(5, 10))
    assert [ends(n) for n in (0, 5, 10)] == [0.1, 0.5, 0.01]
    assert one_cycle(0.5, 10, rise=0.0)(0) == 0.5
    assert restarts(0.3, 0.1, 4, 3)(4) == restarts(0.3, 0.1, 4, 3)(16) == 0.3


def test_restarts_are_the_equation_of_the_paper() -> None:
    now, cycle = 0, 6
    for count in range(500):
        if now == cycle:
            now, cycle = 0, 2 * cycle
        want = 0.01 + 0.5 * (0.3 - 0.01) * (1 + math.cos(now / cycle * math.pi))
        assert restarts(0.3, 0.01, 6, 2)(count) == pytest.approx(want, abs=ULP)
        now += 1


def test_an_exponential_of_many_steps_keeps_its_digits_in_float32(jax: Any) -> None:
    schedule = exponential(1.0, 0.999)
    traced = float(jax.jit(schedule)(10_000))
    assert traced == pytest.approx(schedule(10_000), rel=20 * EPS["float32"])


def test_others_schedules_are_taken_in_and_asked_when_their_time_has_come() -> None:
    asked: list[int] = []
    own = piecewise((0.1, lambda count: asked.append(count) or 0.2), [5])
    assert [own(n) for n in (0, 4, 5, 7)] == [0.1, 0.1, 0.2, 0.2] and asked == [0, 2]
    assert to_plain(own) is None is to_plain(warmup(own, 3)) is to_plain(len) is to_plain(0.1)


NUMBERS = {
    "lr": warmup(cosine(0.05, 0.01, 4), 2, start=0.02),
    "betas": (linear(0.9, 0.8, 5), piecewise((0.99, 0.999), (3,))),
    "eps": exponential(1e-3, 0.5),
    "weight_decay": one_cycle(0.1, 6),
}


@pytest.mark.uses("operators")
def test_every_number_of_adam_may_be_scheduled(lib: Lib) -> None:
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(3, 2)), rng.normal(size=(5, 3, 2))
    for dtype in set(lib.dtypes) & {"float32", "float64"}:
        held = [lib.numpy(lib.array(x, dtype)) for x in (start, *grads)]
        state, path = oracle.start(held[0]), [held[0]]
        opt = Adam(lib.array(start, dtype), **NUMBERS, engine=lib.engine)
        for t, g in enumerate(grads):
            now = {
                name: tuple(x(t) for x in value) if isinstance(value, tuple) else value(t)
                for name, value in NUMBERS.items()
            }
            state = oracle.step(state, held[t + 1], **now)
            path.append(np.asarray(state.p, float))
            new = opt.step(lib.array(g, dtype))
        assert (abs(lib.numpy(new) - path[-1]) <= tolerance(dtype, path, 0.05)).all()


def test_every_number_of_adam_may_be_scheduled_in_a_scan(jax: Any) -> None:
    rule, grads = rules.Adam(**NUMBERS), np.random.default_rng(0).normal(size=(6, 3))
    with jax.enable_x64(True):
        start = jax.numpy.ones(3)

        def body(carry: Any, g: Any) -> Any:
            return functional.step(carry[0], g, carry[1], rule), None

        (p, _), _ = jax.lax.scan(body, (start, functional.init(start, rule)), grads)
    opt = Adam(np.ones(3), **NUMBERS)
    for g in grads:
        opt.step(g)
    assert np.asarray(p) == pytest.approx(opt.params, rel=1e-13)


WRONG: list[tuple[Any, str]] = [
    (lambda: linear(math.nan, 0, 3), "linear: start is nan; it must be a finite number"),
    (lambda: linear(1, 0, -3), r"linear: steps is -3; it must be an int, 1 or more"),
    (lambda: cosine(1, 0, 2.5), "cosine: steps is 2.5"),
    (lambda: cosine(1, 0, True), "cosine: steps is True"),
    (lambda: cosine(1, "0", 2), "cosine: end is '0'"),
    (lambda: constant(10**400), "constant: value is 1000"),
    (lambda: exponential(1, 0), "exponential: rate is 0; it must be a finite number above 0"),
    (lambda: exponential(1, 0.5, 3, 1), "exponential: staircase is 1; it must be True or False"),
    (lambda: piecewise((1, 2), (3, 4)), "piecewise: values is .*; it must be 3, one more"),
    (lambda: piecewise((1, 2, 3), (3, 3)), "piecewise: boundaries is .* in rising order"),
    (lambda: piecewise((1, "2"), (3,)), "piecewise: values is"),
    (lambda: piecewise(1, (3,)), "piecewise: values is 1; it must be a tuple"),
    (lambda: warmup(linear, 3), "warmup: before is .*; it must be a finite number or a schedule"),
    (lambda: one_cycle(1, 9, 1.0), r"one_cycle: rise is 1.0; it must be a number in \[0, 1\)"),
    (lambda: one_cycle(1, 9, 0.5, (1,)), "one_cycle: divisors is .* two finite numbers above 0"),
    (lambda: restarts(1, 0, 5, 0), "restarts: growth is 0"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:24] for _, message in WRONG])
def test_nonsense_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_grows_too_large_is_refused_by_the_optimizer() -> None:
    opt = Adam(np.ones(2), lr=exponential(1.0, 1e200))
    opt.step(np.ones(2))
    with pytest.raises(ValueError, match=r"lr\(2\) is inf"):
        opt.step(np.ones(2)), opt.step(np.ones(2))


# As data -----------------------------------------------------------------------------------------

number = st.floats(-1e9, 1e9)
steps = st.integers(1, 2**31 - 1)
above = st.floats(1e-9, 1e9)


def nests(inner: Any) -> Any:
    parts = st.lists(st.one_of(number, inner), min_size=1, max_size=4)

    def pieces(values: Any) -> Any:
        count = len(values) - 1
        ends = st.lists(steps, min_size=count, max_size=count, unique=True).map(sorted)
        return st.builds(piecewise, st.just(values), ends)

    return st.one_of(
        parts.flatmap(pieces), st.builds(warmup, st.one_of(number, inner), steps, number)
    )


leaf = st.one_of(
    st.builds(constant, number),
    st.builds(linear, number, number, steps),
    st.builds(cosine, number, number, steps),
    st.builds(exponential, number, above, steps, st.booleans()),
    st.builds(one_cycle, number, steps, st.floats(0, 0.99), st.tuples(above, above)),
    st.builds(restarts, number, number, steps, steps),
)


@given(st.recursive(leaf, nests, max_leaves=6))
def test_a_schedule_survives_json(schedule: Any) -> None:
    back = from_plain(json.loads(json.dumps(to_plain(schedule), allow_nan=False)))
    assert back == schedule and hash(back) == hash(schedule)
    assert repr(back) == repr(schedule) and eval(repr(back), vars(schedules)) == schedule


GOOD = {"schedule": "linear", "start": 1.0, "end": 0.0, "steps": 3}
DEEP: dict[str, Any] = {"schedule": "constant", "value": 1.0}
for _ in range(20_000):
    DEEP = {"schedule": "warmup", "before": DEEP, "steps": 1, "start": 0.0}
DAMAGED: dict[str, Any] = {
    "none": None,
    "a number": 0.1,
    "no kind": {"start": 1.0},
    "not a name": {**GOOD, "schedule": ["linear"]},
    "another name": {**GOOD, "schedule": "to_plain"},
    "a private name": {**GOOD, "schedule": "_Schedule"},
    "a field too many": {**GOOD, "begin": 1},
    "a field missing": {"schedule": "linear", "start": 1.0, "end": 0.0},
    "out of range": {**GOOD, "steps": 0},
    "a list for a number": {**GOOD, "start": [1.0]},
    "NaN": {**GOOD, "start": math.nan},
    "huge": {**GOOD, "start": 10**5000},
    "a schedule for a number": {**GOOD, "start": GOOD},
    "damage inside": {"schedule": "warmup", "before": {"schedule": 1}, "steps": 1, "start": 0.0},
    "deep": DEEP,
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_document_is_refused(what: str) -> None:
    assert from_plain(GOOD) == linear(1, 0, 3)
    with pytest.raises(ValueError):
        from_plain(DAMAGED[what])


def test_the_module_is_imported_when_it_is_used() -> None:
    assert importlib.import_module("adam_any").schedules is schedules
    assert set(schedules.__all__) == set(schedules.KINDS)
