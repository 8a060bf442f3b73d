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

from adam_any import Adam, AdamW, Optimizer, rule_check
from adam_any.engines.cpu import engine as cpu
from tests.helpers.bits import same
from tests.helpers.dense import KERNELS, Reference, compare, cut, dtypes, gradients, numbers, run
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
    for dtype in {"float16", "float32", "complex64"} & set(dtypes(kernel)):
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
    for dtype in ("float32", "float64"):
        compare(kernel, *run(kernel, [(1001,), (33,)], dtype, _optimizer(Custom(RULES[rule]))))


def _optimizer(rule: Any) -> Any:
    return lambda params, **engine: Optimizer(params, rule, **engine)


@pytest.mark.promise("A rule of your own has the bits of the reference, too.")
def test_the_rule_on_the_page_has_the_same_bits_on_every_engine(kernel: Lib) -> None:
    rule = lion()(lr=0.1, weight_decay=0.1)
    for dtype in ("float32", "float64"):
        compare(kernel, *run(kernel, [(1001,), (33,)], dtype, _optimizer(rule)))


def test_a_gradient_that_is_its_parameter_is_read_before_it_is_written(kernel: Lib) -> None:
    make = _optimizer(Custom(lambda xp, c, p, g, m: (p - c.a * g, m + g * g)))
    host = numbers(np.random.default_rng(0), (1001,), "float32")
    p, q = kernel.view(host.copy()), host.copy()
    fast, slow = make([p]), Reference([q], make)
    for _ in range(3):
        fast.step([p]), slow.step([q])
    compare(kernel, fast, slow)
