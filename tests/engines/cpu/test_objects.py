"""The look at all arrays of a step at once sees whatever a look at each would see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adam_any import Optimizer, contents, rules
from adam_any.engines.cpu import compiler
from adam_any.libraries import numpy_objects
from tests.helpers.bits import snapshot

pytestmark = pytest.mark.skipif(
    compiler.missing() is not None or not numpy_objects.understood(),
    reason="nothing compiled looks at arrays here",
)


def stepped(number: int = 3) -> tuple[Any, list[Any], list[Any]]:
    """A plan that looks at all arrays at once, its parameters, and gradients like them."""
    params = [np.zeros((2, k + 2), np.float32) for k in range(number)]
    grads = [np.ones_like(p) for p in params]
    low = [np.full_like(p, -1) for p in params]
    opt = Optimizer(params, rules.Bounded(rules.Adam(), low, 1))
    for _ in range(contents.ALIKE + 2):
        opt.step(grads)
    (plan,) = opt._contents._plans
    assert plan._at_once is not None
    return plan, params, grads


@pytest.mark.parametrize("container", [list, tuple])
@pytest.mark.parametrize("number", [1, 3, 40])
def test_it_finds_gradients_in_a_list_or_tuple(container: Any, number: int) -> None:
    plan, _, _ = stepped(number)
    for _ in range(3):
        grads = [np.ones((2, k + 2), np.float32) for k in range(number)]
        grads[-1].flags.writeable = False
        found = plan.look(container(grads))
        assert list(found) == [g.ctypes.data for g in grads]


def view(g: Any) -> Any:
    return g.view(type("Own", (np.ndarray,), {}))


GRADIENTS: dict[str, Callable[[Any, Any], Any]] = {
    "shape": lambda p, g: g.reshape(-1, 2).copy(),
    "rank": lambda p, g: g[..., None],
    "order": lambda p, g: np.asfortranarray(g),
    "gaps": lambda p, g: np.repeat(g, 2, 1)[:, ::2],
    "dtype": lambda p, g: g.astype(np.float64),
    "bytes": lambda p, g: g.astype(g.dtype.newbyteorder()),
    "class": lambda p, g: view(g),
    "place": lambda p, g: np.frombuffer(b"x" + g.tobytes(), np.uint8)[1:].view(g.dtype),
    "scalar": lambda p, g: g[0, 0],
    "None": lambda p, g: None,
    "written": lambda p, g: p,
    "overlap": lambda p, g: np.lib.stride_tricks.as_strided(p.reshape(-1)[1:], p.shape, p.strides),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_that_is_not_as_expected_is_a_doubt(name: str) -> None:
    plan, params, grads = stepped()
    assert plan.look(grads)
    grads[1] = GRADIENTS[name](params[1], grads[1])
    assert plan.look(grads) is None


@pytest.mark.parametrize("container", [list, tuple])
def test_a_container_that_has_become_too_short_is_a_doubt(container: Any) -> None:
    plan, _, grads = stepped()
    assert plan.look(container(grads))
    assert plan.look(container(grads[:2])) is None


def locked(p: Any) -> None:
    p.flags.writeable = False


def reshaped(p: Any) -> None:
    p.resize(p.shape[::-1], refcheck=False)


def resized(p: Any) -> None:
    p.resize(7, 9, refcheck=False)


def moved(p: Any) -> None:
    shape = p.shape
    p.resize(1000, 1000, refcheck=False)
    p.resize(shape, refcheck=False)


@pytest.mark.parametrize("change", [locked, moved, reshaped, resized])
@pytest.mark.parametrize("which", ["parameter", "operand"])
def test_a_change_of_what_is_watched_is_a_doubt(change: Callable[[Any], None], which: str) -> None:
    plan, params, grads = stepped()
    assert plan.look(grads)
    leaf = plan.leaves[1]
    change(params[1] if which == "parameter" else next(iter(leaf.operands.values())))
    assert plan.look(grads) is None


def test_where_it_cannot_be_compiled_each_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise MemoryError("no room")

    plan, _, grads = stepped()
    found = list(plan.look(grads))
    monkeypatch.setattr("adam_any.engines.cpu.engine.Look", failing)
    opt = Optimizer([np.zeros_like(g) for g in grads], rules.Adam())
    for _ in range(contents.ALIKE + 2):
        opt.step(grads)
    (slow,) = opt._contents._plans
    assert slow._at_once is None and slow.look(grads) == found
    before = snapshot(opt)
    opt.step(grads)
    assert snapshot(opt) != before
