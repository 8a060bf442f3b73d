"""Every rule: its paper, its peers, and all that Adam can do."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Optimizer, functional, rules
from adam_any.rule import hyperparameters
from tests.helpers.family import FAMILY, Row, shown
from tests.helpers.libraries import EPS, Lib, tolerance

CASES = [
    pytest.param(row, options, id=f"{row.name}-{shown(options)}")
    for row in FAMILY
    for options in row.cases
]
every_row = pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.name)


def wild(steps: int, shape: Any = (24,), seed: int = 0) -> tuple[Any, list[Any]]:
    """A start, and gradients over twelve orders of magnitude, a tenth of them zeros."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-6, 6, (steps, *shape))
    grads = rng.normal(size=(steps, *shape)) * sizes * (rng.random((steps, *shape)) > 0.1)
    return rng.normal(size=shape), list(grads)


def test_every_rule_has_its_row_and_every_option_its_case() -> None:
    assert sorted(row.name for row in FAMILY) == sorted(rules.__all__)
    for row in FAMILY:
        tried = {"lr"}.union(*row.options)
        assert tried == {field.name for field in dataclasses.fields(row.rule)}, row.name


@pytest.mark.parametrize(("row", "options"), CASES)
def test_agrees_with_its_paper(row: Row, options: dict[str, Any]) -> None:
    start, grads = wild(200)
    opt = Optimizer(start.copy(), row.made(options), engine="eager")
    got = np.array([start, *(opt.step(g).copy() for g in grads)])
    want = row.path(start, grads, options)
    assert np.all(np.isfinite(want)) and not np.array_equal(want[0], want[-1])
    assert np.all(np.abs(got - want) <= tolerance("float64", want, row.lr))
