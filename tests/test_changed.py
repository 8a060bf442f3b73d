"""A parameter that changes under its own name between two calls: refused by name, or stepped as it
is now; never written past its end, nor in the wrong order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adam_any import Adam


def _data(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda p: setattr(p, "data", change(p.data))


def _swapped(p: Any) -> None:
    import torch

    torch.utils.swap_tensors(p, torch.nn.Parameter(p.detach().half()))


#: How a tensor changes, and what the next step says; None where it goes on.
REFUSED = {
    "half": (_data(lambda x: x.half()), TypeError, "float16, but it was float32"),
    "bfloat16": (_data(lambda x: x.bfloat16()), TypeError, "bfloat16, but it was float32"),
    "double": (_data(lambda x: x.double()), TypeError, "float64, but it was float32"),
    "complex": (_data(lambda x: x + 0j), TypeError, "complex64, but it was float32"),
    "shorter": (_data(lambda x: x[:4]), ValueError, r"shape \(4, 40\)"),
    "resized": (lambda p: p.requires_grad_(False).resize_(4), ValueError, r"shape \(4,\)"),
    "freed": (lambda p: p.untyped_storage().resize_(0), ValueError, "has 0 bytes"),
    "shrunk": (lambda p: p.untyped_storage().resize_(8), ValueError, "has 8 bytes"),
    "swapped": (_swapped, TypeError, "float16, but it was float32"),
}

WHEN = ("before the first step", "after a step", "after a load", "after params were set")


def _prepared(torch: Any, when: str) -> tuple[Any, Any]:
    p = torch.nn.Parameter(torch.ones(40, 40))
    opt = Adam({"w": p}, lr=0.1)
    if when != WHEN[0]:
        opt.step({"w": torch.ones(40, 40)})
    if when == WHEN[2]:
        opt.load_state_dict(opt.state_dict())
    if when == WHEN[3]:
        opt.params = {"w": p}
    return p, opt


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("change", REFUSED)
def test_a_tensor_that_is_another_is_refused(torch_: Any, when: str, change: str) -> None:
    mutate, error, words = REFUSED[change]
    p, opt = _prepared(torch_, when)
    mutate(p)
    before = None if change in ("freed", "shrunk") else p.detach().clone()
    with pytest.raises(error, match=f"'w': .*{words}"):
        opt.step({"w": torch_.ones(40, 40)})
    assert opt.steps == {"w": 0 if when == WHEN[0] else 1}
    if before is not None:
        assert torch_.equal(p.detach(), before)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.data.t_(),
        _data(lambda x: x.t()),
        _data(lambda x: x.clone()),
        _data(lambda x: torch_strided(x)),
    ],
    ids=["t_", "transposed data", "other memory", "strided data"],
)
def test_a_tensor_in_another_order_is_stepped_in_it(
    torch_: Any, when: str, change: Callable[[Any], None]
) -> None:
    p, opt = _prepared(torch_, when)
    start = p.detach().clone()
    change(p)
    g = torch_.zeros(40, 40)
    g[0, 1] = 1.0
    opt.step({"w": g})
    moved = np.argwhere((p.detach() != start).numpy())
    if when == WHEN[0]:
        assert moved.tolist() == [[0, 1]]
    else:  # the others go on, by the moments of the first step, and it goes further
        assert float((start - p.detach())[0, 1]) > float((start - p.detach())[1, 0]) > 0


def torch_strided(x: Any) -> Any:
    wide = x.new_zeros(40, 80)
    wide[:, ::2] = x
    return wide[:, ::2]


def test_a_zero_tensor_is_a_gradient_of_zeros(torch_: Any) -> None:
    p, twin = torch_.ones(3), torch_.ones(3)
    first, second = Adam(p, lr=0.1), Adam(twin, lr=0.1)
    for g in (torch_.ones(3), torch_._efficientzerotensor(3)):
        first.step(g)
        second.step(g.clone() if g.any() else torch_.zeros(3))
    assert torch_.equal(p, twin)


def test_a_zero_or_meta_tensor_is_not_a_parameter(torch_: Any) -> None:
    with pytest.raises(TypeError, match="meta tensor"):
        Adam(torch_.ones(3, device="meta"))
    with pytest.raises(TypeError, match="zero tensor"):
        Adam(torch_._efficientzerotensor(3))
