"""A parameter that changes under its own name between two calls: refused by name, or stepped as it
is now; never written past its end, nor in the wrong order."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adam_any import Adam
from adam_any.engines.cpu import compiler
from tests.helpers.libraries import Lib


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


# NumPy --------------------------------------------------------------------------------------------


def _resized(p: Any) -> None:
    p.resize(4000, refcheck=False)


#: In place, and allowed by NumPy; which shape or dtype is complained of. Setting strides is
#: deprecated, and warned of.
NUMPY = {
    "resize": (_resized, ValueError, r"shape \(4000,\)"),
    "shape": (lambda p: setattr(p, "shape", (40, 40)), ValueError, r"shape \(40, 40\)"),
    "dtype": (lambda p: setattr(p, "dtype", "i4"), TypeError, "dtype int32"),
    "other float": (lambda p: setattr(p, "dtype", "f8"), TypeError, "float64, but it was float32"),
}


@pytest.mark.promise("A parameter that has changed under its own name is refused, or taken anew.")
@pytest.mark.parametrize("when", WHEN[:2])
@pytest.mark.parametrize("engine", [None, "eager"])
@pytest.mark.parametrize("change", NUMPY)
def test_an_array_that_is_another_is_refused(change: str, engine: str | None, when: str) -> None:
    mutate, error, words = NUMPY[change]
    p, g = np.zeros(1600, "f4"), np.ones(1600, "f4")
    opt = Adam({"w": p}, engine=engine)
    if when == WHEN[1]:
        opt.step({"w": g})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        mutate(p)
    before = p.copy()
    with pytest.raises(error, match=f"'w': .*{words}"):
        opt.step({"w": g})
    assert np.array_equal(p, before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tiled", [False, True])
def test_an_array_with_other_strides_is_written_there(
    monkeypatch: pytest.MonkeyPatch, tiled: bool
) -> None:
    if tiled:
        monkeypatch.setattr(compiler, "missing", lambda: "not here")
    p, g = np.zeros((4, 4), "f4"), np.zeros((4, 4), "f4")
    opt = Adam({"w": p}, lr=0.1)
    opt.step({"w": g})
    g[0, 1] = 1
    p.strides = (4, 16)
    opt.step({"w": g})
    assert np.argwhere(p).tolist() == [[0, 1]]


@pytest.mark.parametrize("engine", [None, "eager"])
def test_an_array_that_becomes_read_only_is_not_written(engine: str | None) -> None:
    p = np.zeros(3, "f4")
    opt = Adam({"w": p}, lr=0.1, engine=engine)
    opt.step({"w": np.ones(3, "f4")})
    before = p.copy()
    p.flags.writeable = False
    new = opt.step({"w": np.ones(3, "f4")})["w"]
    assert np.array_equal(p, before) and (new < before).all()
    assert (opt.explain()[0].engine == "eager" and "read-only" in opt.explain()[0].reason) or engine


# Assignment ---------------------------------------------------------------------------------------


@pytest.mark.promise(
    "Assigning parameters copies into arrays that can be written, which stay yours."
)
def test_bounds_by_assignment_keep_the_users_array(lib: Lib) -> None:
    """The gradient is taken at the user's own array, which has to go on being the optimizer's."""
    target = np.array([0.5, 2.0, -1.0])
    x = lib.array(np.zeros(3))
    opt = Adam(x, lr=0.1, engine=lib.engine)
    for _ in range(10 if lib.slow else 200):
        x = opt.step(lib.array(2 * (lib.numpy(x) - target)))
        opt.params = lib.array(np.clip(lib.numpy(x), 0, 1))
        if lib.in_place:
            assert opt.params is x
        else:
            x = opt.params
    if not lib.slow:
        assert lib.numpy(x) == pytest.approx([0.5, 1, 0], abs=1e-3)
    assert lib.numpy(x).min() >= 0 and lib.numpy(x).max() <= 1


@pytest.mark.uses("operators")
def test_parameters_may_be_assigned_from_each_other(lib: Lib) -> None:
    a, b = lib.array([1.0, 2.0]), lib.array([3.0, 4.0])
    opt = Adam({"a": a, "b": b}, engine=lib.engine)
    opt.params = {"a": b, "b": a}
    assert [lib.numpy(opt.params[k]).tolist() for k in "ab"] == [[3.0, 4.0], [1.0, 2.0]]
    assert not lib.in_place or (opt.params["a"] is a and opt.params["b"] is b)


# JAX ----------------------------------------------------------------------------------------------


def test_jax_guards_leave_the_optimizer_whole() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    p = jax.numpy.ones(3)
    with jax.transfer_guard("disallow"):
        Adam(p, nonfinite="raise").step(p)
        opt = Adam(p)
        opt.step(p)
        opt.step(p)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        opt.step(p * jax.numpy.nan)
    assert opt.steps == {"": 2}
    opt.step(p)
    with jax.enable_x64(True):
        wide = Adam(jax.numpy.ones(3, "float64"))
        wide.step(jax.numpy.ones(3, "float64"))
    assert copy.copy(wide).steps == {"": 1}
