"""Every rule: its paper, its peers, and all that Adam can do."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from functools import partial
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


def package_path(row: Row, start: Any, grads: Any, options: dict[str, Any]) -> Any:
    """The parameter before the first step and after each."""
    opt = Optimizer(start.copy(), row.made(options), engine="eager")
    return np.array([start, *(opt.step(g).copy() for g in grads)])


def test_every_rule_has_its_row_and_every_option_its_case() -> None:
    assert sorted(row.name for row in FAMILY) == sorted(rules.__all__)
    for row in FAMILY:
        tried = {"lr"}.union(*row.options)
        assert tried == {field.name for field in dataclasses.fields(row.rule)}, row.name


@pytest.mark.parametrize(("row", "options"), CASES)
def test_agrees_with_its_paper(row: Row, options: dict[str, Any]) -> None:
    start, grads = wild(200)
    got = package_path(row, start, grads, options)
    want = row.path(start, grads, options)
    assert np.all(np.isfinite(want)) and not np.array_equal(want[0], want[-1])
    assert np.all(np.abs(got - want) <= tolerance("float64", want, row.lr))


# Peers --------------------------------------------------------------------------------------------


def peer_path(request: Any, row: Row, start: Any, grads: Any, options: dict[str, Any]) -> Any:
    """The parameter of torch's or optax's optimizer before the first step and after each."""
    assert row.peer is not None
    library, make = row.peer
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    if library == "torch":
        # It keeps scalars, such as NAdam's product, in its default dtype.
        request.addfinalizer(partial(module.set_default_dtype, module.get_default_dtype()))
        module.set_default_dtype(module.float64)
        p = module.tensor(start)
        optimizer = make([p], **options)
        path = [start]
        for g in grads:
            p.grad = module.tensor(g)
            optimizer.step()
            path.append(p.numpy().copy())
        return np.array(path)
    jax = importlib.import_module("jax")
    with jax.enable_x64(True):
        optimizer, p = make(**options), jax.numpy.asarray(start)
        update = jax.jit(optimizer.update)
        state, path = optimizer.init(p), [start]
        for g in grads:
            change, state = update(g, state, p)
            p = p + change
            path.append(np.asarray(p))
    return np.array(path)


def gap(a: Any, b: Any) -> float:
    """The largest difference of two paths, relative to the size and the steps of the second."""
    size = np.maximum(np.abs(b).max(axis=0), np.abs(np.diff(b, axis=0)).max(axis=0))
    return float(np.max(np.abs(a - b) / size))


@pytest.mark.parametrize(
    "row", [row for row in FAMILY if row.peer is not None], ids=lambda row: row.name
)
def test_agrees_with_its_peer(request: Any, row: Row) -> None:
    start, grads = wild(200, seed=1)
    for options in ({}, *row.options):
        if options.keys() <= {*row.shared}:
            theirs = peer_path(request, row, start, grads, row.given(options))
            ours = package_path(row, start, grads, options)
            if not row.theirs:
                assert gap(ours, theirs) <= 1e-12, options
                continue
            # Its formula is another one: that, and nothing else, is the difference.
            assert gap(row.path(start, grads, {**options, **row.theirs}), theirs) <= 1e-12
            assert gap(ours, theirs) > 0.1
