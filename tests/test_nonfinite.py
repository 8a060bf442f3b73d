"""Gradients that are not finite: propagated, raised about, or a reason to leave the step out (D18).

What is not finite is decided here by NumPy: g in the compute dtype, times itself.
"""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW, nonfinite
from adam_any.engines.cpu import engine as cpu
from tests.helpers.bits import as_bytes, refused, snapshot
from tests.helpers.devices import laid_out
from tests.helpers.libraries import COMPUTE, LIBRARIES, Lib, missing

#: The smallest numbers of float32 and float64 whose squares overflow.
EDGES = {"float32": 2.0**64, "float64": 2.0**512}
ROUNDED_UP = 2.0**64 * (1 - 2.0**-25)  # to the edge of float32, when float64 is converted

VALUES = [
    *(0.0, 1.0, -65504.0, np.nan, np.inf, -np.inf, 1e200, -1e20, 1e-30),
    *(ROUNDED_UP, -ROUNDED_UP, np.nextafter(ROUNDED_UP, 0)),
    *(sign * edge for edge in EDGES.values() for sign in (1, -1)),
    *(np.nextafter(np.float32(EDGES["float32"]), np.float32(0)), np.nextafter(2.0**512, 0)),
]


def finite(lib: Lib, g: Any, dtype: str) -> bool:
    """Whether all squares are, of the numbers that the gradient of a `dtype` leaf holds."""
    held = lib.numpy(g).reshape(-1)
    with np.errstate(all="ignore"):
        reals = held.view("float64").astype(COMPUTE.get(dtype, "float32"))
        return bool(np.isfinite(reals * reals).all())


def gradients(lib: Lib, dtype: str) -> list[Any]:
    """Gradients for a leaf of `dtype` and shape (3,), each with one odd number."""
    complex_ = dtype.startswith("complex")
    dtypes = [d for d in lib.dtypes if d.startswith("complex") == complex_]
    found = []
    step = 2 if lib.slow or lib.name == "jax" else 1
    with np.errstate(all="ignore"):
        for other in dtypes[::step]:
            for value in VALUES[::step]:
                g = np.ones(3, complex if complex_ else float)
                if complex_ and value != 1.0:
                    g.imag[1] = value
                else:
                    g[1] = value
                found.append(lib.array(g, other))
    if complex_:  # twice the square of this overflows float32, but its parts are squared apart
        found.append(lib.array([1, 1.5e19 * (1 + 1j), 1], "complex64"))
    return found


@pytest.mark.promise(
    '`nonfinite="raise"` names the array whose gradient is not finite, and changes nothing.',
    defect="D18",
    seen=["torch#1767", "rlevo#184"],
)
def test_what_is_not_finite_is_raised_about_and_changes_nothing(lib: Lib) -> None:
    for dtype in lib.dtypes:
        params = {"a": lib.array([1.0], dtype), "w": lib.array(np.ones(3), dtype)}
        opt = Adam(params, nonfinite="raise", engine=lib.engine)
        twin = Adam(copy.deepcopy(opt).params, engine=lib.engine)
        for g in gradients(lib, dtype):
            grads = {"a": lib.array([1.0], dtype), "w": g}
            if finite(lib, g, dtype):
                opt.step(grads)
                twin.step(grads)
            else:
                with refused(opt, ValueError, match=r"^'w': the gradient .*nonfinite='skip'"):
                    opt.step(grads)
        assert snapshot(twin) == snapshot(opt) and opt.skipped == 0 and opt.steps["w"] > 0


@pytest.mark.promise(
    '`nonfinite="skip"` leaves out the whole step, and counts it.',
    defect="D18",
    seen=["OLMo-core#317", "torch#186360"],
)
def test_a_skipped_step_leaves_every_leaf_alone_and_is_counted(lib: Lib) -> None:
    asked: list[int] = []

    def schedule(count: int) -> float:
        asked.append(count)
        return 0.1

    values = {"a": lib.array([1.0], "float32"), "f": 1.0, "n": None, "w": lib.array([1.0, 2.0])}
    opt = Adam(values, lr=schedule, amsgrad=True, nonfinite="skip", engine=lib.engine)
    good = {"a": lib.array([1.0], "float32"), "f": -1.0, "n": None, "w": lib.array([0.5, 3.0])}
    opt.step(good)
    before, params = snapshot(opt), opt.params
    asked.clear()
    bad = [
        {**good, "a": lib.array([np.nan], "float32")},
        {**good, "f": np.inf},
        {**good, "w": lib.array([1.0, -1e200])},
        {"a": lib.array([1e20], "float32"), "f": None, "n": None, "w": None},
    ]
    for number, grads in enumerate(bad, 1):
        out = opt.step(grads)
        assert snapshot(opt) == before and opt.skipped == number and not asked
        assert all(out[name] is params[name] for name in params)
    opt.step(good)
    assert opt.steps == {"a": 2, "f": 2, "w": 2} and set(asked) == {1} and opt.skipped == 4


@pytest.mark.promise(
    "A gradient that is not finite spoils its own array alone, unless `nonfinite` says otherwise."
)
def test_what_is_propagated_poisons_its_own_leaf(lib: Lib) -> None:
    opt = Adam([lib.array([1.0]), lib.array([1.0])], engine=lib.engine)
    for g in (np.nan, 1.0):
        out = opt.step([lib.array([g]), lib.array([1.0])])
    assert np.isnan(lib.numpy(out[0])) and np.isfinite(lib.numpy(out[1]))
    assert opt.skipped == 0 and opt.steps == {"0": 2, "1": 2}


def test_the_first_path_of_the_tree_is_named() -> None:
    opt = Adam(
        {"c": [np.ones(2, "f4"), 1.0], "b": np.ones(2), "a": np.ones(2, "f2")}, nonfinite="raise"
    )
    good = {"c": [np.ones(2, "f4"), 1.0], "b": np.ones(2), "a": np.ones(2, "f2")}
    opt.step(good)
    last = [np.ones(2, "f4"), np.nan]
    for bad, message in (
        ({**good, "c": last}, "^'c.1': the gradient has an infinity or a NaN; "),
        (
            {**good, "c": [np.full(2, -np.inf, "f4"), np.nan]},
            "^'c.0': the gradient has an infinity or a NaN; ",
        ),
        (
            {**good, "c": last, "b": np.array([1.0, -1e200])},
            r"^'b': the gradient has a magnitude of 1e\+200, whose square overflows float64; ",
        ),
        ({"a": np.full(2, np.nan, "f2"), "b": np.full(2, np.nan), "c": last}, "^'a': "),
    ):
        with pytest.raises(ValueError, match=message):
            opt.step(bad)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_all_libraries_step_together_or_not_at_all(policy: str) -> None:
    plain = [lib for lib in LIBRARIES if lib.engine is None and not lib.tiles]
    here = [lib for lib in plain if lib.device != "emulated" and not missing(lib)]
    params = {str(lib): lib.array([1.0, 2.0], "float32") for lib in here} | {"f": 1.0}
    good = {str(lib): lib.array([0.5, -2.0], "float32") for lib in here} | {"f": 1.0}
    bad = {str(lib): lib.array([0.5, np.nan], "float32") for lib in here} | {"f": np.nan}
    opt = Adam(params, nonfinite=policy)
    opt.step(good)
    before = snapshot(opt)
    for name in bad:
        if policy == "raise":
            with pytest.raises(ValueError, match=f"^{name!r}: "):
                opt.step({**good, name: bad[name]})
        else:
            opt.step({**good, name: bad[name]})
        assert snapshot(opt) == before, name
    opt.step(good)
    assert set(opt.steps.values()) == {2}


def test_missing_and_empty_gradients_are_finite(lib: Lib) -> None:
    tree = {"a": lib.array([1.0]), "e": lib.array(np.ones((0, 3))), "n": None, "s": lib.array(1.0)}
    opt = Adam(tree, nonfinite="raise", engine=lib.engine)
    opt.step({**tree, "a": None})
    opt.step({"a": None, "e": tree["e"], "n": None, "s": None})
    assert opt.steps == {"a": 0, "e": 2, "s": 1}


def layouts(x: Any) -> dict[str, Any]:
    return {"C": x, "F": x.T, "strided": x[:, 1::2], "offset": x[1:, 3:], "0d": x[0, 1]}


@pytest.mark.parametrize("layout", layouts(np.ones((2, 4))))
def test_every_element_is_looked_at(lib: Lib, layout: str) -> None:
    rows, columns = (3, 8) if lib.slow else (3, 70_001)
    base = np.ones((rows, columns), "float32")
    p = layouts(base)[layout].shape
    opt = Adam(lib.array(np.ones(p), "float32"), nonfinite="skip", engine=lib.engine)
    skipped = 0
    for row, column in ((0, 0), (0, 1), (0, 3), (1, columns // 2), (rows - 1, columns - 2)):
        base[:] = 1
        base[row, column] = -np.inf
        opt.step(layouts(lib.array(base, "float32"))[layout])
        skipped += np.isinf(layouts(base)[layout]).any()
        assert opt.skipped == skipped
    assert 0 < opt.skipped < 5 or layout in "CF"


def test_the_other_checks_come_first() -> None:
    for policy in ("raise", "skip"):
        opt = Adam({"a": np.ones(2), "b": np.ones(2)}, nonfinite=policy)
        with refused(opt, ValueError, match=r"^'b': the gradient has shape"):
            opt.step({"a": np.full(2, np.nan), "b": np.ones(3)})
        assert opt.skipped == 0


# What it costs -----------------------------------------------------------------------------------


def test_propagating_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonfinite, "computed", None)
    monkeypatch.setattr(cpu.Plan, "add", None)
    opt = Adam(np.ones(2))
    opt.step(np.ones(2))
    with pytest.raises(TypeError):
        Adam(np.ones(2), nonfinite="raise").step(np.ones(2))


def test_the_leaves_of_a_plan_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    tree = {c: np.ones(2, c) for c in "fd"} | {"more": np.ones(2), "empty": np.ones(0)}
    opt = Adam(tree, nonfinite="skip")
    add = cpu.Plan.add

    def counting(plan: Any, finite: bool, c: Any, grads: Any) -> Any:
        seen.append(sum(g is not None for g in grads))
        return add(plan, finite, c, grads)

    monkeypatch.setattr(cpu.Plan, "add", counting)
    opt.step({**tree, "f": None})
    opt.step(tree)
    assert seen[0] == 3 and sorted(seen[1:]) == [1, 3] and opt.skipped == 0


def test_it_takes_no_memory_to_speak_of() -> None:
    p, g = np.ones((1500, 1000), "f4"), np.ones((1000, 3000))
    opt = Adam(p, nonfinite="skip")
    for skipped, grad in enumerate((p.copy(), g[:, ::2].T, np.asfortranarray(p)), 1):
        opt.step(grad)
        grad[-1, -1] = np.nan
        tracemalloc.start()
        opt.step(grad)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 << 20 and opt.skipped == skipped  # the smallest gradient has 6 MB


def test_a_lazy_gradient_is_computed_once() -> None:
    da = pytest.importorskip(
        "dask.array", reason="dask is not installed: pip install 'dask[array]'"
    )
    computed = []

    def gradient(block: Any) -> Any:
        computed.append(block.max())
        return 2 * block

    opt = Adam({"a": da.ones(4, chunks=2), "b": da.ones((2, 2), chunks=1)}, nonfinite="skip")
    for _ in range(2):
        opt.step({k: x.map_blocks(gradient, meta=x._meta) for k, x in opt.params.items()})
    assert len(computed) == 2 * 6 and opt.skipped == 0

    def poison(block: Any) -> Any:
        return np.where(block == block.max(), np.nan, block)

    ramp = da.arange(4.0, chunks=3)
    opt.step({"a": ramp.map_blocks(poison, meta=np.ones(0)), "b": None})
    assert opt.skipped == 1
    hollow = da.from_array(np.ones(4), chunks=((0, 3, 0, 1),))
    opt.step({"a": hollow, "b": None})
    assert opt.skipped == 1 and opt.steps == {"a": 3, "b": 2}


def test_a_wide_gradient_where_jax_computes_in_32_bits() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    with jax.enable_x64(True):
        good, bad = jax.numpy.asarray([1.0]), jax.numpy.asarray([1e200])
    opt = Adam(jax.numpy.ones(1), nonfinite="raise")
    opt.step(good)
    with pytest.raises(ValueError, match=r"magnitude of 1e\+200, whose square overflows float32"):
        opt.step(bad)
    assert opt.steps == {"": 1}


@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
def test_one_bad_element_in_one_shard_leaves_all_of_the_step_out(jax: Any, axes: str) -> None:
    host, one, other = laid_out(axes)
    params, good = ({k: jax.device_put(x, at[k]) for k, x in host.items()} for at in (one, other))
    opt = Adam(params, nonfinite="skip")
    opt.step(good)
    before = snapshot(opt)
    for name in ("w", "h", "z", "b"):
        bad = host[name].copy()
        bad[(-1,) * bad.ndim] = np.nan
        opt.step({**good, name: jax.device_put(bad, other[name])})
        assert snapshot(opt) == before
    opt.step(good)
    assert opt.skipped == 4 and set(opt.steps.values()) == {2}


# The keyword -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("value", [None, "", "SKIP", "ignore", True, 0, ["skip"]], ids=repr)
def test_other_policies_are_refused(kind: type[Adam], value: Any) -> None:
    with pytest.raises(ValueError, match=r"^nonfinite is .*'propagate', 'raise', 'skip'"):
        kind(np.ones(1), nonfinite=value)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_the_policy_and_the_count_belong_to_the_optimizer_and_its_copies(
    kind: type[Adam], tmp_path: Any
) -> None:
    opt = kind(np.ones(2), nonfinite="skip")
    assert opt.step(np.full(2, np.nan)) is opt.params and opt.skipped == 1
    assert "nonfinite='skip'" in repr(opt) and "nonfinite" not in repr(kind(1.0))
    for other in (copy.copy(opt), copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        other.step(np.full(2, np.nan))
        assert (other.skipped, opt.skipped) == (2, 1) and repr(other) == repr(opt)
    with pytest.raises(AttributeError, match="'skipped'"):
        opt.skipped = 0  # type: ignore[misc]

    plain = kind(np.ones(2))
    assert as_bytes(plain.params) == as_bytes(opt.params)
    assert repr(plain.state_dict()) == repr(opt.state_dict())
    plain.save(tmp_path / "state")
    opt.load(tmp_path / "state")
    opt.load_state_dict(plain.state_dict())
    assert opt.skipped == 1 and "nonfinite='skip'" in repr(opt)
