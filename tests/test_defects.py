"""Defects that users met in other optimizers, each held absent on every library and engine.

The docstrings give the number of the case and the issue of a peer where it was met.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW

from . import oracle
from .conftest import as_bytes, snapshot
from .libraries import EPS, Lib


def value(xp: Lib, x: Any) -> float:
    return float(np.real(xp.numpy(x)).reshape(-1)[0])


def halves(xp: Lib) -> list[str]:
    return [dtype for dtype in xp.dtypes if dtype.endswith("float16")]


def test_bias_correction_uses_t(xp: Lib) -> None:
    """D1 (ODL, tike: the correction of the first step for ever): constant gradients move by lr."""
    steps = 100 if xp.slow else 2000
    x, last = xp.array(0.0), 0.0
    opt = Adam(x, lr=1e-2, eps=0.0, engine=xp.engine)
    for _ in range(steps):
        x = opt.step(xp.array(1.0))
        assert value(xp, x) - last == pytest.approx(-1e-2, abs=1e-12)
        last = value(xp, x)
    assert last == pytest.approx(-1e-2 * steps, abs=1e-9)


def test_hyperparameters_are_not_rounded_to_half_precision(xp: Lib) -> None:
    """D2 (keras-hub#2629: in bfloat16 0.999 is 1, and nothing moves)."""
    for dtype in halves(xp):
        ulp = EPS[dtype]
        opt = Adam(xp.array(1.0, dtype), lr=0.1, engine=xp.engine)
        assert value(xp, opt.step(xp.array(1.0, dtype))) == pytest.approx(0.9, abs=ulp)
        for _ in range(9):
            x = opt.step(xp.array(1.0, dtype))
        assert value(xp, x) == pytest.approx(0.0, abs=10 * 2 * ulp)

        seconds = []
        for beta2 in (0.999, 0.9999):
            opt = Adam(xp.array(1.0, dtype), betas=(0.9, beta2), engine=xp.engine)
            opt.step(xp.array(1.0, dtype))
            seconds.append(value(xp, opt.state_dict()["state"][""]["v"]))
        assert seconds == pytest.approx([1e-3, 1e-4], rel=1e-3)


def test_zero_gradients_in_half_precision_change_nothing(xp: Lib) -> None:
    """D3 (optax#1754: eps = 1e-8 is 0 in float16, and 0/0 is NaN)."""
    for dtype in (*halves(xp), "float32"):
        opt = Adam(xp.array([1.5, -0.0], dtype), engine=xp.engine)
        before = as_bytes(opt.params)
        for _ in range(3):
            opt.step(xp.array([0.0, 0.0], dtype))
        assert as_bytes(opt.params) == before


def test_gradients_are_never_written(xp: Lib) -> None:
    """D6 (mxnet#15759; thinc zeroes them)."""
    for dtype in xp.dtypes:
        g = xp.array([1.0, -2.0], dtype)
        if xp.name == "numpy":
            g.flags.writeable = False
        before = as_bytes(g)
        for kind in (Adam, AdamW):
            opt = kind(
                xp.array([1.0, 2.0], dtype), weight_decay=0.1, maximize=True, engine=xp.engine
            )
            opt.step(g)
            opt.step(g)
        assert as_bytes(g) == before


@pytest.mark.parametrize(
    "shapes",
    [[(5,), (0,)], [(0,), (5,)], [(0,)], [()], [(1,)], [(0, 3)], [(5,), (0, 3), (), (1,), (2, 2)]],
    ids=str,
)
def test_empty_leaves_hide_none_of_their_neighbours(xp: Lib, shapes: list[Any]) -> None:
    """D8 (TransformerEngine#3207: a trailing empty tensor skips the others)."""
    opt = Adam([xp.array(np.ones(shape)) for shape in shapes], lr=0.1, engine=xp.engine)
    for _ in range(2):
        out = opt.step([xp.array(np.full(shape, 2.0)) for shape in shapes])
    want = oracle.run(1.0, [2.0, 2.0], lr=0.1)[-1].p
    for x, shape in zip(out, shapes, strict=True):
        xp.check(x, "float64", shape)
        assert xp.numpy(x) == pytest.approx(np.full(shape, want), rel=8 * EPS["float64"])
    assert set(opt.steps.values()) == {2}


LAYOUTS = {
    "transposed": (lambda base: base.T, (6, 4)),
    "every other": (lambda base: base[::2, ...], (2, 6)),
    "column": (lambda base: base[:, 1], (4,)),
    "reversed": (lambda base: base[:, ::-1], (4, 6)),
    "inner": (lambda base: base[1:3, 2:5], (2, 3)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_parameters_are_updated_where_they_lie(xp: Lib, layout: str) -> None:
    """D9 (cupy#9275: views ignored; torch#118115: no update; torch#106951: refused)."""
    if xp.name == "torch" and layout == "reversed":
        pytest.skip("torch has no negative strides")
    view, shape = LAYOUTS[layout]
    for dtype in ("float32", "complex64"):
        values = np.arange(24.0).reshape(4, 6) * (1 + 2j if dtype == "complex64" else 1)
        base = xp.array(values, dtype)
        before = xp.numpy(base).copy()
        g = np.linspace(-1, 1, math.prod(shape)).reshape(shape)
        # The gradient in the other order, so that the two never match in memory.
        transposed = xp.array(np.ascontiguousarray(g.T), dtype)
        opt = Adam(view(base), lr=0.1, engine=xp.engine)
        contiguous = Adam(xp.array(view(values), dtype), lr=0.1, engine=xp.engine)
        for _ in range(2):
            out = opt.step(transposed.T if g.ndim == 2 else transposed)
            want = contiguous.step(xp.array(g, dtype))
        xp.check(out, dtype, shape)
        # torch's own sqrt depends on how the elements are laid out.
        bound = 16 * EPS["float32"] * np.maximum(np.abs(xp.numpy(want)), 0.1)
        assert np.all(np.abs(xp.numpy(out) - xp.numpy(want)) <= bound)
        if xp.in_place:
            view(before)[...] = xp.numpy(out)
        assert np.array_equal(xp.numpy(base), before)


def test_a_parameter_that_overlaps_itself_is_refused(xp: Lib) -> None:
    """D9, the case that cannot work: one element seen several times."""
    if xp.name == "torch":
        wide = xp.array([1.0]).expand(3)
    elif xp.name in ("numpy", "cupy"):
        strides = xp.module.lib.stride_tricks.as_strided
        wide = strides(xp.array([1.0, 2.0]), (2, 1, 3), (8, 8, 0))
    else:
        pytest.skip(f"{xp.name} has no arrays that overlap themselves")
    with pytest.raises(ValueError, match="'w': two of its elements share memory"):
        Adam({"w": wide}, engine=xp.engine)


def test_the_step_count_is_an_exact_int(xp: Lib) -> None:
    """D12 (ao#4915: bfloat16 counters stick at 256; float32 ones at 2^24)."""
    opt = Adam({"w": xp.array([1.0])}, lr=1e-3, engine=xp.engine)
    steps = 10 if xp.slow else 3000
    for _ in range(steps):
        opt.step({"w": xp.array([1.0])})
    assert opt.steps == {"w": steps}
    for start in (2**24, 2**40):
        for kind in (int, lambda n: xp.array(n), lambda n: xp.array([n])):
            state = opt.state_dict()
            state["state"]["w"]["step"] = kind(start)
            opt.load_state_dict(state)
            opt.step({"w": xp.array([1.0])})
            assert opt.steps == {"w": start + 1}
            assert type(opt.steps["w"]) is int


def test_the_step_count_ignores_torch_default_dtype(torch_: Any) -> None:
    """D12, where it was met: torch with bfloat16 as its default dtype."""
    torch_.set_default_dtype(torch_.bfloat16)
    try:
        opt = Adam(torch_.ones(2, dtype=torch_.float32))
        for _ in range(600):
            opt.step(torch_.ones(2, dtype=torch_.float32))
        assert opt.steps == {"": 600}
        assert opt.params.dtype == torch_.float32
        assert opt.state_dict()["state"][""]["v"].dtype == torch_.float32
    finally:
        torch_.set_default_dtype(torch_.float32)


@pytest.mark.parametrize("lr", [1e-3, np.float64(1e-3), np.float32(1e-3), 1], ids=repr)
def test_dtypes_never_drift(xp: Lib, lr: Any) -> None:
    """D13 (PennyLane, sklearn: a strong float64 scalar widens float32 arrays)."""
    for dtype in xp.dtypes:
        opt = Adam(xp.array([1.0, 2.0], dtype), lr=lr, engine=xp.engine)
        for _ in range(2):
            xp.check(opt.step(xp.array([1.0, 2.0], dtype)), dtype, (2,))
        compute = "float64" if dtype in ("float64", "complex128") else "float32"
        shape = (2, 2) if dtype.startswith("complex") else (2,)
        for name in ("m", "v"):
            xp.check(opt.state_dict()["state"][""][name], compute, shape)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_integers_are_refused(xp: Lib, dtype: str) -> None:
    """D13 (moments of integers stay 0)."""
    with pytest.raises(TypeError, match="'w': the parameter has dtype"):
        Adam({"w": xp.array([1, 0], dtype)}, engine=xp.engine)


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (1,), (), (3,), (5,)], ids=str)
def test_wrong_shapes_are_refused_and_nothing_is_broadcast(xp: Lib, shape: Any) -> None:
    """D14 (thinc#664: out of bounds; differentiation#1: a bias of (4,) grew to (4, 4))."""
    good = xp.array(np.ones(2))
    opt = Adam({"a": good, "w": xp.array(np.ones(4))}, engine=xp.engine)
    opt.step({"a": good, "w": xp.array(np.ones(4))})
    before = snapshot(opt)
    with pytest.raises(ValueError, match="'w': the gradient has shape"):
        opt.step({"a": good, "w": xp.array(np.ones(shape))})
    assert snapshot(opt) == before


def test_another_library_is_refused(xp: Lib) -> None:
    """D14, for libraries."""
    opt = Adam({"a": xp.array([1.0]), "w": xp.array([1.0])}, engine=xp.engine)
    before = snapshot(opt)
    other: Any = 1.0 if xp.name == "numpy" else np.ones(1)
    with pytest.raises(TypeError, match="'w': the gradient belongs to"):
        opt.step({"a": xp.array([1.0]), "w": other})
    assert snapshot(opt) == before


def test_another_device_is_refused() -> None:
    """D14, for devices; array-api-strict pretends to have several."""
    strict = pytest.importorskip("array_api_strict")
    there = strict.Device("device1")
    opt = Adam({"w": strict.ones(2, device=there)})
    before = opt.steps
    with pytest.raises(TypeError, match=r"'w': the gradient is on .*its parameter on"):
        opt.step({"w": strict.ones(2)})
    assert opt.steps == before
    opt.step({"w": strict.ones(2, device=there)})
    assert opt.params["w"].device == there


def test_complex_arrays_are_two_real_ones(xp: Lib) -> None:
    """D15 (torch#59998, keras#18372, optax#241): real and imaginary part step alone."""
    rng = np.random.default_rng(0)
    z, gs = rng.normal(size=(5, 2)) @ (1, 1j), rng.normal(size=(4, 5, 2)) @ (1, 1j)
    for dtype, part in (("complex64", "float32"), ("complex128", "float64")):
        for amsgrad in (False, True):
            options = {"lr": 0.1, "weight_decay": 0.1, "amsgrad": amsgrad, "engine": xp.engine}
            whole = Adam(xp.array(z, dtype), **options)
            real = Adam(xp.array(z.real, part), **options)
            imag = Adam(xp.array(z.imag, part), **options)
            for g in gs:
                out = whole.step(xp.array(g, dtype))
                re, im = real.step(xp.array(g.real, part)), imag.step(xp.array(g.imag, part))
            xp.check(out, dtype, (5,))
            want = xp.numpy(re) + 1j * xp.numpy(im)
            # Bit for bit but where a library's own sqrt depends on the layout.
            exact = xp.name in ("numpy", "dask", "array_api_strict")
            bound = 0 if exact else 4 * 4 * EPS[part] * np.maximum(np.abs(want), 0.1)
            assert np.all(np.abs(xp.numpy(out) - want) <= bound)


def test_complex_infinities_stay_in_their_part(xp: Lib) -> None:
    """D15: one part's infinity is not spread over the other by complex arithmetic."""
    opt = Adam(xp.array([1 + 1j], "complex128"), lr=0.1, engine=xp.engine)
    out = xp.numpy(opt.step(xp.array([complex(math.inf, 1.0)], "complex128")))
    assert np.isnan(out.real) and out.imag == pytest.approx([0.9])


def test_each_leaf_counts_its_own_steps(xp: Lib) -> None:
    """D17 (InfiniTrain#235: a late parameter's first update is 26 % too small)."""
    options = {"lr": 0.01, "eps": 0.0, "engine": xp.engine}
    opt = Adam({"a": xp.array(1.0), "b": xp.array(1.0)}, **options)
    opt.step({"a": xp.array(0.5), "b": None})
    assert opt.steps == {"a": 1, "b": 0}
    assert value(xp, opt.params["b"]) == 1.0
    opt.step({"a": xp.array(0.5), "b": xp.array(0.5)})
    assert opt.steps == {"a": 2, "b": 1}
    assert value(xp, opt.params["b"]) == pytest.approx(0.99, abs=1e-15)
    assert value(xp, opt.params["a"]) == pytest.approx(0.98, abs=1e-15)


def test_none_skips_and_zero_does_not(xp: Lib) -> None:
    """D17 (Optimisers.jl#140)."""
    opt = Adam({"a": xp.array([1.0]), "b": xp.array([1.0])}, lr=0.1, engine=xp.engine)
    opt.step({"a": xp.array([1.0]), "b": xp.array([1.0])})
    before = snapshot(opt)
    opt.step({"a": None, "b": xp.array([0.0])})
    after = snapshot(opt)
    for name in before:
        assert (before[name] == after[name]) is (name.startswith("a") or name == "params 0"), name


def test_weight_decay_is_what_its_name_says(xp: Lib) -> None:
    """D20 (apex, DeepSpeed#5214: decoupled by default; optax#292: with or without lr)."""
    one, zero = xp.array([1.0]), xp.array([0.0])
    adamw = AdamW(one, lr=0.1, weight_decay=0.5, engine=xp.engine)
    assert value(xp, adamw.step(zero)) == pytest.approx(0.95, abs=1e-15)
    adam = Adam(xp.array([1.0]), lr=0.1, weight_decay=0.5, engine=xp.engine)
    assert value(xp, adam.step(zero)) == pytest.approx(0.9, abs=1e-8)
    state = adam.state_dict()["state"][""]
    assert value(xp, state["m"]) == pytest.approx(0.05, rel=1e-15)
    assert value(xp, state["v"]) == pytest.approx(0.00025, rel=1e-14)
    assert AdamW(one).state_dict()["hyperparameters"]["weight_decay"] == 0.01
    assert Adam(one).state_dict()["hyperparameters"]["weight_decay"] == 0.0


def test_epsilon_stands_outside_the_root_after_the_correction(xp: Lib) -> None:
    """D21 (TF#35102, keras#17391: epsilon-hat)."""
    opt = Adam(xp.array([0.0]), lr=1.0, eps=0.1, engine=xp.engine)
    moved = value(xp, opt.step(xp.array([1e-3])))
    assert moved == pytest.approx(-1e-3 / (1e-3 + 0.1), rel=1e-12)


def test_amsgrad_keeps_the_maximum_of_the_uncorrected_v(xp: Lib) -> None:
    """D21 (optax#1389 takes the maximum of the corrected one)."""
    opt = Adam(xp.array([0.0]), lr=1.0, eps=0.0, amsgrad=True, engine=xp.engine)
    for g in (1.0, 0.1):
        opt.step(xp.array([g]))
    # v = 1e-3, then 0.999e-3 + 1e-5 > 1e-3: corrected, the first would be larger.
    state = opt.state_dict()["state"][""]
    assert value(xp, state["vmax"]) == pytest.approx(0.999e-3 + 1e-5, rel=1e-12)


def test_the_path_does_not_depend_on_the_scale_of_gradients(xp: Lib) -> None:
    """D21 (pyxu clips v at 1e-6, so small gradients are crushed)."""
    rng = np.random.default_rng(0)
    small, large = (Adam(xp.array([1.0]), lr=0.1, eps=0.0, engine=xp.engine) for _ in range(2))
    for g in rng.normal(size=5):
        a = small.step(xp.array([g * 2.0**-30]))
        b = large.step(xp.array([g * 2.0**30]))
    assert as_bytes(a) == as_bytes(b)


@pytest.mark.parametrize("t", [1, 2, 3, 10, 100, 1000, 10**9])
def test_bias_correction_is_not_computed_in_float32(xp: Lib, t: int) -> None:
    """D22 (warp, DeepSpeed: 1 - beta2^t in float32 is off by 1.3e-5)."""
    opt = Adam(xp.array([0.0], "float32"), lr=1.0, eps=1e-8, engine=xp.engine)
    state = opt.state_dict()
    state["state"][""]["step"] = t - 1
    opt.load_state_dict(state)
    moved = value(xp, opt.step(xp.array([1.0], "float32")))
    m = (1 - 0.9) / -math.expm1(t * math.log(0.9))
    v = (1 - 0.999) / -math.expm1(t * math.log(0.999))
    assert moved == pytest.approx(-m / (math.sqrt(v) + 1e-8), rel=8 * EPS["float32"])


BAD = [
    {"lr": -1e-3},
    {"lr": math.nan},
    {"lr": math.inf},
    {"lr": True},
    {"lr": "0.1"},
    {"lr": np.array(0.1)},
    {"lr": np.ones(2)},
    {"lr": None},
    {"lr": 1j},
    {"eps": -1e-8},
    {"eps": math.nan},
    {"eps": math.inf},
    {"eps": False},
    {"eps": np.ones(1)},
    {"weight_decay": -0.1},
    {"weight_decay": math.inf},
    {"weight_decay": True},
    {"weight_decay": np.zeros(1)},
    {"betas": (1.0, 0.999)},
    {"betas": (0.9, 1.0)},
    {"betas": (-0.1, 0.999)},
    {"betas": (0.9, math.nan)},
    {"betas": (0.9, True)},
    {"betas": (0.9,)},
    {"betas": (0.9, 0.99, 0.999)},
    {"betas": 0.9},
    {"betas": np.array([0.9, 0.999])},
    {"amsgrad": 1},
    {"maximize": None},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_bad_hyperparameters_are_refused(bad: dict[str, Any]) -> None:
    """D25 (mlx#4310: betas of 1; mlx#4361: negative eps; tinygrad#15725)."""
    name = next(iter(bad))
    for kind in (Adam, AdamW):
        with pytest.raises(ValueError, match=f"^{name} is .*must be"):
            kind(np.ones(2), **bad)


@pytest.mark.parametrize("bad", [b["lr"] for b in BAD if "lr" in b], ids=repr)
def test_a_bad_learning_rate_is_refused_later_too(xp: Lib, bad: Any) -> None:
    """D25: on assignment, and from a schedule; nothing has changed."""
    opt = Adam(xp.array([1.0]), engine=xp.engine)
    before = snapshot(opt)
    with pytest.raises(ValueError, match=r"^lr is .*must be"):
        opt.lr = bad
    assert opt.lr == 1e-3
    # A schedule may return a 0-d array, as optax's do.
    if getattr(bad, "shape", None) != ():
        opt.lr = lambda count: bad
        with pytest.raises(ValueError, match=r"^lr\(0\) is .*must be"):
            opt.step(xp.array([1.0]))
    opt.lr = 1e-3
    assert snapshot(opt) == before


def test_hyperparameters_that_the_compute_dtype_cannot_hold_are_refused(xp: Lib) -> None:
    """D25 (chainer alone looked): an epsilon that underflows guards nothing."""
    for dtype in (d for d in xp.dtypes if d not in ("float64", "complex128")):
        tree = {"wide": xp.array([1.0]), "w": xp.array([1.0], dtype)}
        with pytest.raises(ValueError, match=r"'w': eps = 1e-46 is 0.0 in float32"):
            Adam(tree, eps=1e-46, engine=xp.engine)
        with pytest.raises(ValueError, match=r"'w': lr = 1e\+39 is inf in float32"):
            Adam(tree, lr=1e39, engine=xp.engine)
    Adam(xp.array([1.0]), eps=1e-46, engine=xp.engine)
    Adam(xp.array([1.0], "float32"), lr=0.0, betas=(0.0, 0.001), eps=0.0, engine=xp.engine)
