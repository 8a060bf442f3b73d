"""The CUDA engine without a GPU: its launches, its tables, and why it is not chosen.

That it has the bits of the reference is in test_dense; what only a GPU can show in test_device.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, Optimizer, engines, groups, rules
from adam_any.demo import places
from adam_any.detect import Backend
from adam_any.engines.cuda import compiler as nvrtc
from adam_any.engines.cuda import device
from adam_any.engines.cuda import engine as cuda
from adam_any.engines.kernels import table as plan
from adam_any.leaf import Leaf
from adam_any.rules import Adam as Rule
from tests.helpers.bits import same
from tests.helpers.emulated import Device, array
from tests.helpers.numbers import data
from tests.helpers.rules import Custom


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(n, "float32") for n in (1, 64, 65, 512, 513, 4000, 4001, 8003)]
    + [(65, dtype) for dtype in ("float16", "float64", "complex64")],
)
def test_many_leaves_take_one_launch_for_each_4000(
    emulation: type[Device], number: int, dtype: str
) -> None:
    ends = np.cumsum(np.arange(number) % 7)  # every seventh is empty
    rng = np.random.default_rng(0)
    whole, *grads = (data(rng, (int(ends[-1]),), dtype) for _ in range(3))
    leaves = whole.copy()
    fast = Adam([array(x) for x in np.split(leaves, ends[:-1])])
    slow = Adam(whole, engine="eager")
    for t, g in enumerate(grads):
        fast.step([array(x) for x in np.split(g, ends[:-1])]), slow.step(g)
        assert emulation.launches == (t + 1) * (0 if number == 1 else -(-number // 4000))
    same(leaves, whole)
    assert set(fast.steps.values()) == {2}


def test_leaves_of_different_step_counts_take_a_launch_for_each_count(
    emulation: type[Device],
) -> None:
    params = [np.zeros(3, np.float32) for _ in range(3)]
    opt = Adam([array(x) for x in params], lr=1.0)
    one = array(np.ones(3, np.float32))
    opt.step([one, None, one])
    opt.step([one, one, None])
    assert emulation.launches == 1 + 2
    assert [x.tolist() for x in params] == [[-2.0] * 3, [-1.0] * 3, [-1.0] * 3]
    assert opt.steps == {"0": 2, "1": 1, "2": 1}


def test_gradients_of_several_dtypes_take_a_launch_for_each_dtype(emulation: type[Device]) -> None:
    params = [np.zeros(3, np.float32) for _ in range(5)]
    opt = Adam([array(x) for x in params], lr=1.0)
    kinds = ("float32", "float64", "float16", "float64", "float32")
    for t in range(1, 3):
        opt.step([array(np.ones(3, kind)) for kind in kinds])
        assert emulation.launches == 3 * t
    assert [x.tolist() for x in params] == [[-2.0] * 3] * 5


def test_tables_are_made_once_for_a_stream(
    emulation: type[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    opt = Adam([array(np.zeros(9, np.float32)) for _ in range(5)])
    for t in range(1, 5):
        opt.step([array(np.full(9, t, np.float32)) for _ in range(5)])
        assert (emulation.launches, emulation.uploads) == (t, 1)
    monkeypatch.setattr(emulation, "current", SimpleNamespace(ptr=8))
    for t in range(5, 8):
        opt.step([array(np.full(9, t, np.float32)) for _ in range(5)])
        assert (emulation.launches, emulation.uploads) == (t, 2)


@pytest.mark.parametrize("engine", [None, "eager"])
def test_while_a_stream_is_captured_a_step_raises_and_changes_nothing(
    emulation: type[Device], monkeypatch: pytest.MonkeyPatch, engine: str | None
) -> None:
    p = np.zeros(3, np.float32)
    opt = Adam({"layer": [array(p)]}, lr=1.0, engine=engine)
    for steps in range(2):  # before there is a plan, and after
        monkeypatch.setattr(emulation, "capturing", True)
        with pytest.raises(RuntimeError, match=r"^'layer\.0': .*captured.*bias correction"):
            opt.step({"layer": [array(np.ones(3, np.float32))]})
        monkeypatch.setattr(emulation, "capturing", False)
        assert opt.steps == {"layer.0": steps}
        assert p.tolist() == [-float(steps)] * 3
        if engine == "eager":
            return  # its arithmetic is CuPy's own, which no CPU runs
        opt.step({"layer": [array(np.ones(3, np.float32))]})


def test_an_address_that_a_gpu_cannot_read_at_is_no_address(emulation: Any) -> None:
    """A CPU can, so the bits would not tell."""
    opt = Adam([array(np.zeros(3, np.float32))])
    room = np.zeros(16, np.uint8)
    for start, readable in ((0, True), (4, True), (2, False), (1, False)):
        g = array(room[start : start + 12].view(np.float32))
        opt.step([g])
        plan = opt._contents.current_plans(opt._engine)[0]
        assert (plan._arrays.find([g]) == [g.data.ptr]) is readable
        assert plan._library.readable(plan.leaves[0].array, g) is readable


def test_a_stream_of_torch_belongs_to_the_device_of_the_arrays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CuPy refuses to work on a stream while another device is current."""
    current = [0]

    @contextlib.contextmanager
    def on(number: int) -> Iterator[None]:
        before, current[0] = current[0], number
        yield
        current[0] = before

    streams = SimpleNamespace(
        from_external=lambda x: SimpleNamespace(ptr=x.__cuda_stream__()[1], device_id=current[0])
    )
    cuda = SimpleNamespace(Device=on, Stream=streams)
    monkeypatch.setattr(device, "_cupy", lambda: SimpleNamespace(cuda=cuda))
    torch = SimpleNamespace(
        cuda=SimpleNamespace(current_stream=lambda i: SimpleNamespace(cuda_stream=7))
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    made = device.Device("torch", 1).stream()
    assert (made.ptr, made.device_id) == (7, 1)


def test_an_array_field_that_a_gpu_cannot_read_is_copied(emulation: Any) -> None:
    room = np.zeros(16, np.uint8)
    for start, readable in ((0, True), (4, True), (2, False), (1, False)):
        lower = array(room[start : start + 12].view(np.float32))
        opt = Optimizer(array(np.zeros(3, np.float32)), rules.Bounded(Rule(), lower, 1.0))
        opt.step(array(np.ones(3, np.float32)))
        (leaf,) = opt._contents.current_plans(opt._engine)[0].leaves
        (held,) = leaf.operands.values()
        assert (held.data.ptr == lower.data.ptr) is readable
        assert held.data.ptr % 4 == 0


def test_a_parameter_that_got_another_shape_is_seen(emulation: Any) -> None:
    p, g = (array(np.ones((2, 3), np.float32)) for _ in range(2))
    opt = Adam(p)
    opt.step(g)
    p.shape = (3, 2)
    with pytest.raises(ValueError, match=r"shape \(3, 2\)"):
        opt.step(g)


def test_an_empty_gradient_of_another_dtype_takes_no_launch(emulation: type[Device]) -> None:
    params = [array(np.zeros(n, np.float32)) for n in (3, 0)]
    opt = Adam(params)
    opt.step([array(np.ones(3, np.float32)), array(np.ones(0, np.float64))])
    assert emulation.launches == 1
    assert opt.steps == {"0": 1, "1": 1}


def test_sums_of_empty_leaves_take_no_launch(emulation: type[Device]) -> None:
    """CuPy launches one block where none is asked for: it would read beyond the table."""
    empty = [array(np.zeros(shape, np.float32)) for shape in (0, (3, 0))]
    opt = Optimizer(empty, rules.Clipped(Rule(), norm=1.0))
    opt.step(empty)
    assert emulation.launches == 0
    assert opt.steps == {"0": 1, "1": 1}


def test_a_leaf_that_is_not_dense_is_left_to_the_reference(emulation: Any) -> None:
    base, dense = np.zeros((3, 8), np.float32), np.zeros((2, 3, 4), np.float32)
    opt = Adam({"gaps": array(base[:, ::2]), "order": array(dense.transpose(2, 0, 1))})
    reasons = {choice.path: (choice.engine, choice.reason) for choice in opt.explain()}
    assert reasons["gaps"] == (
        "eager",
        "'gaps' is not dense: strides (32, 8) for shape (3, 4); pass a copy",
    )
    assert reasons["order"][0] == "cuda"


def test_more_than_2_to_the_33_elements_are_planned_in_64_bits() -> None:
    """With sizes of 32 bits there is no update, or one out of bounds."""
    for n in (2**31 + 5, 2**33 + 5, 2**40):
        length = cuda.longest(n)
        assert length == cuda.LONG
        if n < 2**40:
            found = plan.chunks([n, 3], length)
            assert found.dtype == np.int64
            assert found[-2:].tolist() == [[0, n // length * length, 5], [1, 0, 3]]
            assert found[:, 2].sum() == n + 3
        assert n // length + 4000 < 2**31  # blocks
    assert cuda.longest(0) == cuda.SHORT
    assert all(cuda.longest(10**k) % 8 == 0 for k in range(15))


# Why it is not chosen, in words.


@pytest.fixture
def asked() -> Iterator[None]:
    """What is installed is looked up anew, and forgotten afterwards."""
    found = (device.missing, nvrtc.missing, nvrtc.version)
    for function in found:
        function.cache_clear()
    yield
    for function in found:
        function.cache_clear()


def choice(torch: Any) -> tuple[str, str]:
    """The engine, and the reason, for a torch tensor on a GPU, of which there need be none."""
    facts = Backend("torch", torch.device("cuda", 0), "float32", True)
    leaf = Leaf(0, "w", torch.zeros(3), (3,), facts)
    made = engines.choose(groups.kind_of(Rule()), leaf, None)
    return made.engine, made.reason


def test_without_cupy(asked: None, monkeypatch: pytest.MonkeyPatch, torch_: Any) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    engine, reason = choice(torch_)
    assert (engine, reason.startswith("cupy is not installed; ")) == ("eager", True)
    assert "cuda13" in reason


def test_with_a_broken_cupy(
    asked: None, monkeypatch: pytest.MonkeyPatch, torch_: Any, tmp_path: Path
) -> None:
    (tmp_path / "cupy.py").write_text("raise OSError('libcudart.so.13: not found')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert choice(torch_) == ("eager", "cupy cannot be imported: libcudart.so.13: not found")


def test_without_a_driver(asked: None, monkeypatch: pytest.MonkeyPatch, torch_: Any) -> None:
    runtime = pytest.importorskip("cupy", reason="cupy is not installed").cuda.runtime

    def count() -> int:
        raise runtime.CUDARuntimeError(35)  # cudaErrorInsufficientDriver

    monkeypatch.setattr(runtime, "getDeviceCount", count)
    engine, reason = choice(torch_)
    assert engine == "eager"
    assert reason.startswith("cupy finds no CUDA device: cudaErrorInsufficientDriver: CUDA driver")
    with pytest.raises(places.UnusableError, match="cudaErrorInsufficientDriver"):
        places._cuda_device(
            SimpleNamespace(
                __version__="14", cuda=SimpleNamespace(is_available=lambda: False, runtime=runtime)
            )
        )


def test_without_a_compiler(asked: None, monkeypatch: pytest.MonkeyPatch, torch_: Any) -> None:
    runtime = pytest.importorskip("cupy", reason="cupy is not installed").cuda.runtime
    monkeypatch.setattr(runtime, "getDeviceCount", lambda: 1)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    engine, reason = choice(torch_)
    assert engine == "eager"
    assert reason.startswith("cuda.bindings cannot be imported: ") and "cuda13" in reason


def test_more_scalars_than_an_argument_holds_are_refused(emulation: Any) -> None:
    def update(xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, Any]:
        for k in range(200):
            p = p + g * float(k)
        return p, m

    (choice,) = Optimizer(array(np.zeros(3, np.float32)), Custom(update)).explain()
    assert choice.engine == "eager"
    assert choice.reason == "the rule has 200 scalars, too many for a kernel's argument"
