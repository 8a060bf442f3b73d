"""The engines of dense memory, on every library that lends it, against the reference, bit by bit.

A kernel is made by Numba, interpreted in tiles, or launched on a GPU: or its text is compiled by
g++ and run on the CPU, where everything of the CUDA engine but the device is real.
"""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adam_any import Adam, AdamW, Optimizer, rule_check, rules
from adam_any.engines.cpu import engine as cpu
from tests.helpers.bits import same
from tests.helpers.dense import (
    KERNELS,
    Reference,
    compare,
    cut,
    dtype_of,
    dtypes,
    gradients,
    numbers,
    run,
    widened,
)
from tests.helpers.libraries import Lib, params
from tests.helpers.numbers import OPTIONS, SHAPES
from tests.helpers.rules import Custom, every_operation, lion


@pytest.mark.promise(
    "The engines of dense memory have the bits of the reference, in any memory order, chunks and"
    " threads, on a GPU and on PyTorch's tensors, too.",
    defect="D19",
    seen=["DeepSpeed#8307", "bitsandbytes#2010", "torch#88258"],
)
@pytest.mark.filterwarnings("ignore:every gradient is None")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    data=st.data(),
    seed=st.integers(0, 2**32),
    shapes=st.lists(SHAPES, min_size=1, max_size=5),
    orders=st.text("CF", min_size=6, max_size=6),
    starts=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    cls=st.sampled_from([Adam, AdamW]),
    options=OPTIONS,
    chunk=st.sampled_from([1, 6, 17, 64, 2048, 16384]),
    threads=st.integers(1, 4),
)
def test_the_bits_are_those_of_the_reference(
    kernel: Lib,
    data: st.DataObject,
    seed: int,
    shapes: Any,
    orders: str,
    starts: list[int],
    cls: Any,
    options: dict[str, Any],
    chunk: int,
    threads: int,
) -> None:
    dtype = data.draw(st.sampled_from(dtypes(kernel)))
    other = data.draw(st.sampled_from(gradients(kernel, dtype)))
    with cut(chunk, threads):
        compare(
            kernel,
            *run(
                *(kernel, shapes, dtype, lambda p, **engine: cls(p, **options, **engine)),
                **{"seed": seed, "orders": orders, "starts": starts, "other": other},
            ),
        )


@pytest.mark.promise(
    "PyTorch's tensors get the bits of NumPy's arrays.", defect="D19", seen=["bitsandbytes#2010"]
)
def test_every_pair_of_dtypes(kernel: Lib) -> None:
    """A parameter of each dtype with a gradient of each."""
    for dtype in dtypes(kernel):
        for other in gradients(kernel, dtype):
            compare(kernel, *run(kernel, [(701,), (9,), (), (0,)], dtype, Adam, other=other))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conversions_of_half_precision_are_those_of_numpy(kernel: Lib, dtype: str) -> None:
    """Every number of 16 bits to float32 and back, and float32 of every size to 16 bits."""
    half = dtype_of(dtype)
    rule = Custom(lambda xp, c, p, g, m: (g, p))  # p: to half, of g; m: from half, of p
    every = np.arange(65536, dtype=np.uint16).view(half)
    p = every[::-1].copy()
    opt = Optimizer(kernel.view(p), rule)
    assert opt.explain()[0].engine == kernel.runs
    opt.step(kernel.view(every))
    same(widened(kernel.bits(opt.params)), widened(every))
    same(kernel.bits(opt.state_dict()["state"][""]["m"]), every[::-1].astype(np.float32))
    with np.errstate(all="ignore"):
        between = (every[:-1].astype(np.float32) + every[1:].astype(np.float32)) / 2  # all ties
        bits = np.random.default_rng(0).integers(0, 2**32, 10**5, np.uint32)
        bits = np.concatenate([bits, between.view(np.uint32)])
        x = np.concatenate([bits, bits + 1, bits - 1, [0x7FFFFFFF]]).astype(np.uint32).view("f4")
        opt = Optimizer(kernel.view(np.zeros(len(x), half)), rule)
        opt.step(kernel.view(x))
        same(widened(kernel.bits(opt.params)), widened(x.astype(half)))


def test_a_gradient_may_be_its_parameter_or_overlap_another(kernel: Lib) -> None:
    host = np.random.default_rng(0).standard_normal(1000)
    slow_base = host.copy()
    base = kernel.view(host)
    fast = Adam([base[:500], base[500:]])
    slow = Reference([slow_base[:500], slow_base[500:]], Adam)
    for mine in (
        lambda x: [x[:500], x[500:]],
        lambda x: [x[500:], x[:500]],
        lambda x: [x[250:750], x[1:501]],
    ):
        fast.step(mine(base)), slow.step(mine(slow_base))
    compare(kernel, fast, slow)


def _read_only(g: Any) -> Any:
    g.flags.writeable = False
    return g


LAYOUTS = {
    "another order": np.asfortranarray,
    "gaps": lambda g: np.repeat(g, 2, axis=1)[:, ::2],
    "broadcast": lambda g: np.broadcast_to(g[:1], g.shape),
    "backwards": lambda g: g[::-1, ::-1],
    "unaligned": lambda g: np.frombuffer(bytearray(b"x" + g.tobytes()), g.dtype, offset=1).reshape(
        g.shape
    ),
    "read-only": _read_only,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gradient_in_whatever_memory_is_read_and_never_written(
    kernel: Lib, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(cpu, "PIECE", 1000)  # several pieces, that end within rows
    rng = np.random.default_rng(0)
    for dtype in {"float16", "bfloat16", "float32", "complex64"} & set(dtypes(kernel)):
        p = numbers(rng, (7, 900), dtype)
        slow = Reference([p.copy()], Adam)
        fast = Adam([kernel.view(p)])
        g = LAYOUTS[layout](numbers(rng, (7, 900), dtype))
        before = g.copy()
        fast.step([kernel.view(g)]), slow.step([g])
        compare(kernel, fast, slow)
        same(g, before)


@pytest.mark.parametrize("way", ["load", "pickle", "copy"])
def test_moments_of_any_layout_are_laid_out_as_their_parameter(kernel: Lib, way: str) -> None:
    rng = np.random.default_rng(0)
    for dtype in dtypes(kernel):
        hosts = [numbers(rng, (5, 6, 7), dtype, "F"), numbers(rng, (6, 5, 7), dtype)]
        hosts[1] = hosts[1].transpose(1, 0, 2)
        slow = Reference([x.copy(order="K") for x in hosts], Adam)
        fast = Adam([kernel.view(x) for x in hosts])
        for _ in range(2):
            grads = [numbers(rng, (5, 6, 7), dtype) for _ in hosts]
            fast.step([kernel.view(g) for g in grads]), slow.step(grads)
            if way == "load":
                state = fast.state_dict()
                for entry in state["state"].values():
                    entry["m"] = np.ascontiguousarray(kernel.bits(entry["m"]))
                    entry["v"] = kernel.bits(entry["v"]).copy("F")
                fast.load_state_dict(state)
            else:
                fast = pickle.loads(pickle.dumps(fast)) if way == "pickle" else copy.deepcopy(fast)
        compare(kernel, fast, slow)


def test_a_state_goes_to_the_reference_and_back_exactly(kernel: Lib) -> None:
    rng = np.random.default_rng(0)
    p = numbers(rng, (999,), "float32")
    grads = [numbers(rng, (999,), "float32") for _ in range(6)]
    alone = Adam(p.copy(), engine="eager")
    for g in grads:
        alone.step(g)
    fast, state = Adam(kernel.view(p)), None
    for t in range(0, 6, 2):
        here = t != 2
        x = fast.params if here or t == 0 else kernel.bits(fast.params).copy()
        opt = Adam(x, engine=None if here else "eager")
        if state is not None:
            opt.load_state_dict(state)
        for g in grads[t : t + 2]:
            opt.step(kernel.view(g) if here else g)
        state = opt.state_dict()
        fast = opt if here else Adam(kernel.view(opt.params))
    same(kernel.bits(fast.params), alone.params)
    same(kernel.bits(state["state"][""]["v"]), alone.state_dict()["state"][""]["v"])


@pytest.mark.parametrize(
    "kernel", params(tuple(kernel for kernel in KERNELS if kernel.name == "torch")), indirect=True
)
def test_a_tensor_whose_data_is_replaced_is_followed(kernel: Lib) -> None:
    p = kernel.module.nn.Parameter(kernel.array(np.zeros(5), "float32"))
    opt = Adam(p, lr=1.0)
    opt.step(kernel.array(np.ones(5), "float32"))
    old = p.data
    p.data = kernel.array(np.full(5, 10.0), "float32")
    opt.step(kernel.array(np.ones(5), "float32"))
    assert (p.tolist(), old.tolist()) == ([9.0] * 5, [-1.0] * 5)


RULES = {
    "every operation": every_operation,
    "maximum and minimum": lambda xp, c, p, g, m: (xp.maximum(p, g), xp.minimum(p, g)),
    "zeros": lambda xp, c, p, g, m: (xp.maximum(-p, p), xp.sign(m * g)),
    "a moment becomes the parameter": lambda xp, c, p, g, m: (xp.sign(g), p),
    "both change places": lambda xp, c, p, g, m: (m, p),
    "the gradient is kept": lambda xp, c, p, g, m: (g, m),
    "one result twice": lambda xp, c, p, g, m: (p - g, p - g),
    "a constant": lambda xp, c, p, g, m: (p * math.inf, -m),
    "the parameter after its new value": lambda xp, c, p, g, m: (p - c.a * g, (m + g) * (p * g)),
    "the moment after its new value": lambda xp, c, p, g, m: (p - (m + g) * m, m + g),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_of_the_users_own_has_the_bits_of_the_reference(
    kernel: Lib, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_check, "_check_order", lambda *_: None)  # some are in another order
    wanted = {"float32", "float64"}
    if kernel.tiles:  # elsewhere each is compiled
        wanted |= {"float16", "bfloat16"}
    for dtype in wanted & set(dtypes(kernel)):
        compare(kernel, *run(kernel, [(1001,), (33,)], dtype, _optimizer(Custom(RULES[rule]))))


def _optimizer(rule: Any) -> Any:
    return lambda params, **engine: Optimizer(params, rule, **engine)


@pytest.mark.promise("A rule of your own has the bits of the reference, too.")
def test_the_rule_on_the_page_has_the_same_bits_on_every_engine(kernel: Lib) -> None:
    rule = lion()(lr=0.1, weight_decay=0.1)
    for dtype in ("float32", "float64"):
        compare(kernel, *run(kernel, [(1001,), (33,)], dtype, _optimizer(rule)))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_gradient_that_is_its_parameter_is_read_before_it_is_written(
    kernel: Lib, dtype: str
) -> None:
    make = _optimizer(Custom(lambda xp, c, p, g, m: (p - c.a * g, m + g * g)))
    host = numbers(np.random.default_rng(0), (1001,), dtype)
    p, q = kernel.view(host.copy()), host.copy()
    fast, slow = make([p]), Reference([q], make)
    for _ in range(3):
        fast.step([p]), slow.step([q])
    compare(kernel, fast, slow)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_norm_over_half_precision_has_the_bits_of_the_reference(kernel: Lib, dtype: str) -> None:
    """Also where the gradient is wider."""
    make = _optimizer(rules.Clipped(rules.Adam(0.1), norm=2.0))
    rng, half = np.random.default_rng(0), dtype_of(dtype)
    host = rng.standard_normal(17_001).astype(half)
    fast, slow = make([kernel.view(host.copy())]), Reference([host.copy()], make)
    for kind in (half, half, np.float32):
        g = rng.standard_normal(17_001).astype(kind)
        fast.step([kernel.view(g)]), slow.step([g])
    compare(kernel, fast, slow)
