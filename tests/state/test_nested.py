"""Wrappers, rules by path and schedules in a checkpoint: a run goes on with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Optimizer, rules, schedules
from tests.helpers.bits import refused, snapshot
from tests.helpers.libraries import LIBRARIES, Lib, missing, ready

SHAPES = {"a": (4,), "b": (2, 3), "c": (1,)}


def tree(lib: Lib, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {
        key: lib.array(rng.standard_normal(shape) * (rng.random(shape) < 0.8), "float64")
        for key, shape in SHAPES.items()
    }


def wrapped(lib: Lib) -> Any:
    """Every wrapper, once; Masked is innermost, so that all others are tried around it."""
    rule: Any = rules.Masked(rules.Adam(schedules.cosine(0.1, 0.01, 9), weight_decay=0.01))
    rule = rules.Cautious(rules.Scaled(rule, {"a": 0.5, "b": lib.array(np.ones((2, 3))), "c": 2.0}))
    rule = rules.Bounded(rule, -1.0, schedules.linear(2.0, 0.5, 5), hold=True)
    rule = rules.Lookahead(rules.Clipped(rule, value=2.0, norm=1.5), 3)
    return rules.Averaged(rules.Accumulated(rule, 2), schedules.warmup(0.9, 4))


def by_path(lib: Lib) -> Any:
    return {
        "a": rules.L1(rules.Adam(0.1, betas=(schedules.constant(0.8), 0.99)), 0.01),
        "b": None,
        "*": rules.Averaged(rules.Lion(schedules.piecewise((0.1, 0.01), (3,)))),
    }


def by_dict(opt: Optimizer, other: Optimizer, path: Path) -> None:
    other.params = {key: np.array(x) for key, x in opt.params.items()}
    other.load_state_dict(opt.state_dict())


def by_file(opt: Optimizer, other: Optimizer, path: Path) -> None:
    opt.save(path)
    other.load(path)


@pytest.mark.promise("A checkpoint holds rules in rules, rules by path, and their schedules.")
@pytest.mark.parametrize("hand", [by_dict, by_file], ids=lambda f: f.__name__)
@pytest.mark.parametrize("make", [wrapped, by_path], ids=lambda f: f.__name__)
def test_a_run_goes_on_with_the_bits_it_would_have_had(
    make: Any, hand: Any, tmp_path: Path
) -> None:
    lib = LIBRARIES[0]
    whole = Optimizer(tree(lib, 0), make(lib))
    first = Optimizer(tree(lib, 0), make(lib))
    for seed in range(1, 8):
        whole.step(tree(lib, seed))
        if seed == 4:
            second = Optimizer(tree(lib, 9), make(lib))
            second.lr = 7.0  # the file's schedules take its place
            hand(first, second, tmp_path / "f")
            first = second
        first.step(tree(lib, seed))
    assert snapshot(first) == snapshot(whole)
    assert repr(first) == repr(whole)


@pytest.mark.promise("Such a run goes from one library to another.")
@pytest.mark.parametrize("make", [wrapped, by_path], ids=lambda f: f.__name__)
def test_a_run_goes_from_one_library_to_another(make: Any, lib: Lib, tmp_path: Path) -> None:
    if lib.slow:
        pytest.skip(f"{lib} is slow, and its engine is that of others")
    host = LIBRARIES[0]
    assert missing(host) is None
    whole = Optimizer(tree(host, 0), make(host), engine="eager")
    here = Optimizer(tree(host, 0), make(host))
    for seed in range(1, 7):
        whole.step(tree(host, seed))
        if seed == 3:
            here.save(tmp_path / "f")
            here = Optimizer(tree(lib, 9), make(lib), engine=lib.engine)
            here.load(tmp_path / "f")
        if seed == 5:
            here.save(tmp_path / "f")
            here = Optimizer(tree(host, 9), make(host))
            here.load(tmp_path / "f")
        with ready(lib):
            here.step(tree(lib if seed in (3, 4) else host, seed))
    for key, p in whole.params.items():
        assert here.params[key] == pytest.approx(p, rel=1e-12, abs=1e-13)
    assert here.steps == whole.steps


WRONG = {
    "another wrapper": (
        lambda: rules.Averaged(rules.Adam()),
        lambda: rules.Lookahead(rules.Adam()),
        "rule is 'averaged' in the state",
    ),
    "no wrapper": (
        lambda: rules.Bounded(rules.Adam(), 0.0),
        lambda: rules.Adam(),
        "keys is .*held",
    ),
    "another rule inside": (
        lambda: rules.Bounded(rules.Adam(), 0.0),
        lambda: rules.Bounded(rules.Lion(), 0.0),
        "rule is 'adam' in the state",
    ),
    "another option": (
        lambda: rules.Bounded(rules.Adam(), 0.0, hold=True),
        lambda: rules.Bounded(rules.Adam(), 0.0),
        "options is .*hold",
    ),
    "an array there": (
        lambda: rules.Bounded(rules.Adam(), np.zeros(2)),
        lambda: rules.Bounded(rules.Adam(), 0.0),
        "lower is an array in the state, and none here",
    ),
    "an array here": (
        lambda: rules.Bounded(rules.Adam(), 0.0),
        lambda: rules.Bounded(rules.Adam(), np.zeros(2)),
        "lower is none in the state, and an array here",
    ),
    "groups": (
        lambda: {"w": rules.Adam()},
        lambda: rules.Adam(),
        "keys is .*groups",
    ),
    "other groups": (
        lambda: {"w": rules.Adam()},
        lambda: {"*": rules.Adam()},
        "rules in the state: missing .*'\\*'.*not known .*'w'",
    ),
    "frozen there": (
        lambda: {"w": None},
        lambda: {"w": rules.Adam()},
        "rule 'w' is frozen here or in the state, but not in both",
    ),
}


@pytest.mark.parametrize("hand", [by_dict, by_file], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_of_other_rules_is_refused(name: str, hand: Any, tmp_path: Path) -> None:
    there, here, message = WRONG[name]
    opt = Optimizer({"w": np.ones(2)}, there())
    opt.step({"w": np.ones(2)})
    other = Optimizer({"w": np.ones(2)}, here())
    opt.save(tmp_path / "f")
    with refused(other, ValueError, message):
        if hand is by_file:
            other.load(tmp_path / "f")
        else:
            other.load_state_dict(opt.state_dict())


def test_a_schedule_that_no_file_can_hold_stays_as_constructed(tmp_path: Path) -> None:
    def mine(count: int) -> float:
        return 0.1 / (1 + count)

    opt = Optimizer(np.ones(2), rules.Bounded(rules.Adam(mine), 0.0))
    opt.step(np.ones(2))
    assert opt.state_dict()["held"]["hyperparameters"]["lr"] is None
    opt.save(tmp_path / "f")
    other = Optimizer(np.ones(2), rules.Bounded(rules.Adam(mine), -1.0))
    other.load(tmp_path / "f")
    assert other.lr is mine and other.rule.lower == 0.0
