"""The CUDA engine without a GPU: its kernels' text, run on the CPU, has the reference's bits.

All of the package runs but the device: see `emulated`. What only a GPU can show is in
`test_cuda_device`; that NVRTC compiles every text, in `test_cuda_compile`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adam_any import Adam, AdamW, Optimizer, engines
from adam_any.demo import places
from adam_any.detect import Backend
from adam_any.engines import cuda, device, nvrtc, operations, plan
from adam_any.engines.base import Leaf
from adam_any.engines.cuda_source import CAPACITIES, Kind, cuda_source, layout
from adam_any.program import program
from adam_any.rules import Adam as Rule
from tests.helpers import emulated
from tests.helpers.bits import differ, same
from tests.helpers.emulated import Device, array
from tests.helpers.numbers import OPTIONS, SHAPES, data
from tests.helpers.rules import Custom, every_operation, lion

REALS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*REALS, "complex64", "complex128")

#: Those that NumPy has here: a test of one that it lacks is skipped, but not one of them all.
HERE = [x for x in DTYPES if x != "bfloat16" or importlib.util.find_spec("ml_dtypes")]


def dtype_of(name: str) -> Any:
    """NumPy's dtype; ml_dtypes lends it a bfloat16."""
    if name == "bfloat16":
        return pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    return np.dtype(name)


def numbers(rng: Any, shape: tuple[int, ...], dtype: str, order: str = "C", at: int = 0) -> Any:
    """Numbers of every size, and special ones, that begin `at` elements into their memory, with a
    guard of sevens before and behind."""
    wide = data(rng, shape, "float32" if dtype in ("float16", "bfloat16") else dtype, order)
    room = np.full(at + wide.size + 9, 7, dtype_of(dtype))
    x = room[at : at + wide.size].reshape(shape, order=order)
    with np.errstate(all="ignore"):
        x[...] = wide
    return x


def guarded(x: Any) -> None:
    """Fail if something has been written beside an array."""
    at = (x.ctypes.data - x.base.ctypes.data) // x.itemsize
    beside = np.delete(x.base.astype(_widened(x.dtype)), np.s_[at : at + x.size])
    assert (beside == 7).all()


class Reference:
    """The reference on NumPy. bfloat16, which NumPy lacks, is rounded between steps of float32:
    that is what the reference does with half precision."""

    def __init__(self, params: list[Any], make: Any) -> None:
        self.half = [x for x in params if x.dtype.name == "bfloat16"]
        self.params = [x.astype(np.float32) for x in params] if self.half else params
        self.opt = make(self.params)

    def step(self, grads: list[Any]) -> None:
        self.opt.step([None if g is None else g.astype(_widened(g.dtype)) for g in grads])
        with np.errstate(all="ignore"):
            for narrow, wide in zip(self.half, self.params, strict=False):
                narrow[...] = wide
                wide[...] = narrow


def _widened(dtype: Any) -> Any:
    """A dtype that NumPy has, and that holds all its numbers."""
    return np.float32 if dtype.name == "bfloat16" else dtype


def compare(fast: Any, slow: Reference, params: list[Any], theirs: list[Any]) -> None:
    """Parameters and moments must have the same bits, and step counts must be equal."""
    for mine, other in zip(params, theirs, strict=True):
        same(*(x.astype(_widened(x.dtype)) for x in (mine, other)))
    mine, other = fast.state_dict()["state"], slow.opt.state_dict()["state"]
    for path, entry in other.items():
        assert mine[path]["step"] == entry["step"]
        for name in set(entry) - {"step"}:
            same(emulated.numpy(mine[path][name]), entry[name])


@contextlib.contextmanager
def chunks_of(n: int) -> Any:
    """Chunks of a length, while it lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "longest", lambda elements: n)
        yield


def run(
    shapes: list[tuple[int, ...]],
    dtype: str,
    make: Any,
    *,
    seed: int = 0,
    orders: str = "CFCFCF",
    starts: Any = (0, 1, 2, 3, 0, 5),
    other: str | None = None,
    steps: int = 3,
) -> tuple[Any, ...]:
    """Step both: the second gradients in another order, at the second step the first of them of
    another dtype, and at the third step the last of them None."""
    rng = np.random.default_rng(seed)
    orders, starts = itertools.cycle(orders), itertools.cycle(starts)
    params = [numbers(rng, s, dtype, next(orders), next(starts)) for s in shapes]
    theirs = [x.copy(order="K") for x in params]
    fast = make([array(x) for x in params])
    slow = Reference(theirs, lambda x: make(x, engine="eager"))
    assert {choice.engine for choice in fast.explain()} == {"cuda"}
    for t in range(steps):
        grads = [numbers(rng, s, dtype, next(orders), next(starts)) for s in shapes]
        if t == 1 and other is not None:
            grads[0] = numbers(rng, shapes[0], other, next(orders), next(starts))
        given = [array(g) for g in grads]
        if t == 2:
            grads[-1] = given[-1] = None
        before = [None if g is None else g.copy() for g in grads]
        fast.step(given), slow.step(grads)
        for g, old in zip(grads, before, strict=True):
            assert g is None or g.tobytes() == old.tobytes()  # gradients are never written
    for x in params:
        guarded(x)
    return fast, slow, params, theirs


@pytest.mark.promise(
    "The text of the CUDA kernels, run without a GPU, has the bits of the reference.",
    defect="D19",
    seen=["DeepSpeed#8307", "bitsandbytes#2010", "torch#88258"],
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=40,
)
@given(
    seed=st.integers(0, 2**32),
    shapes=st.lists(SHAPES, min_size=1, max_size=5),
    dtype=st.sampled_from(HERE),
    other=st.sampled_from([x for x in HERE if x in REALS]),
    orders=st.text("CF", min_size=6, max_size=6),
    starts=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    cls=st.sampled_from([Adam, AdamW]),
    options=OPTIONS,
    chunk=st.sampled_from([1, 6, 64, 2048]),
)
def test_the_bits_are_those_of_the_reference(
    emulation: Any,
    seed: int,
    shapes: Any,
    dtype: str,
    other: str,
    orders: str,
    starts: list[int],
    cls: Any,
    options: dict[str, Any],
    chunk: int,
) -> None:
    if dtype.startswith("complex"):
        other = "complex128" if other == "float64" else "complex64"
    with chunks_of(chunk):
        compare(
            *run(
                shapes,
                dtype,
                lambda p, **engine: cls(p, **options, **engine),
                seed=seed,
                orders=orders,
                starts=starts,
                other=other,
            )
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pair_of_dtypes(emulation: Any, dtype: str) -> None:
    """A parameter of each dtype with a gradient of each."""
    others = ("complex64", "complex128") if dtype.startswith("complex") else REALS
    for other in others:
        compare(*run([(701,), (9,), (0,)], dtype, Adam, other=other))


def test_optimised_as_far_as_it_goes_the_bits_are_the_same(
    emulation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "FLAGS", ("-O3", "-march=native", *emulated.FLAGS[1:]))
    emulated.kernel.cache_clear()
    try:
        for dtype in ("float32", "float64"):
            compare(*run([(5000,), (77,)], dtype, lambda p, **e: AdamW(p, amsgrad=True, **e)))
    finally:
        emulated.kernel.cache_clear()


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(n, "float32") for n in (1, 64, 65, 512, 513, 4000, 4001, 8003)]
    + [(65, dtype) for dtype in ("float16", "float64", "complex64")],
)
def test_many_leaves_take_one_launch_for_each_4000(
    emulation: type[Device], number: int, dtype: str
) -> None:
    shapes = [(k % 7,) for k in range(number)]  # every seventh is empty
    result = run(shapes, dtype, Adam, steps=1)
    compare(*result)
    assert emulation.launches == (0 if number == 1 else -(-number // 4000))
    assert set(result[0].steps.values()) == {1}


@pytest.mark.parametrize(
    "shapes", [[(5,), (0,)], [(0,), (5,)], [(0,)], [()], [(1,)], [(0, 3), (2, 2), (0,), (3,)]]
)
def test_empty_leaves_never_hide_their_neighbours(emulation: Any, shapes: Any) -> None:
    fast, *rest = run(shapes, "float32", Adam, steps=2)
    compare(fast, *rest)
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


def test_gradients_of_several_dtypes_take_a_launch_for_each_dtype(
    emulation: type[Device],
) -> None:
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


def test_a_gradient_may_be_its_parameter_or_overlap_another(emulation: Any) -> None:
    def tree() -> list[Any]:
        base = np.random.default_rng(0).standard_normal(1000)
        return [base[:500], base[500:]]

    ours, theirs = tree(), tree()
    fast, slow = Adam([array(x) for x in ours]), Adam(theirs, engine="eager")
    for mine in (
        lambda x: [x[0], x[1]],
        lambda x: [x[1], x[0]],
        lambda x: [x[0].base[250:750], x[0].base[1:501]],
        lambda x: [x[0][::-1], x[1]],
    ):
        fast.step([array(g) for g in mine(ours)]), slow.step(mine(theirs))
    compare(fast, SimpleNamespace(opt=slow), ours, theirs)


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
@pytest.mark.parametrize(
    "change",
    [
        lambda g: np.asfortranarray(g),
        lambda g: np.repeat(g, 2, axis=1)[:, ::2],
        lambda g: np.broadcast_to(g[:1], g.shape),
        lambda g: g[::-1, ::-1],
        lambda g: np.frombuffer(bytearray(b"x" + g.tobytes()), g.dtype, offset=1).reshape(g.shape),
    ],
    ids=["order", "gaps", "broadcast", "backwards", "unaligned"],
)
def test_a_gradient_in_whatever_memory_is_read_and_never_written(
    emulation: Any, change: Any, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    p = data(rng, (7, 90), dtype)
    q, g = p.copy(), change(data(rng, (7, 90), dtype))
    before = g.copy()
    fast, slow = Adam([array(p)]), Adam([q], engine="eager")
    fast.step([array(g)]), slow.step([g])
    compare(fast, SimpleNamespace(opt=slow), [p], [q])
    same(g, before)


def test_an_address_that_a_gpu_cannot_read_at_is_no_address(emulation: Any) -> None:
    """A CPU can, so the bits would not tell."""
    opt = Adam([array(np.zeros(3, np.float32))])
    room = np.zeros(16, np.uint8)
    for start, readable in ((0, True), (4, True), (2, False), (1, False)):
        g = array(room[start : start + 12].view(np.float32))
        opt.step([g])
        arrays = opt._plans[0]._arrays
        assert (arrays.addresses([g]) == [g.data.ptr]) is readable
        assert arrays.readable(opt._plans[0].leaves[0], g) is readable


def test_an_empty_gradient_of_another_dtype_takes_no_launch(emulation: type[Device]) -> None:
    params = [array(np.zeros(n, np.float32)) for n in (3, 0)]
    opt = Adam(params)
    opt.step([array(np.ones(3, np.float32)), array(np.ones(0, np.float64))])
    assert emulation.launches == 1
    assert opt.steps == {"0": 1, "1": 1}


def test_a_leaf_that_is_not_dense_is_left_to_the_reference(emulation: Any) -> None:
    base, dense = np.zeros((3, 8), np.float32), np.zeros((2, 3, 4), np.float32)
    opt = Adam({"gaps": array(base[:, ::2]), "order": array(dense.transpose(2, 0, 1))})
    reasons = {choice.path: (choice.engine, choice.reason) for choice in opt.explain()}
    assert reasons["gaps"] == ("eager", "'gaps' is not dense: strides (32, 8) for shape (3, 4)")
    assert reasons["order"][0] == "cuda"


def test_a_state_goes_to_the_cpu_and_back_exactly(emulation: Any) -> None:
    rng = np.random.default_rng(0)
    p = data(rng, (999,), "float32")
    q, grads = p.copy(), [data(rng, (999,), "float32") for _ in range(6)]
    alone = Adam(q)
    for g in grads:
        alone.step(g)
    on_gpu = Adam(array(p))
    [on_gpu.step(array(g)) for g in grads[:2]]
    on_cpu = Adam(p)
    on_cpu.load_state_dict(on_gpu.state_dict())
    [on_cpu.step(g) for g in grads[2:4]]
    on_gpu = Adam(array(p))
    on_gpu.load_state_dict(on_cpu.state_dict())
    [on_gpu.step(array(g)) for g in grads[4:]]
    same(p, q)
    same(
        emulated.numpy(on_gpu.state_dict()["state"][""]["v"]), alone.state_dict()["state"][""]["v"]
    )


@pytest.mark.parametrize("dtype", ["float32", "complex64", "bfloat16"])
def test_moments_of_any_layout_are_laid_out_as_their_parameter(emulation: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    p = numbers(rng, (5, 6, 7), dtype, "F")
    q = p.copy(order="K")
    fast, slow = Adam([array(p)]), Reference([q], lambda x: Adam(x, engine="eager"))
    for _ in range(2):
        g = numbers(rng, (5, 6, 7), dtype)
        fast.step([array(g)]), slow.step([g])
        state = fast.state_dict()
        for name in ("m", "v"):
            state["state"]["0"][name] = np.ascontiguousarray(
                emulated.numpy(state["state"]["0"][name])
            )
        fast.load_state_dict(state)
    compare(fast, slow, [p], [q])


# Rules of the user's own, and every operation.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "rule",
    [
        Custom(every_operation),
        Custom(lambda xp, c, p, g, m: (xp.maximum(-p, p), xp.sign(m * g))),
        Custom(lambda xp, c, p, g, m: (m, p)),  # both change places
        Custom(lambda xp, c, p, g, m: (p * float("inf"), -m)),
        "lion",
    ],
    ids=["operations", "zeros", "swap", "constant", "lion"],
)
def test_a_rule_of_the_users_own(emulation: Any, rule: Any, dtype: str) -> None:
    rule = lion()(lr=0.1, weight_decay=0.1) if rule == "lion" else rule
    compare(*run([(1001,), (33,)], dtype, lambda p, **engine: Optimizer(p, rule, **engine)))


@pytest.mark.parametrize(
    ("ties", "greater", "lesser"),
    [
        (operations.TIES[0], [True, False], [True, False]),
        (operations.TIES[1], [False, True], [False, True]),
        (operations.TIES[2], [False, False], [True, True]),
    ],
    ids=["second", "first", "ordered"],
)
def test_zeros_are_chosen_as_each_numpy_chooses_and_nans_by_all(
    emulation: Any, monkeypatch: pytest.MonkeyPatch, ties: Any, greater: Any, lesser: Any
) -> None:
    monkeypatch.setattr(operations, "ties", lambda: ties)
    p = np.array([0.0, -0.0, np.nan, 1.0, np.nan, 2.0], np.float32)
    g = np.array([-0.0, 0.0, 1.0, np.nan, np.nan, 3.0], np.float32)
    opt = Optimizer(array(p), Custom(lambda xp, c, p, g, m: (xp.maximum(p, g), xp.minimum(p, g))))
    opt.step(array(g))
    m = emulated.numpy(opt.state_dict()["state"][""]["m"])
    for x, signs, last in ((p, greater, 3.0), (m, lesser, 2.0)):
        assert x[:2].tolist() == [0.0, 0.0]
        assert np.signbit(x[:2]).tolist() == signs
        assert np.isnan(x[2:5]).all()
        assert x[5] == last


# That the tests above can fail.

LINES = [
    f"t{k} = {text};"
    for k, text in enumerate(
        [
            "g - s_m", "c_w1 * t0", "s_m + t1", "g * g", "t3 - s_v", "c_w2 * t4", "s_v + t5",
            "sqrt(t6)", "t7 * c_s", "t8 + c_eps", "t2 / t9", "c_alpha * t10", "p - t11",
        ]
    )
]  # fmt: skip
SWAP = str.maketrans("+-*/", "-+/*")
CHANGES = {
    **{line: (line, line.replace("sqrt", "abs").translate(SWAP)) for line in LINES},
    "contracted": ("c_alpha * t10", "real(double(c_alpha) * t2 / t9)"),
    "fused": ("s_m + t1", "fmaf(c_w1, t0, s_m)"),
    "flushed": ("= value(g_at);", "= value(g_at) * (fabs(value(g_at)) > 1.2e-38);"),
    "no tail": ("for (int i = whole + threadIdx.x;", "for (int i = n;"),
    "no body": ("i < whole;", "i < 0;"),
    "one step of the body": ("i += 256 * 4", "i += n"),
    "one step of the tail": ("i < n; i += 256", "i < n; i += n"),
    "no start": ("<parameter>(state[0], start)", "<parameter>(state[0], 0)"),
    "moment not stored": ("s_v_at = t6;", ""),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_the_generated_text_is_seen(
    emulation: type[Device], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    old, new = CHANGES[change]

    def changed(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    monkeypatch.setattr(emulation, "change", staticmethod(changed))
    with chunks_of(2048):
        _, _, mine, theirs = run([(5003,), (5003,)], "float32", Adam)
    assert any(map(differ, mine, theirs))


@pytest.mark.parametrize(
    ("dtype", "old", "new"),
    [
        ("float16", 'place.bits, "f", x)', 'place.bits, "f", x * 1.0001f)'),
        ("bfloat16", "0x7fff + (bits >> 16 & 1)", "0x8000"),
        ("bfloat16", "x != x ? 0x7fff :", "false ? 0 :"),
    ],
)
def test_a_change_in_a_conversion_is_seen(
    emulation: type[Device], monkeypatch: pytest.MonkeyPatch, dtype: str, old: str, new: str
) -> None:
    def changed(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    monkeypatch.setattr(emulation, "change", staticmethod(changed))
    unit = 2.0**-11 if dtype == "float16" else 2.0**-8
    x = np.array([1 + unit, 1 + 3 * unit, np.nan], np.float32)  # two ties, and a NaN
    x.view(np.uint32)[2] = 0x7FFFFFFF  # a GPU's NaN, whose upper half would round to -0
    p = np.zeros(3, dtype_of(dtype))
    Optimizer(array(p), Custom(lambda xp, c, p, g, m: (g, m))).step(array(x))
    assert differ(p.astype(np.float32), x.astype(dtype_of(dtype)).astype(np.float32))


# The parts.


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("compute", ["float32", "float64"])
@pytest.mark.parametrize("rule", [Rule(), Rule(amsgrad=True, weight_decay=0.1), None])
def test_an_argument_is_laid_out_as_the_compiler_does_and_fits(
    request: pytest.FixtureRequest, emulation: Any, capacity: int, compute: str, rule: Any
) -> None:
    rule = rule or Custom(lambda xp, c, p, g, m: (p - g, m))  # no scalars at all
    text = cuda_source(Kind(program(rule), compute, compute, compute), capacity)
    head, gradients = layout(program(rule), compute, capacity)
    assert f"sizeof(Args) == {struct.calcsize(head + gradients)}," in text  # which g++ then asserts
    emulated.kernel(text)
    assert struct.calcsize(head) % 8 == 0
    assert struct.calcsize(head + gradients) <= 32764


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conversions_of_half_precision_are_those_of_numpy(emulation: Any, dtype: str) -> None:
    """Every number of 16 bits to float32 and back, and float32 of every size to 16 bits."""
    half = dtype_of(dtype)
    rule = Custom(lambda xp, c, p, g, m: (g, g))  # p: to half; m: from half
    every = np.arange(65536, dtype=np.uint16).view(half)
    p = np.zeros(65536, half)
    opt = Optimizer(array(p), rule)
    opt.step(array(every))
    same(p.astype(np.float32), every.astype(np.float32))
    same(emulated.numpy(opt.state_dict()["state"][""]["m"]), every.astype(np.float32))
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        between = (every[:-1].astype(np.float32) + every[1:].astype(np.float32)) / 2  # all ties
    bits = np.concatenate([rng.integers(0, 2**32, 10**6, np.uint32), between.view(np.uint32)])
    bits = np.concatenate([bits, bits + 1, bits - 1])
    x, p = bits.view(np.float32), np.zeros(len(bits), half)
    Optimizer(array(p), rule).step(array(x))
    with np.errstate(all="ignore"):
        same(p.astype(np.float32), x.astype(half).astype(np.float32))


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


@pytest.mark.promise("A CUDA kernel computes addresses in 64 bits.", defect="D7")
def test_a_kernel_adds_offsets_in_64_bits(emulation: Any) -> None:
    """The addresses are 2**35 bytes before the arrays, and the chunk as far behind them."""
    start = 2**33
    p, g, m, v = (np.full(8, x, np.float32) for x in (1.0, 1.0, 0.0, 0.0))
    made = program(Rule())
    state = np.array([[x.ctypes.data - start * 4 for x in (p, m, v)]])
    chunk = np.array([[0, start, 8]])
    head, gradients = layout(made, "float32", 64)
    values = {"c_alpha": 0.5, "c_s": 1.0, "c_w1": 1.0, "c_w2": 1.0, "c_eps": 0.0}
    argument = np.zeros(struct.calcsize(head + gradients), np.uint8)
    places = state.ctypes.data, chunk.ctypes.data
    struct.pack_into(head, argument, 0, *places, *(values[x] for x in made.scalars))
    struct.pack_into("q", argument, struct.calcsize(head), g.ctypes.data - start * 4)
    text = cuda_source(Kind(made, "float32", "float32", "float32"), 64)
    emulated.kernel(text)(1, argument.ctypes.data)
    assert p.tolist() == [0.5] * 8


# torch: the same engine on torch's tensors, here in the host's memory.


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_tensors_have_the_bits_of_numpy(
    emulation: type[Device], monkeypatch: pytest.MonkeyPatch, torch_: Any, dtype: str
) -> None:
    monkeypatch.setattr(engines, "_FAST", {"torch": "cuda"})
    monkeypatch.setattr(device, "number", lambda leaf: 0)
    rng = np.random.default_rng(0)
    shapes, orders = [(1000,), (7, 9), (), (0, 2)], "CFCC"
    arrays = [numbers(rng, s, dtype, o) for s, o in zip(shapes, orders, strict=True)]
    tensors = [tensor(torch_, x) for x in arrays]
    tensors[0].requires_grad_()
    fast = Adam(tensors, amsgrad=True, weight_decay=0.1)
    slow = Reference(arrays, lambda x: Adam(x, amsgrad=True, weight_decay=0.1, engine="eager"))
    assert {choice.engine for choice in fast.explain()} == {"cuda"}
    for t in range(4):
        grads = [numbers(rng, s, dtype, "CF"[t % 2]) for s in shapes]
        lazy = [tensor(torch_, g) for g in grads]
        if t == 3 and dtype.startswith("complex"):
            lazy, grads = [g.conj() for g in lazy], [g.conj() for g in grads]
        versions = [x._version for x in tensors]
        fast.step(lazy), slow.step(grads)
        assert [x._version for x in tensors] == [n + 1 for n in versions]
        assert emulation.launches == t + 1
    for mine, theirs in zip(tensors, arrays, strict=True):
        same(values(torch_, mine), theirs.astype(_widened(theirs.dtype)))


def tensor(torch: Any, x: Any) -> Any:
    """A tensor with these numbers, laid out alike."""
    if x.dtype.name == "bfloat16":
        bits = np.array(x.view(np.uint16), order="K", copy=True)
        return torch.from_numpy(bits).view(torch.bfloat16)
    return torch.from_numpy(x.copy(order="K"))


def values(torch: Any, x: Any) -> Any:
    """Its numbers, in NumPy."""
    x = x.detach()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def test_a_tensor_whose_data_is_replaced_is_followed(
    emulation: Any, monkeypatch: pytest.MonkeyPatch, torch_: Any
) -> None:
    monkeypatch.setattr(engines, "_FAST", {"torch": "cuda"})
    monkeypatch.setattr(device, "number", lambda leaf: 0)
    p = torch_.nn.Parameter(torch_.zeros(5))
    opt = Adam(p, lr=1.0)
    opt.step(torch_.ones(5))
    old = p.data
    p.data = torch_.full((5,), 10.0)
    opt.step(torch_.ones(5))
    assert (p.tolist(), old.tolist()) == ([9.0] * 5, [-1.0] * 5)


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
    made = engines.choose(Rule(), leaf, None)
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


def test_a_tensor_on_the_cpu_goes_to_the_cpu_engine(torch_: Any) -> None:
    (choice,) = Adam(torch_.zeros(3)).explain()
    assert choice.engine == "cpu"
    assert "cupy" not in choice.reason


def test_more_scalars_than_an_argument_holds_are_refused(emulation: Any) -> None:
    def update(xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, Any]:
        for k in range(200):
            p = p + g * float(k)
        return p, m

    (choice,) = Optimizer(array(np.zeros(3, np.float32)), Custom(update)).explain()
    assert choice.engine == "eager"
    assert choice.reason == "the rule has 200 scalars, too many for a kernel's argument"
