"""Adam's own numbers: its coefficients, its averages, and what it may be given."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_any import Adam, AdamW, rules
from adam_any.rule import rounded
from adam_any.rules._averages import ema, ema_weight
from tests.helpers.libraries import EPS


@pytest.mark.promise("Coefficients are exact to 1e-15 up to `t` = 2^40.", defect="D22")
@given(
    st.integers(1, 2**40),
    st.sampled_from([0.0, 0.001, 0.5, 0.9, 0.999, 1 - 1e-9, 1 - 2.0**-53]),
    st.sampled_from([0.0, 0.5, 0.99, 0.999, 1 - 1e-9]),
)
def test_coefficients_are_exact_to_1e_15(t: int, beta1: float, beta2: float) -> None:
    """Others correct in float32, or by repeated multiplication."""
    got = rules.Adam(0.3, (beta1, beta2), weight_decay=0.01).coefficients(t)
    with mpmath.workdps(60):
        b1, b2 = mpmath.mpf(beta1), mpmath.mpf(beta2)
        want = {
            "lr": mpmath.mpf(0.3),
            "alpha": mpmath.mpf(0.3) / (1 - b1**t),
            "s": 1 / mpmath.sqrt(1 - b2**t),
            "w1": min(b1, 1 - b1),
            "w2": min(b2, 1 - b2),
            "eps": mpmath.mpf(1e-8),
            "wd": mpmath.mpf(0.01),
            "decay": mpmath.mpf(0.3) * mpmath.mpf(0.01),
        }
        assert got.keys() == want.keys()
        for name, value in got.items():
            assert abs(value - want[name]) <= 1e-15 * abs(want[name]), name


def test_coefficients_are_rounded_once_to_the_compute_dtype() -> None:
    rule = rules.Adam(0.1)
    exact = rule.coefficients(3)
    narrow = vars(rounded(rule, 3, "float32"))
    assert narrow == {name: float(np.float32(value)) for name, value in exact.items()}
    assert vars(rounded(rule, 3, "float64")) == exact
    assert all(type(value) is float for value in narrow.values())


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_ema_is_the_moving_average(beta: float) -> None:
    old, new = 3.0, -5.0
    got = ema(old, new, beta, ema_weight(beta))
    assert got == pytest.approx(beta * old + (1 - beta) * new, rel=4 * EPS["float64"])


def test_the_second_moment_is_closer_than_in_the_usual_form() -> None:
    """The reason for the form of `ema`: 18 times closer after 1000 steps of float32."""
    rng = np.random.default_rng(0)
    ours, usual, exact = np.zeros(512, "f4"), np.zeros(512, "f4"), np.zeros(512)
    weight = float(np.float32(1 - 0.999))
    for g in rng.normal(size=(1000, 512)).astype("f4"):
        square = g * g
        ours = ema(ours, square, 0.999, weight)
        usual = 0.999 * usual + weight * square
        exact = 0.999 * exact + (1 - 0.999) * square.astype(float)
    error = [np.median(np.abs(v - exact) / exact) for v in (ours, usual)]
    assert error[0] < error[1] / 5


BAD: dict[str, list[Any]] = {
    "lr": [-1e-3, math.nan, math.inf, True, "0.1", np.array(0.1), np.ones(2), None, 1j],
    "eps": [-1e-8, math.nan, math.inf, False, np.ones(1)],
    "weight_decay": [-0.1, math.inf, True, np.zeros(1)],
    "betas": [
        *((1.0, 0.999), (0.9, 1.0), (-0.1, 0.999), (0.9, math.nan), (0.9, True)),
        *((0.9,), (0.9, 0.99, 0.999), 0.9, np.array([0.9, 0.999])),
    ],
    "amsgrad": [1],
    "maximize": [None],
}


@pytest.mark.promise(
    "Hyperparameters out of range, or of the wrong type, are refused.",
    defect="D25",
    seen=["mlx#4310", "mlx#4361", "tinygrad#15725"],
)
@pytest.mark.promise("A bad learning rate is refused when it is set later, too.", defect="D25")
@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for name, values in BAD.items() for bad in values], ids=repr
)
def test_hyperparameters_that_cannot_work_are_refused(name: str, bad: Any) -> None:
    for kind in (Adam, AdamW):
        with pytest.raises(ValueError, match=f"^{name} is .*must be"):
            kind(np.ones(2), **{name: bad})
    if name == "lr":
        opt = Adam(np.ones(2))
        with pytest.raises(ValueError, match=r"^lr is .*must be"):
            opt.lr = bad
        assert opt.lr == 1e-3


def test_weight_decay_is_off_in_adam_and_decoupled_in_adamw() -> None:
    adam, adamw = (kind(np.ones(2)).state_dict() for kind in (Adam, AdamW))
    assert [d["hyperparameters"]["weight_decay"] for d in (adam, adamw)] == [0.0, 0.01]
    assert [d["options"]["decoupled"] for d in (adam, adamw)] == [False, True]
