"""Dask: NumPy's bits chunk by chunk, one computation a step, graphs that do not grow."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW, functional
from tests.helpers.bits import as_bytes, refused

dask = pytest.importorskip("dask", reason="dask is not installed: pip install 'dask[array]'")
da = pytest.importorskip("dask.array", reason="dask is not installed: pip install 'dask[array]'")

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 1e-310, 3e38, 1.0]


def keys(x: Any) -> int:
    return len(dict(x.__dask_graph__()))


def lazy(x: Any, chunks: Any = (2, 3)) -> Any:
    return da.from_array(x.copy(), chunks=chunks[: x.ndim], name=False)


def fail(block: Any) -> Any:
    raise ArithmeticError("a bad gradient")


@pytest.mark.promise(
    "Dask's arrays get the bits of NumPy's.", defect="D19", seen=["bitsandbytes#2010"]
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1, "amsgrad": True, "maximize": True, "betas": (0.4, 0.9)}]
)
def test_bits_are_those_of_numpy(dtype: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        start = (rng.normal(size=(5, 4)) * (1 - 2j)).astype("complex128")
        special = np.resize(np.array(SPECIAL), (5, 4)) + 1j * np.resize(SPECIAL[3:], (5, 4))
        kept = (lambda x: x) if dtype.startswith("complex") else np.real
        start, *grads = (kept(x).astype(dtype) for x in (start, special, start, special, start))
    host = {"w": start.copy(), "s": start[0, 0].reshape(()).copy(), "e": start[:0].copy()}
    a = AdamW({k: lazy(x) for k, x in host.items()}, lr=0.1, **options)
    b = AdamW(host, lr=0.1, engine="eager", **options)
    for g in grads:
        tree = {"w": g, "s": g[1, 1].reshape(()), "e": g[:0]}
        out = a.step({k: lazy(x) for k, x in tree.items()})
        want = b.step(tree)
    for name, x in out.items():
        assert x.dtype == dtype and x.shape == want[name].shape
        assert np.array_equal(x.compute().view("u1"), want[name].view("u1")) if x.ndim else True
        assert as_bytes(x) == as_bytes(want[name])
        for kind in a.state_dict()["state"][name].keys() - {"step"}:
            mine, theirs = (opt.state_dict()["state"][name][kind] for opt in (a, b))
            assert as_bytes(mine) == as_bytes(theirs)


@pytest.mark.promise("A Dask graph does not grow with the steps.")
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_the_graph_is_as_large_after_100_steps_as_after_1(dtype: str) -> None:
    opt = Adam({"w": lazy(np.ones((6, 6), dtype)), "b": lazy(np.ones(4, dtype))}, lr=0.1)
    sizes = []
    for _ in range(100):
        params = opt.step({name: 2 * x for name, x in opt.params.items()})
        moments = {leaf.path: leaf.moments for leaf in opt._contents.leaves}
        sizes.append({name: [keys(x) for x in (params[name], *moments[name])] for name in "bw"})
    assert sizes[0] == sizes[-1] == {"b": [2, 2, 2], "w": [6, 6, 6]}  # one key a chunk


def test_chunks_are_kept_also_by_moments_and_whatever_the_gradients_are() -> None:
    z = da.ones((5, 4), chunks=((2, 3), (1, 3)), dtype="complex64")
    opt = Adam({"z": z}, lr=0.1)
    for chunks in ((5, 4), (1, 1), ((3, 2), (4,))):
        out = opt.step({"z": da.ones((5, 4), chunks=chunks, dtype="complex64")})["z"]
        assert out.chunks == z.chunks
        assert all(m.chunks == (*z.chunks, (2,)) for m in opt._contents.leaves[0].moments)
    assert np.real(out.compute()) == pytest.approx(0.7, rel=1e-6)


def test_moments_loaded_in_other_chunks_take_the_parameters() -> None:
    a, b = (Adam(da.ones((4, 4), chunks=c), lr=0.1) for c in ((4, 4), (2, 1)))
    for _ in range(2):
        a.step(da.ones((4, 4), chunks=3))
    b.load_state_dict(a.state_dict())
    out = b.step(da.ones((4, 4)))
    assert out.chunks == ((2, 2), (1,) * 4)
    assert {m.chunks for m in b._contents.leaves[0].moments} == {out.chunks}


@pytest.mark.promise("A step on Dask arrays computes once, and each gradient once.")
def test_a_step_computes_once_and_each_gradient_once(monkeypatch: pytest.MonkeyPatch) -> None:
    persisted, computed = [], []
    persist = dask.persist
    monkeypatch.setattr(dask, "persist", lambda *x: persisted.append(1) or persist(*x))

    def gradient(block: Any) -> Any:
        computed.append(1)
        return 2 * block

    opt = Adam([da.full(4, 1.0, chunks=2), da.full(4, 2.0, chunks=2)])
    opt.step([x.map_blocks(gradient, meta=np.ones(0)) for x in opt.params])
    assert len(persisted) == 1 and len(computed) == 4


@pytest.mark.promise("A gradient that Dask cannot compute changes nothing.")
def test_a_gradient_that_fails_leaves_everything_as_it_was() -> None:
    params = {"a": da.ones(4, chunks=2), "b": da.ones(4, chunks=2), "n": np.ones(4), "f": 1.0}
    opt = Adam(params)
    opt.step(params)
    bad = {**params, "b": da.ones(4, chunks=2).map_blocks(fail, meta=np.ones(0))}
    with refused(opt, ArithmeticError, match="a bad gradient"):
        opt.step(bad)
    opt.step(params)
    assert set(opt.steps.values()) == {2}


def test_no_warning_comes_from_the_threads_that_compute() -> None:
    seen = set()

    def gradient(block: Any) -> Any:
        seen.add(threading.get_ident())
        return np.full_like(block, np.finfo(block.dtype).max)  # whose square overflows

    for dtype in ("float16", "float32", "complex64"):
        opt = Adam(da.ones(40, chunks=1, dtype=dtype), eps=1e-8)
        for _ in range(2):
            out = opt.step(opt.params.map_blocks(gradient, meta=np.ones(0, dtype)))
    assert np.isnan(out.compute()).all()
    assert seen - {threading.get_ident()}


def test_unknown_sizes_are_refused() -> None:
    known = da.ones(4, chunks=2)
    unknown = known[known > 0]
    opt = Adam({"w": known})
    for call in (lambda: Adam({"w": unknown}), lambda: opt.step({"w": unknown})):
        with pytest.raises(ValueError, match=r"'w': the .* part is not known.*compute_chunk_sizes"):
            call()
    assert opt.steps == {"w": 0}
    opt.step({"w": unknown.compute_chunk_sizes()})


def test_foreign_byte_order_is_refused() -> None:
    with pytest.raises(TypeError, match="native byte order"):
        Adam({"w": da.ones(3, dtype=">f4")})


def test_a_pure_step_computes_nothing_until_asked() -> None:
    ran = []

    def gradient(block: Any) -> Any:
        ran.append(1)
        return 2 * block

    p = da.ones((4, 4), chunks=2)
    state = functional.init(p)
    new, after = functional.step(p, p.map_blocks(gradient, meta=np.ones((0, 0))), state, lr=0.1)
    assert not ran
    new, after = dask.persist(new, after)
    assert len(ran) == 4 and keys(new) == keys(after.moments["m"]) == 4
    assert after.step == 1 and new.compute() == pytest.approx(0.9)
