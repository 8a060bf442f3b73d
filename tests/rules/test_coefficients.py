"""The coefficients that take more than a line, against fifty digits."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import pytest

from adam_any import rules

COUNTS = (1, 2, 3, 5, 6, 7, 10, 50, 99, 100, 101, 150, 353, 1000, 10**5)
BETAS = (0.0, 0.3, 0.9, 0.99, 0.999, 0.9999)


@pytest.fixture(autouse=True)
def digits() -> Any:
    with mp.workdps(50):
        yield


def close(found: float, exact: Any, bound: float = 1e-14) -> bool:
    return bool(abs(found - exact) <= bound * abs(exact))


@pytest.mark.parametrize("beta", BETAS)
def test_radam(beta: float) -> None:
    """The length of the average is a difference: in float64 as it stands it loses four digits."""
    b = mp.mpf(beta)
    for t in COUNTS:
        c = rules.RAdam(1.0, (0.0, beta), eps=0.5).coefficients(t)
        longest = 2 / (1 - b) - 1
        length = longest - 2 * t * b**t / (1 - b**t)
        if length <= 5:
            assert (c["alpha"], c["s"], c["eps"]) == (1.0, 0.0, 1.0)
            continue
        above = (length - 4) * (length - 2) * longest
        below = (longest - 4) * (longest - 2) * length
        assert close(c["alpha"], mp.sqrt(above / below))
        assert close(c["s"], 1 / mp.sqrt(1 - b**t)) and close(c["eps"], 0.5 * c["s"])


@pytest.mark.parametrize("psi", [0.0, 1e-6, 4e-3, 1.0])
@pytest.mark.parametrize("beta", BETAS)
def test_nadam(beta: float, psi: float) -> None:
    """The product of the momenta, which is computed without a loop, or not at all."""

    def momentum(i: int) -> Any:
        return mp.mpf(beta) * (1 - mp.mpf(0.96) ** (i * mp.mpf(psi)) / 2)

    bound = 1e-15 / (1 - beta)  # 1 - mu loses what is near 1
    product = mp.mpf(1)
    for t in range(1, 401):
        mu, ahead = momentum(t), momentum(t + 1)
        product *= mu
        if t in COUNTS:
            c = rules.NAdam(1.0, (beta, 0.0), momentum_decay=psi).coefficients(t)
            assert close(c["alpha"], (1 - mu) / (1 - product), bound)
            assert close(c["ahead"], ahead / (1 - product * ahead), bound)


def test_ademamix_warms_up_in_half_lives() -> None:
    rule = rules.AdEMAMix(1.0, (0.9, 0.999, 0.9999), alpha=5.0, warmup=100.0)
    for t in (1, 2, 50, 99, 100, 101):
        part = mp.mpf(min(t, 100)) / 100
        life = (1 - part) * mp.log(0.5) / mp.log(0.9) + part * mp.log(0.5) / mp.log(0.9999)
        c = rule.coefficients(t)
        assert close(c["w3"], 1 - mp.mpf(0.5) ** (1 / life), 1e-12)
        assert close(c["slow"], 5 * part)


def test_schedule_free_weighs_by_the_square_of_the_rate() -> None:
    rule = rules.ScheduleFree(0.1, (0.9, 0.999), warmup=7.0)
    rates = [min(t / 7, 1.0) for t in range(1, 30)]
    for t in range(1, 30):
        c = rule.coefficients(t)
        weight = rates[t - 1] ** 2 / sum(rate**2 for rate in rates[:t])
        assert close(c["weight"], weight) and close(c["alpha"], 0.1 * rates[t - 1])
        assert close(c["share"], 1 - 0.9 * (1 - weight))
