"""Nothing half done: an interrupted step changes nothing, or the optimizer says that it is torn.

What an engine has written in place cannot be taken back. So from then on the optimizer refuses to
step and to be saved, until a state is loaded.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_any import Adam, Optimizer
from adam_any.engines import eager
from adam_any.engines.cpu import engine as cpu
from adam_any.engines.cpu import tiles
from adam_any.state import state_dict as checkpoint
from adam_any.words import at
from tests.helpers.bits import snapshot
from tests.helpers.libraries import LIBRARIES, Lib, missing, params, ready
from tests.helpers.optimizers import COPIES
from tests.helpers.rules import Custom

INTERRUPTIONS = [KeyboardInterrupt, MemoryError]


class Half(NamedTuple):
    """An optimizer after some steps, gradients for the next, and a twin that nothing befalls."""

    opt: Optimizer
    grads: Any
    twin: Optimizer


def half(lib: Lib, tree: Any, grads: Any, rule: Any = None, steps: int = 1) -> Half:
    opt = Optimizer(tree, rule, engine=lib.engine) if rule else Adam(tree, engine=lib.engine)
    for _ in range(steps):
        opt.step(grads)
    return Half(opt, grads, copy.deepcopy(opt))


def mixed(lib: Lib) -> Half:
    """Two plans of the library, and one of a Python float, which is replaced."""

    def tree(x: float) -> Any:
        return {"a": lib.array([x, 2 * x], "float32"), "b": lib.array([x], "float64"), "f": x}

    return half(lib, tree(1.0), tree(0.5))


def refused(opt: Optimizer, grads: Any, folder: Path) -> None:
    """All that would use the state is refused, also in copies; looking at it is not."""
    for torn in (opt, *(make(opt) for make in COPIES.values())):
        for use, *arguments in ((torn.step, grads), (torn.state_dict,), (torn.save, folder / "no")):
            with pytest.raises(
                RuntimeError, match=r"interrupted in .* load a file.* load_state_dict"
            ):
                use(*arguments)
        assert torn.steps == opt.steps and str(torn.explain()) and repr(torn) == repr(opt)
    assert list(folder.iterdir()) == []


def mended(opt: Optimizer, grads: Any, twin: Optimizer, folder: Path, how: str) -> None:
    """With its parameters and a state restored, it is its twin again."""
    opt.params = copy.deepcopy(twin).params
    refused(opt, grads, folder)
    with pytest.raises(ValueError, match="keys is"):
        opt.load_state_dict({})
    refused(opt, grads, folder)
    if how == "load":
        twin.save(folder / "state")
        opt.load(folder / "state")
        (folder / "state").unlink()
    else:
        opt.load_state_dict(twin.state_dict())
    assert snapshot(opt) == snapshot(twin)
    opt.step(grads)
    twin.step(grads)
    assert snapshot(opt) == snapshot(twin) and len(set(opt.steps.values())) == 1


def interrupt(patch: pytest.MonkeyPatch, plan: Any, error: type[BaseException], when: str) -> None:
    """Make a plan fail before it does anything, or when it has done all."""
    step = plan.step

    def failing(*arguments: Any) -> Any:
        if when == "after":
            step(*arguments)
        raise error

    patch.setattr(plan, "step", failing)


@pytest.mark.promise(
    "After an interruption during in-place writes, no step is taken until a state is loaded."
)
@pytest.mark.parametrize(
    ("when", "error", "how"),
    [("before", KeyboardInterrupt, "load"), ("after", MemoryError, "load_state_dict")],
)
def test_an_interruption_tears_only_where_something_is_written_in_place(
    lib: Lib, when: str, error: type[BaseException], how: str, tmp_path: Path
) -> None:
    """Of the last plan, when those before it are done: on every engine. A plan that has done all,
    and knows it, is counted; only XLA's results are lost with the call that made them."""
    opt, grads, twin = mixed(lib)
    before = snapshot(opt)
    plans = sorted(opt._contents.current_plans(opt._engine), key=lambda plan: plan.in_place)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, plans[-1], error, when)
        with pytest.raises(error):
            opt.step(grads)
    if when == "after" and plans[-1].in_place and lib.runs != "xla":
        twin.step(grads)
        assert snapshot(opt) == snapshot(twin)
    elif plans[-1].in_place:
        assert opt.params["f"] == twin.params["f"] and opt.steps == twin.steps
        refused(opt, grads, tmp_path)
        for torn in (copy.copy(opt), pickle.loads(pickle.dumps(opt)), opt):
            mended(torn, grads, copy.deepcopy(twin), tmp_path, how)
    else:
        assert snapshot(opt) == before
        opt.step(grads)
        twin.step(grads)
        assert snapshot(opt) == snapshot(twin)


@pytest.mark.promise("What fails before the first write changes nothing.")
@pytest.mark.parametrize("error", INTERRUPTIONS)
@pytest.mark.parametrize("what", ["gather", "step"])
def test_what_fails_before_the_first_write_changes_nothing(
    lib: Lib, error: type[BaseException], what: str
) -> None:
    """Gathering the gradients, and stepping the leaves that are replaced."""
    opt, grads, twin = mixed(lib)
    before = snapshot(opt)
    first = next(plan for plan in opt._contents.current_plans(opt._engine) if not plan.in_place)
    last = opt._contents.current_plans(opt._engine)[-1]
    with pytest.MonkeyPatch.context() as patch:
        if what == "step":
            interrupt(patch, first, error, "after")
        else:
            patch.setattr(last, "gather", lambda *_: failed(error))
        with pytest.raises(error):
            opt.step(grads)
    assert snapshot(opt) == before
    opt.step(grads)
    twin.step(grads)
    assert snapshot(opt) == snapshot(twin)


def failed(error: type[BaseException]) -> Any:
    raise error


# In the middle of a leaf, or between two ---------------------------------------------------------


def fragile(xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
    """The update of a rule that fails at arrays of three numbers while told to."""
    if FAIL and p.shape == (3,):
        raise FAIL[0]
    m = m + g
    return p - c.a * m, m


FAIL: list[type[BaseException]] = []


def serving(engine: str) -> list[Any]:
    """The libraries that are written in place by an engine."""
    return params(tuple(lib for lib in LIBRARIES if lib.in_place and lib.runs == engine))


@pytest.mark.parametrize("lib", serving("eager"), indirect=True)
@pytest.mark.parametrize("error", [*INTERRUPTIONS, ArithmeticError])
@pytest.mark.parametrize("room", [eager.ROOM, 0])
def test_the_reference_writes_when_all_is_computed_or_is_torn_between_two_leaves(
    lib: Lib, error: type[BaseException], room: int, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(eager, "ROOM", room)
    ones, twos = (
        {"a": lib.array([x] * 2), "b": lib.array([x] * 3), "c": lib.array([x])} for x in (1.0, 2.0)
    )
    opt, grads, twin = half(lib, ones, twos, Custom(fragile))
    FAIL.append(error)
    try:
        with pytest.raises(error):
            opt.step(grads)
    finally:
        FAIL.clear()
    a, b, c = (lib.numpy(opt.params[name])[0] for name in "abc")
    if room:
        assert snapshot(opt) == snapshot(twin)
        return
    assert a != b == c
    refused(opt, grads, tmp_path)
    mended(opt, grads, twin, tmp_path, "load_state_dict")


def interrupt_second(patch: pytest.MonkeyPatch, owner: Any, name: str, error: Any) -> None:
    """Make the second call of a function fail."""
    whole, calls = getattr(owner, name), count(1)
    patch.setattr(owner, name, lambda *args: failed(error) if next(calls) == 2 else whole(*args))


@pytest.mark.parametrize("lib", serving("cpu"), indirect=True)
@pytest.mark.parametrize("error", INTERRUPTIONS)
def test_the_cpu_is_torn_between_two_pieces_of_a_converted_gradient(
    lib: Lib, error: type[BaseException], tmp_path: Path
) -> None:
    opt, grads, twin = half(lib, lib.array(np.ones(8), "float32"), lib.array(np.ones(8), "float64"))
    (plan,) = opt._contents.current_plans(opt._engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "PIECE", 4)
        interrupt_second(patch, plan._library, "fill", error)
        with pytest.raises(error):
            opt.step(grads)
    assert len(set(lib.numpy(opt.params).tolist())) == 2
    refused(opt, grads, tmp_path)
    mended(opt, grads, twin, tmp_path, "load_state_dict")


@pytest.mark.parametrize("steps", [1, 5])  # so that the next goes the long way, or the short one
def test_tiles_are_torn_between_two_of_them(
    steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lib = next(lib for lib in LIBRARIES if lib.tiles)
    monkeypatch.setattr(tiles.Kernel, "chunk", 4)
    with ready(lib):
        opt, grads, twin = half(lib, np.ones(8), np.ones(8), steps=steps)
        with pytest.MonkeyPatch.context() as patch:
            interrupt_second(patch, tiles.Kernel, "tile", KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                opt.step(grads)
        assert len(set(opt.params.tolist())) == 2
        refused(opt, grads, tmp_path)
        mended(opt, grads, twin, tmp_path, "load_state_dict")


def test_an_interrupted_load_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    opt, _, twin = mixed(next(lib for lib in LIBRARIES if str(lib) == "numpy"))
    whole = checkpoint.from_dict

    def interrupted(*arguments: Any) -> Any:
        rule, restored = whole(*arguments)
        return rule, (failed(KeyboardInterrupt) if x.steps else x for x in restored)

    state = twin.state_dict()
    state["state"]["a"]["step"] = 0
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "from_dict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.load_state_dict(state)
    assert opt.steps == {"a": 1, "b": 1, "f": 1}


# One bad leaf among good ones --------------------------------------------------------------------


class Pair(NamedTuple):
    """A container of the user's."""

    left: Any
    right: Any


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a leaf is."""

    library: str
    dtype: str
    shape: tuple[int, ...]

    def array(self, first: float, last: float) -> Any:
        """Numbers of this kind, from the first to the last."""
        if self.library == "python":
            return last
        lib = next(lib for lib in LIBRARIES if lib.name == self.library and lib.device == "cpu")
        values = np.full(self.shape, first)
        values.reshape(-1)[-1:] = last
        return lib.array(values, self.dtype)

    def faults(self) -> dict[str, tuple[Any, type[Exception]]]:
        """What is wrong as a gradient for it, and the error that it must give."""
        found: dict[str, tuple[Any, type[Exception]]] = {
            "structure": ([self.array(1.0, 2.0)], ValueError),
            "library": (1.0 if self.library == "numpy" else np.ones((1, 1, 1), "f4"), TypeError),
            "no array": (object(), TypeError),
            "bool": (True, TypeError),
        }
        if self.library != "python":
            found["integer"] = 1, TypeError
            parts = "float32" if "complex" in self.dtype else "complex64"
            for fault, error, other in (
                ("shape", ValueError, {"shape": (*self.shape, 1)}),
                ("integers", TypeError, {"dtype": "int32"}),
                ("parts", TypeError, {"dtype": parts}),
            ):
                found[fault] = dataclasses.replace(self, **other).array(1.0, 2.0), error
        if 0 not in self.shape:
            found["NaN"] = self.array(1.0, np.nan), ValueError
            found["infinity"] = self.array(1.0, -np.inf), ValueError
        return found


DTYPES = {
    "numpy": ("float16", "float32", "float64", "complex64"),
    "torch": ("bfloat16", "float32", "complex128"),
    "jax": ("float32", "complex64"),
}
KINDS = [
    Kind(lib.name, dtype, shape)
    for lib in LIBRARIES
    if lib.name in DTYPES and str(lib) == lib.name and not missing(lib)
    for dtype in DTYPES[lib.name]
    for shape in ((), (3,), (2, 0), (2, 2))
]
trees = st.recursive(
    st.sampled_from([*KINDS, Kind("python", "float64", ()), None]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


@pytest.mark.promise("One bad gradient, anywhere in a tree, is named and changes nothing.")
@given(trees, st.data())
def test_one_bad_leaf_is_named_and_changes_nothing(tree: Any, data: st.DataObject) -> None:
    def filled(first: float, last: float) -> Any:
        return optree.tree_map(lambda kind: kind.array(first, last), tree)

    opt = Adam(filled(1.0, -2.0), lr=0.1, nonfinite="raise")
    opt.step(filled(0.5, 3.0))
    twin, before = copy.deepcopy(opt), snapshot(opt)
    leaves, spec = optree.tree_flatten(tree)
    if leaves:
        which = data.draw(st.sampled_from(range(len(leaves))), label="which leaf")
        faults = leaves[which].faults()
        bad, error = faults[data.draw(st.sampled_from(sorted(faults)), label="fault")]
        grads = optree.tree_leaves(filled(2.0, -1.0))
        with pytest.raises(error, match=f"^{at(list(opt.steps)[which])}"):
            opt.step(optree.tree_unflatten(spec, [*grads[:which], bad, *grads[which + 1 :]]))
    assert snapshot(opt) == before
    for one in (opt, twin):
        one.step(filled(2.0, -1.0))
    assert snapshot(opt) == snapshot(twin)
