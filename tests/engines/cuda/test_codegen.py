"""The text of CUDA kernels, run on the CPU: its parts, and that a change in it is seen."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW, Optimizer
from adam_any.engines.cuda.codegen import CAPACITIES, THREADS, cuda_source, layout
from adam_any.engines.kernels import operations
from adam_any.engines.kernels.program import Kind
from adam_any.engines.kernels.program import trace as program
from adam_any.rules import Adam as Rule
from tests.helpers import emulated
from tests.helpers.bits import differ
from tests.helpers.dense import compare, cut, dtype_of, run
from tests.helpers.emulated import Device, array
from tests.helpers.libraries import named
from tests.helpers.rules import Custom

CUPY = named("cupy-emulated")


@pytest.mark.promise(
    "The text of the CUDA kernels, run without a GPU, has the bits of the reference.",
    defect="D19",
    seen=["DeepSpeed#8307", "bitsandbytes#2010", "torch#88258"],
)
def test_optimised_as_far_as_it_goes_the_bits_are_the_same(
    emulation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "FLAGS", ("-O3", "-march=native", *emulated.FLAGS[1:]))
    emulated.kernel.cache_clear()
    try:
        for dtype in ("float32", "float64"):
            shapes = [(5000,), (77,)]
            compare(CUPY, *run(CUPY, shapes, dtype, lambda p, **e: AdamW(p, amsgrad=True, **e)))
    finally:
        emulated.kernel.cache_clear()


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


# That the tests of the bits can fail.

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
    "flushed": ("= value(at_g);", "= value(at_g) * (fabs(value(at_g)) > 1.2e-38);"),
    "no tail": ("for (int i = whole + threadIdx.x;", "for (int i = n;"),
    "no body": ("i < whole;", "i < 0;"),
    "one step of the body": ("i += 256 * 4", "i += n"),
    "one step of the tail": ("i < n; i += 256", "i < n; i += n"),
    "no start": ("<parameter>(state[0], start)", "<parameter>(state[0], 0)"),
    "moment not stored": ("at_s_v = t6;", ""),
}  # fmt: skip


def changed(old: str, new: str) -> Any:
    """A change to the text of each kernel."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return staticmethod(change)


@pytest.mark.parametrize(
    "change", [pytest.param(x, marks=[pytest.mark.slow] if x in LINES else []) for x in CHANGES]
)
def test_a_change_in_the_generated_text_is_seen(
    emulation: type[Device], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(emulation, "change", changed(*CHANGES[change]))
    with cut(2048):
        fast, slow = run(CUPY, [(5003,), (5003,)], "float32", Adam)
    assert any(differ(CUPY.bits(x), y) for x, y in zip(fast.params, slow.params, strict=True))


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
    monkeypatch.setattr(emulation, "change", changed(old, new))
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
    word = np.zeros(1, np.int64)
    places = state.ctypes.data, chunk.ctypes.data, word.ctypes.data
    struct.pack_into(head, argument, 0, *places, 7, *(values[x] for x in made.scalars))
    struct.pack_into("q", argument, struct.calcsize(head), g.ctypes.data - start * 4)
    text = cuda_source(Kind(made, "float32", "float32", "float32"), 64)
    emulated.kernel(text)(1, THREADS, argument.ctypes.data)
    assert p.tolist() == [0.5] * 8 and word == 7
