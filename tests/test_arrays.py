"""The kinds of array that people hold: what is written, what is replaced, what overlaps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW
from tests.helpers import oracle
from tests.helpers.bits import as_bytes
from tests.helpers.libraries import EPS, LIBRARIES, Lib, on


def stepped(p: Any, g: Any, steps: int = 3) -> Any:
    opt = Adam(p, lr=0.1)
    for _ in range(steps):
        out = opt.step(g)
    return out


WANT = oracle.run(1.0, [2.0] * 3, lr=0.1)[-1].p


@pytest.mark.promise(
    "Writable arrays are updated in place and returned; others are replaced, and left as they were."
)
def test_writable_arrays_come_back_as_the_same_objects(lib: Lib) -> None:
    for dtype in lib.dtypes:
        p = lib.array([1.0, -1.0], dtype)
        before = lib.numpy(p).copy()
        opt = Adam({"w": p}, lr=0.5, engine=lib.engine)
        out = opt.step({"w": lib.array([1.0, 2.0], dtype)})["w"]
        assert (out is p) is lib.in_place
        assert not np.array_equal(lib.numpy(out), before)
        assert np.array_equal(lib.numpy(p), before) is not lib.in_place


@pytest.mark.promise("Gradients are never written.", defect="D6", seen=["mxnet#15759"])
def test_gradients_are_never_written(lib: Lib) -> None:
    """mxnet rescales them, and thinc sets them to 0."""
    for dtype in lib.dtypes:
        g = lib.array([1.0, -2.0], dtype)
        if lib.name == "numpy":
            g.flags.writeable = False
        before = as_bytes(g)
        for kind in (Adam, AdamW):
            opt = kind(
                lib.array([1.0, 2.0], dtype), weight_decay=0.1, maximize=True, engine=lib.engine
            )
            opt.step(g)
            opt.step(g)
        assert as_bytes(g) == before


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_read_only_arrays_are_replaced(dtype: str) -> None:
    p = np.full(3, 1.0, dtype=dtype)
    p.flags.writeable = False
    out = stepped(p, np.full(3, 2.0, dtype=dtype))
    assert type(out) is np.ndarray and out is not p and out.dtype == p.dtype
    assert np.array_equal(p, np.ones(3))
    assert np.real(out) == pytest.approx(WANT, rel=4 * 2.0**-10)


def test_broadcast_views_are_read_only_and_replaced() -> None:
    out = stepped(np.broadcast_to(np.ones(1), 3), np.full(3, 2.0))
    assert out == pytest.approx(np.full(3, WANT), rel=8 * EPS["float64"])


def test_memory_mapped_files_are_updated_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    np.ones(4, np.float32).tofile(path)
    p = np.memmap(path, dtype=np.float32, mode="r+")
    out = stepped(p, np.full(4, 2.0, np.float32))
    assert out is p
    p.flush()
    assert np.fromfile(path, np.float32) == pytest.approx(WANT, rel=16 * EPS["float32"])
    again = np.memmap(path, dtype=np.float32, mode="r")
    assert stepped(again, np.memmap(path, dtype=np.float32, mode="r")) is not again


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.complex64, np.complex128])
def test_numpy_scalars_are_replaced_by_their_kind(kind: Any) -> None:
    out = stepped(kind(1), kind(2))
    assert type(out) is kind
    assert np.real(out) == pytest.approx(WANT, rel=4 * 2.0**-10)


def test_python_floats_are_replaced_by_floats() -> None:
    out = stepped({"x": 1.0, "y": [1.0]}, {"x": 2.0, "y": [np.float64(2.0)]})
    assert type(out["x"]) is float and type(out["y"][0]) is float
    assert out["x"] == out["y"][0] == pytest.approx(WANT, rel=8 * EPS["float64"])


@pytest.mark.parametrize("bad", [1, True, 1j, "1"], ids=repr)
def test_other_python_scalars_are_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"'x': the parameter is .*a Python float"):
        Adam({"x": bad})


def test_0d_arrays_stay_arrays(lib: Lib) -> None:
    for dtype in lib.dtypes:
        opt = Adam(lib.array(1.0, dtype), lr=0.1, engine=lib.engine)
        for _ in range(3):
            out = opt.step(lib.array(2.0, dtype))
        lib.check(out, dtype, ())
        assert not isinstance(out, np.generic)
        assert np.real(lib.numpy(out)) == pytest.approx(WANT, abs=4 * EPS[dtype])


VIEWS = {
    "transposed": (lambda base: base.T, (6, 4)),
    "every other": (lambda base: base[::2, ...], (2, 6)),
    "column": (lambda base: base[:, 1], (4,)),
    "reversed": (lambda base: base[:, ::-1], (4, 6)),
    "inner": (lambda base: base[1:3, 2:5], (2, 3)),
}


@pytest.mark.promise(
    "Views are updated in place, and nothing around them is written.",
    defect="D9",
    seen=["cupy#9275", "torch#118115", "torch#106951"],
)
@pytest.mark.uses("operators")
@pytest.mark.parametrize("layout", VIEWS)
def test_views_are_stepped_in_their_own_memory(lib: Lib, layout: str) -> None:
    """Others ignore that they are views, do not step them, or refuse them."""
    if lib.name == "torch" and layout == "reversed":
        pytest.skip("torch has no negative strides")
    view, shape = VIEWS[layout]
    for dtype in ("float32", "complex64"):
        values = np.arange(24.0).reshape(4, 6) * (1 + 2j if dtype == "complex64" else 1)
        base = lib.array(values, dtype)
        before = lib.numpy(base).copy()
        g = np.linspace(-1, 1, math.prod(shape)).reshape(shape)
        # The gradient in the other order, so that the two never match in memory.
        transposed = lib.array(np.ascontiguousarray(g.T), dtype)
        opt = Adam(view(base), lr=0.1, engine=lib.engine)
        contiguous = Adam(lib.array(view(values), dtype), lr=0.1, engine=lib.engine)
        for _ in range(2):
            out = opt.step(transposed.T if g.ndim == 2 else transposed)
            want = contiguous.step(lib.array(g, dtype))
        lib.check(out, dtype, shape)
        # torch's own sqrt depends on how the elements are laid out.
        bound = 16 * EPS["float32"] * np.maximum(np.abs(lib.numpy(want)), 0.1)
        assert np.all(np.abs(lib.numpy(out) - lib.numpy(want)) <= bound)
        if lib.in_place:
            view(before)[...] = lib.numpy(out)
        assert np.array_equal(lib.numpy(base), before)


@pytest.mark.promise(
    "Memory borrowed through DLPack is updated in place, where arrays can be written.", defect="D10"
)
@pytest.mark.uses("DLPack")
@on(lib for lib in LIBRARIES if lib.name != "dask")
def test_memory_borrowed_through_dlpack_is_stepped_in_place(lib: Lib) -> None:
    """The lender sees the step, but not where arrays are replaced."""
    namespace = getattr(lib.module, "numpy", lib.module)
    lenders = [(lib if lib.device == "cuda" else LIBRARIES[0]).array([x, -x]) for x in (1.0, 2.0)]
    p, g = map(namespace.from_dlpack, lenders)
    if lib.name == "numpy" and not p.flags.writeable:
        pytest.skip("NumPy before 2.1 takes memory through DLPack as read-only")
    out = Adam(p, lr=0.1, engine=lib.engine).step(g)
    assert lib.numpy(out) == pytest.approx([0.9, -0.9])
    mine, gradient = (np.from_dlpack(x) if lib.device == "cpu" else lib.numpy(x) for x in lenders)
    assert mine.tolist() == (lib.numpy(out).tolist() if lib.in_place else [1.0, -1.0])
    assert gradient.tolist() == [2.0, -2.0]


def test_torch_parameters_are_written_outside_the_graph(torch_: Any) -> None:
    w = torch_.nn.Parameter(torch_.ones(3))
    loss = (w**2).sum()
    loss.backward()
    out = Adam([w], lr=0.1).step([w.grad])[0]
    assert out is w and w.requires_grad and w.is_leaf
    assert torch_.allclose(w.detach(), torch_.tensor(0.9), atol=1e-6)
    assert torch_.equal(w.grad, torch_.full((3,), 2.0))


def test_torch_views_conjugates_and_inference_tensors(torch_: Any) -> None:
    z = torch_.tensor([1 + 1j, 2 - 1j]).conj()
    g = torch_.tensor([1 + 1j, 1 + 1j]).conj()
    assert z.is_conj() and g.is_conj()
    out = Adam(z, lr=0.1).step(g)
    assert out is z
    assert np.asarray(out.resolve_conj()) == pytest.approx([0.9 - 0.9j, 1.9 + 1.1j], abs=1e-6)
    with torch_.inference_mode():
        frozen = torch_.ones(2)
    out = Adam(frozen, lr=0.1).step(torch_.ones(2))
    assert out is not frozen and frozen.tolist() == [1.0, 1.0]
    assert out.tolist() == pytest.approx([0.9, 0.9])


def test_torch_sparse_is_refused(torch_: Any) -> None:
    w = torch_.ones(3)
    opt = Adam({"w": w})
    with pytest.raises(TypeError, match=r"'w': the gradient has layout torch.sparse_coo"):
        opt.step({"w": torch_.ones(3).to_sparse()})
    with pytest.raises(TypeError, match=r"'w': the parameter has layout torch.sparse_coo"):
        Adam({"w": torch_.ones(3).to_sparse()})


# Overlapping memory ------------------------------------------------------------------------------


def test_leaves_that_share_an_element_are_refused(lib: Lib) -> None:
    if not lib.in_place:
        p = lib.array([1.0, 2.0])
        out = Adam({"a": p, "b": p}, engine=lib.engine).step({"a": p, "b": p})
        assert as_bytes(out["a"]) == as_bytes(out["b"])
        return
    base = lib.array(np.ones((4, 4)))
    Adam({"a": base[:, 0], "b": base[:, 1], "c": base[0:0, 2]}, engine=lib.engine)
    for other in (base, base[0, ...], base[3:, 3], base.T):
        with pytest.raises(ValueError, match=r"'b': shares memory with 'a'|'a': shares memory"):
            Adam({"a": base[:, 0:4], "b": other}, engine=lib.engine)
    opt = Adam({"a": base[:, 0], "b": base[:, 1]}, engine=lib.engine)
    opt.params = {"a": base[:, 1], "b": base[:, 0]}  # copied, all of them before one is written
    assert as_bytes(opt.params["b"]) == as_bytes(base[:, 1])


@pytest.mark.promise("A parameter that overlaps itself is refused.", defect="D9")
@on(lib for lib in LIBRARIES if lib.name in ("numpy", "torch", "cupy"))
def test_a_parameter_that_overlaps_itself_is_refused(lib: Lib) -> None:
    """It shows one element several times."""
    if lib.name == "torch":
        wide = lib.array([1.0]).expand(3)
    else:
        strides = lib.module.lib.stride_tricks.as_strided
        wide = strides(lib.array([1.0, 2.0]), (2, 1, 3), (8, 8, 0))
    with pytest.raises(ValueError, match="'w': two of its elements share memory"):
        Adam({"w": wide}, engine=lib.engine)


def test_a_read_only_view_of_a_written_leaf_is_refused() -> None:
    base = np.ones(4)
    view = base[1:]
    view.flags.writeable = False
    with pytest.raises(ValueError, match="shares memory"):
        Adam([base, view])


def test_read_only_leaves_may_share_memory() -> None:
    base = np.ones(3)
    base.flags.writeable = False
    out = stepped([base, base[:2]], [np.full(3, 2.0), np.full(2, 2.0)])
    assert out[0].tolist() == pytest.approx([WANT] * 3) and out[1].tolist() == out[0][:2].tolist()


def test_gradients_in_written_memory_are_read_first(lib: Lib) -> None:
    values = np.linspace(-1, 1, 12)
    base, safe = lib.array(values), lib.array(values)
    tree = {"a": base[0:5], "b": base[6:11]}
    separate = {"a": lib.array(values[0:5]), "b": lib.array(values[6:11])}
    opt, want = (Adam(t, lr=0.1, engine=lib.engine) for t in (tree, separate))
    # b's memory as a's gradient and the reverse, and each shifted over its own.
    for a, b in ((slice(6, 11), slice(0, 5)), (slice(1, 6), slice(5, 10))):
        out = opt.step({"a": base[a], "b": base[b]})
        ref = want.step({"a": lib.array(lib.numpy(safe)[a]), "b": lib.array(lib.numpy(safe)[b])})
        assert as_bytes(out["a"]) == as_bytes(ref["a"])
        assert as_bytes(out["b"]) == as_bytes(ref["b"])
        if lib.in_place:
            safe = lib.array(lib.numpy(base))


@pytest.mark.promise(
    "An infinity in the real part does not spoil the imaginary part, or the reverse.", defect="D15"
)
def test_complex_infinities_stay_in_their_part(lib: Lib) -> None:
    """Complex arithmetic would spread it over both parts."""
    g = [complex(math.inf, 1.0), complex(1.0, math.inf)]
    opt = Adam(lib.array([1 + 1j, 1 + 1j], "complex128"), lr=0.1, engine=lib.engine)
    out = lib.numpy(opt.step(lib.array(g, "complex128")))
    assert out.real == pytest.approx([math.nan, 0.9], nan_ok=True)
    assert out.imag == pytest.approx([0.9, math.nan], nan_ok=True)


def test_an_overflowing_square_freezes_then_spoils_only_its_element(lib: Lib) -> None:
    opt = Adam(lib.array([1.0, 1.0], "float32"), lr=0.1, engine=lib.engine)
    opt.step(lib.array([1e30, 1.0], "float32"))
    out = lib.numpy(opt.step(lib.array([1.0, 1.0], "float32")))
    assert np.isnan(out[0]) and out[1] == pytest.approx(0.8, rel=1e-6)
