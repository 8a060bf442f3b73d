"""What a rule is: rules of a user's own, with and without a learning rate, and moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from adam_any import Optimizer, rules
from tests.helpers.libraries import EPS, Lib
from tests.helpers.rules import Custom


@dataclass(frozen=True)
class SGD:
    """No moments, and an option of each kind."""

    lr: float = 0.1
    damping: tuple[float, ...] = (0.5,)
    sign: bool = False
    note: str = ""

    moments: ClassVar[tuple[str, ...]] = ()

    def coefficients(self, t: int) -> dict[str, float]:
        return {"step": self.lr * self.damping[0]}

    def update(self, xp: Any, c: Any, p: Any, g: Any) -> tuple[Any, ...]:
        return (p - c.step * (xp.sign(g) if self.sign else g),)


@dataclass(frozen=True)
class Constant:
    """A rule without a learning rate."""

    moments: ClassVar[tuple[str, ...]] = ("seen",)

    def coefficients(self, t: int) -> dict[str, float]:
        return {"t": float(t)}

    def update(self, xp: Any, c: Any, p: Any, g: Any, seen: Any) -> tuple[Any, ...]:
        return p - c.t, seen + g


def test_a_rule_of_the_users_own(lib: Lib) -> None:
    for dtype in lib.dtypes:
        opt = Optimizer({"w": lib.array([1.0, -2.0], dtype)}, SGD(sign=True), engine=lib.engine)
        out = opt.step({"w": lib.array([3.0, -4.0], dtype)})["w"]
        lib.check(out, dtype, (2,))
        assert np.real(lib.numpy(out)) == pytest.approx([0.95, -1.95], rel=EPS[dtype])
    opt.lr = 0.5
    state = opt.state_dict()
    assert state["rule"] == "sgd"
    assert state["options"] == {"sign": True, "note": ""}
    assert state["hyperparameters"] == {"lr": 0.5, "damping": (0.5,)}
    assert state["state"] == {"w": {"step": 1}}


@pytest.mark.uses("operators")
def test_a_gradient_kept_as_a_moment_is_a_copy(lib: Lib) -> None:
    g = lib.array([1.0, 2.0])
    opt = Optimizer(
        lib.array([1.0, 1.0]), Custom(lambda xp, c, p, g, m: (p - m, g)), engine=lib.engine
    )
    opt.step(g)
    if lib.in_place:
        g[...] = g * 0.0
    opt.step(lib.array([0.0, 0.0]))
    assert lib.numpy(opt.params).tolist() == [0.0, -1.0]


def test_a_rule_without_a_learning_rate(lib: Lib) -> None:
    opt = Optimizer(lib.array([1.0]), Constant(), engine=lib.engine)
    opt.step(lib.array([2.0]))
    assert lib.numpy(opt.step(lib.array([3.0]))) == pytest.approx([-2.0])
    assert lib.numpy(opt.state_dict()["state"][""]["seen"]) == pytest.approx([5.0])
    with pytest.raises(AttributeError, match="lr"):
        _ = opt.lr
    with pytest.raises((AttributeError, TypeError), match="lr"):
        opt.lr = 0.1


def test_a_rule_whose_coefficients_are_no_numbers_is_refused() -> None:
    @dataclass(frozen=True)
    class Broken(SGD):
        def coefficients(self, t: int) -> dict[str, float]:
            return {"step": math.nan}

    opt = Optimizer(np.ones(2), Broken())
    with pytest.raises(ValueError, match="coefficient 'step' is nan at update 1"):
        opt.step(np.ones(2))
    assert opt.steps == {"": 0} and opt.params.tolist() == [1, 1]


def test_rules_are_frozen_and_comparable() -> None:
    assert rules.Adam(lr=1) == rules.Adam(lr=1.0)
    with pytest.raises(AttributeError):
        rules.Adam().lr = 0.1  # type: ignore[misc]
