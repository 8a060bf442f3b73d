"""Leaves with gaps have the bits of the reference, and nothing between them is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adam_any import Optimizer, rules
from adam_any.engines.cpu import strided
from tests.helpers.bits import same, snapshot
from tests.helpers.dense import dtype_of, dtypes, numbers, widened
from tests.helpers.libraries import Lib, named, params

ON_CPU = (
    named("numpy"),
    named("numpy-tiles"),
    named("torch"),
    dataclasses.replace(named("torch"), tiles=True),
)
#: Views of an array of 6 by 10 by 4.
VIEWS: dict[str, Callable[[Any], Any]] = {
    "every other": lambda x: x[:, ::2],
    "inner": lambda x: x[1:4, 2:9, 1:3],
    "column": lambda x: x[2, :, 3],
    "transposed": lambda x: x.swapaxes(0, 2)[:, ::3],
    "backwards": lambda x: x[::-1, :, ::-2],
}


@pytest.mark.parametrize("kernel", params(ON_CPU), indirect=True)
@pytest.mark.parametrize("view", VIEWS)
def test_the_bits_are_those_of_the_reference(
    kernel: Lib, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if view == "backwards" and kernel.name == "torch":
        pytest.skip("torch has no negative strides")
    monkeypatch.setattr(strided, "PIECE", 13)
    viewed = VIEWS[view]
    for k, dtype in enumerate(dtypes(kernel)):
        rng = np.random.default_rng(k)
        whole = [numbers(rng, (6, 10, 4), dtype) for _ in range(5)]
        mine, theirs = (kernel.view(whole[0].copy()), whole[0].copy())
        rule = rules.Adam(0.1, amsgrad=True, weight_decay=0.1)
        fast = Optimizer(viewed(mine), rule)
        slow = Optimizer(viewed(theirs), rule, engine="eager")
        (choice,) = fast.explain()
        assert choice.engine == "cpu" and "by way of lines" in choice.reason
        for g in whole[1:]:
            gaps = viewed(g)
            fast.step(viewed(kernel.view(g)) if g is whole[1] else kernel.view(gaps.copy()))
            slow.step(gaps)
        same(kernel.bits(mine), widened(theirs))
        assert fast.steps == {"": 4}
        for name in rule.moments:
            same(kernel.bits(fast.moment(name)), slow.moment(name))


def test_a_gradient_that_the_step_would_overwrite_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strided, "PIECE", 4)
    ended = []
    for engine in (None, "eager"):
        x = np.linspace(-1, 1, 40)
        opt = Optimizer(x[4::2], rules.Adam(0.1), engine=engine)
        opt.step(x[:-4:2])
        opt.step(x[4::2])  # its own parameter
        ended.append(x)
    same(*ended)


@pytest.mark.parametrize("kernel", params(ON_CPU[:3]), indirect=True)
def test_wrappers_and_array_fields_go_along(kernel: Lib) -> None:
    rng, results = np.random.default_rng(0), []
    start, upper, grads = rng.normal(size=8), rng.normal(size=8), rng.normal(size=(6, 8))
    for array, engine in ((kernel.array, None), (np.array, "eager")):
        p = array(start)
        rule = rules.Bounded(rules.Clipped(rules.Adam(0.1), norm=0.5), None, array(upper)[::2])
        opt = Optimizer({"a": p[::2], "dense": array(start)}, rules_of(rule), engine=engine)
        for g in grads:
            opt.step({"a": array(g)[::2], "dense": array(g)})
        results.append(kernel.bits(p) if engine is None else p)
    same(*results)


def rules_of(rule: Any) -> Any:
    return {"a": rule, "dense": rules.Adam(0.1)}


def test_a_step_that_is_interrupted_between_two_pieces_is_torn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strided, "PIECE", 4)
    p = np.ones(16)
    opt = Optimizer(p[::2], rules.Adam(0.1))
    opt.step(np.ones(8))
    library, done = opt._contents.leaves[0].library, []

    def pour(x: Any, line: Any) -> None:
        type(library).pour(library, x, line)
        done.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(library, "pour", pour, raising=False)
        with pytest.raises(KeyboardInterrupt):
            opt.step(np.ones(8))
    assert len(done) == 1 and len(set(p[::2].tolist())) == 2
    with pytest.raises(RuntimeError, match="interrupted"):
        opt.step(np.ones(8))


def test_what_fails_before_the_first_piece_changes_nothing() -> None:
    p = np.ones(16, dtype_of("float32"))
    opt = Optimizer(p[::2], rules.Adam(0.1))
    opt.step(np.ones(8, np.float32))
    before = snapshot(opt)
    with pytest.raises(ValueError, match="shape"):
        opt.step(np.ones(9, np.float32))
    assert snapshot(opt) == before and (p[1::2] == 1).all()
