"""The CPU engine: the bits of the reference, whatever the memory, cut, threads and kernel."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adam_any import Adam, AdamW
from adam_any.engines import compiled, cpu, source, tiles
from adam_any.program import program
from tests.helpers.bits import differ, same
from tests.helpers.numbers import OPTIONS, SHAPES, data

KERNELS = [
    pytest.param("tiles", id="tiles"),
    pytest.param(
        "numba",
        marks=pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing())),
    ),
]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each of the two ways to run a program."""
    if request.param == "tiles":
        monkeypatch.setattr(compiled, "missing", lambda: "not here")
    yield request.param


class Cut:
    """Chunks of a length, and helpers for the smallest step, while it lasts."""

    def __init__(self, chunk: int, threads: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.chunk, self.number = chunk, threads

    def __enter__(self) -> None:
        self.patch.setattr(compiled.Kernel, "chunk", self.chunk)
        self.patch.setattr(tiles.Kernel, "chunk", min(self.chunk, tiles.TILE))
        if compiled.missing() is None:
            from adam_any.engines import threads

            self.patch.setattr(threads, "SHARE", 1)
            self.patch.setattr(threads, "WAKE", 1)
            self.patch.setattr(threads, "threads", lambda: self.number)

    def __exit__(self, *error: object) -> None:
        self.patch.undo()


OTHER = {"float32": "float64", "float64": "float16", "complex64": "complex128"}


@pytest.mark.promise(
    "The CPU engine has the bits of the reference, whatever the memory order, chunks and threads.",
    defect="D19",
    seen=["DeepSpeed#8307", "bitsandbytes#2010", "torch#88258"],
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    shapes=st.lists(SHAPES, min_size=1, max_size=5),
    dtype=st.sampled_from(cpu.DTYPES),
    orders=st.lists(st.sampled_from("CF"), min_size=6, max_size=6),
    cls=st.sampled_from([Adam, AdamW]),
    options=OPTIONS,
    chunk=st.sampled_from([1, 2, 3, 17, 64, 1000, 16384]),
    threads=st.integers(1, 4),
)
def test_the_bits_are_those_of_the_reference(
    kernel: str,
    seed: int,
    shapes: list[Any],
    dtype: str,
    orders: list[str],
    cls: Any,
    options: dict[str, Any],
    chunk: int,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    params = [data(rng, s, dtype, o) for s, o in zip(shapes, orders, strict=False)]
    theirs = [x.copy(order="K") for x in params]
    with Cut(chunk, threads):
        fast, slow = cls(params, **options), cls(theirs, engine="eager", **options)
        assert {choice.engine for choice in fast.explain()} == {"cpu"}
        for t in range(3):
            grads = [data(rng, s, dtype, orders[-1 - t]) for s in shapes]
            if t == 1:
                with np.errstate(all="ignore"):
                    grads[0] = grads[0].astype(OTHER.get(dtype, dtype))
            if t == 2:
                grads[-1] = None
            fast.step(grads), slow.step(grads)
    compare(fast, slow)


def compare(fast: Any, slow: Any) -> None:
    """Parameters, moments and step counts must be the same."""
    mine, theirs = fast.state_dict()["state"], slow.state_dict()["state"]
    for i, (a, b) in enumerate(zip(fast.params, slow.params, strict=True)):
        same(a, b)
        for name, value in theirs[str(i)].items():
            same(mine[str(i)][name], value)


@pytest.mark.promise(
    "PyTorch's tensors get the bits of NumPy's arrays.", defect="D19", seen=["bitsandbytes#2010"]
)
@pytest.mark.parametrize("dtype", cpu.DTYPES)
def test_torch_tensors_have_the_bits_of_numpy(kernel: str, torch_: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    shapes, orders = [(1000,), (7, 9), ()], "CFC"
    arrays = [data(rng, s, dtype, o) for s, o in zip(shapes, orders, strict=True)]
    tensors = [torch_.from_numpy(x.copy(order="K")) for x in arrays]
    tensors[0].requires_grad_()
    fast = Adam(tensors, amsgrad=True, weight_decay=0.1)
    slow = Adam(arrays, amsgrad=True, weight_decay=0.1, engine="eager")
    assert {choice.engine for choice in fast.explain()} == {"cpu"}
    for t in range(4):
        grads = [data(rng, s, dtype, "CF"[t % 2]) for s in shapes]
        lazy = [torch_.from_numpy(g.copy(order="K")) for g in grads]
        if t == 3 and dtype.startswith("complex"):
            lazy, grads = [g.conj() for g in lazy], [g.conj() for g in grads]
        fast.step(lazy), slow.step(grads)
    for mine, theirs in zip(tensors, arrays, strict=True):
        same(mine.detach().numpy(), theirs)


def runs(made: Any, run: Any) -> list[Any]:
    """p, m and v after one call of a kernel."""
    rng = np.random.default_rng(3)
    g, *state = (rng.standard_normal(99).astype(np.float32) for _ in range(4))
    state[2] = abs(state[2])
    table = cpu.Table([[x.ctypes.data for x in state]], [99], 40)
    table.gradients[0] = g.ctypes.data
    run(made).bind(table)([0.3] * len(made.scalars))
    return state


SWAPS = {
    "add": "subtract",
    "subtract": "add",
    "multiply": "divide",
    "divide": "multiply",
    "sqrt": "abs",
}


@pytest.mark.parametrize("k", range(13))
def test_another_operation_gives_other_bits(kernel: str, k: int) -> None:
    """That the tests above can fail: each operation of the program matters to some bit."""
    made = program(Adam(np.ones(1))._rule)
    instructions = list(made.instructions)
    changed = instructions[k]._replace(operation=SWAPS[instructions[k].operation])
    instructions[k] = changed
    engine = tiles if kernel == "tiles" else compiled
    other = dataclasses.replace(made, instructions=tuple(instructions))
    right = runs(made, lambda it: engine.Kernel(it, "float32"))
    wrong = runs(other, lambda it: engine.Kernel(it, "float32"))
    assert any(differ(a, b) for a, b in zip(right, wrong, strict=True))


@pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))
def test_a_change_in_the_generated_code_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One temporary that is contracted with the next is enough."""
    text = source.numba_source

    def contracted(*args: Any, **kwargs: Any) -> str:
        made = text(*args, **kwargs)
        assert made.count("t11 = c_alpha * t10") == 1
        return made.replace("t11 = c_alpha * t10", "t11 = real(float(c_alpha) * t2 / t9)")

    params, theirs = (list(np.random.default_rng(0).standard_normal((1, 999))) for _ in range(2))
    monkeypatch.setattr(compiled, "numba_source", contracted)
    Adam(params).step(params), Adam(theirs, engine="eager").step(theirs)
    assert differ(params[0], theirs[0])


def test_a_gradient_may_be_its_parameter_or_overlap_another(kernel: str) -> None:
    def tree() -> list[Any]:
        base = np.random.default_rng(0).standard_normal(1000)
        return [base[:500], base[500:]]

    ours, theirs = tree(), tree()
    fast, slow = Adam(ours), Adam(theirs, engine="eager")
    for mine in (
        lambda x: [x[0], x[1]],
        lambda x: [x[1], x[0]],
        lambda x: [x[0].base[250:750], x[0].base[1:501]],
        lambda x: [x[0][::-1], x[1]],
    ):
        fast.step(mine(ours)), slow.step(mine(theirs))
    compare(fast, slow)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.astype(np.result_type(g, np.float64)),
        lambda g: np.asfortranarray(g),
        lambda g: np.repeat(g, 2, axis=1)[:, ::2],
        lambda g: np.broadcast_to(g[:1], g.shape),
        lambda g: _frozen(g),
        lambda g: _unaligned(g),
    ],
)
def test_a_gradient_in_whatever_memory_is_read_and_never_written(
    kernel: str, monkeypatch: pytest.MonkeyPatch, change: Any, dtype: str
) -> None:
    monkeypatch.setattr(cpu, "PIECE", 1000)  # several pieces, that end within rows
    rng = np.random.default_rng(0)
    p = data(rng, (7, 900), dtype)
    q = p.copy()
    g = change(data(rng, (7, 900), dtype))
    before = g.copy()
    fast, slow = Adam([p]), Adam([q], engine="eager")
    fast.step([g]), slow.step([g])
    compare(fast, slow)
    same(g, before)


def test_a_scalar_is_the_gradient_of_an_array_without_axes(kernel: str) -> None:
    p, q = np.zeros(()), np.zeros(())
    fast, slow = Adam([p]), Adam([q], engine="eager")
    for t in range(50):
        g = np.sum(np.arange(3.0) - t)  # NumPy gives a scalar, which has no lasting address
        fast.step([g]), slow.step([g])
    compare(fast, slow)


def _frozen(g: Any) -> Any:
    g.flags.writeable = False
    return g


def _unaligned(g: Any) -> Any:
    return np.frombuffer(bytearray(b"x" + g.tobytes()), g.dtype, offset=1).reshape(g.shape)


@pytest.mark.parametrize("way", ["load", "pickle", "copy"])
def test_moments_of_any_layout_are_laid_out_as_their_parameter(kernel: str, way: str) -> None:
    rng = np.random.default_rng(0)
    shape = (5, 6, 7)
    params = [data(rng, shape, "complex64", "F"), data(rng, shape, "float64").transpose(1, 0, 2)]
    theirs = [x.copy(order="K") for x in params]
    fast, slow = Adam(params), Adam(theirs, engine="eager")
    grads = [data(rng, x.shape, str(x.dtype)) for x in params]
    fast.step(grads), slow.step(grads)
    if way == "load":
        state = fast.state_dict()
        for entry in state["state"].values():
            entry["m"], entry["v"] = np.ascontiguousarray(entry["m"]), entry["v"].copy("F")
        fast.load_state_dict(state)
    else:
        fast = pickle.loads(pickle.dumps(fast)) if way == "pickle" else copy.deepcopy(fast)
    fast.step(grads), slow.step(grads)
    compare(fast, slow)


def test_a_tensor_whose_data_is_replaced_is_followed(kernel: str, torch_: Any) -> None:
    p = torch_.nn.Parameter(torch_.zeros(5))
    opt = Adam(p, lr=1.0)
    opt.step(torch_.ones(5))
    old = p.data
    p.data = torch_.full((5,), 10.0)
    opt.step(torch_.ones(5))
    assert p.tolist() == pytest.approx([9.0] * 5)
    assert old.tolist() == pytest.approx([-1.0] * 5)
    p.data = p.data.double()
    with pytest.raises(TypeError, match="float64, but it was"):
        opt.step(torch_.ones(5))
    p.data = torch_.full((6,), 10.0)
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        opt.step(torch_.ones(5))
    assert opt.steps == {"": 2}


def test_autograd_learns_that_a_tensor_was_written(kernel: str, torch_: Any) -> None:
    p = torch_.ones(3, requires_grad=True)
    loss = (p * p).sum()
    Adam(p).step(torch_.ones(3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_tensor_that_is_no_plain_memory_is_left_to_the_reference(torch_: Any) -> None:
    z = torch_.zeros(3, dtype=torch_.complex64)
    params = {"conj": z.conj(), "half": torch_.zeros(3, dtype=torch_.bfloat16), "imag": z}
    reasons = {x.path: (x.engine, x.reason) for x in Adam({"c": params["conj"]}).explain()}
    assert reasons["c"][0] == "eager"
    assert "conjugate" in reasons["c"][1]
    (half,) = Adam({"h": params["half"]}).explain()
    assert (half.engine, "bfloat16" in half.reason) == ("eager", True)


def test_an_interrupted_step_leaves_the_optimizer_torn(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt = Adam(np.zeros(3))
    opt.step(np.ones(3))
    state = opt.state_dict()

    def interrupted(values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opt._plans[0], "_launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opt.step(np.ones(3))
    with pytest.raises(RuntimeError, match="load_state_dict"):
        opt.step(np.ones(3))
    opt.load_state_dict(state)
    opt.step(np.ones(3))


STEP = """
import numpy as np
from adam_any import Adam
p = np.zeros(1000, np.float32)
Adam(p, lr=1.0).step(np.ones(1000, np.float32))
assert p.tolist() == [-1.0] * 1000, p[:3]
import sys
if "numba" in sys.modules:
    import os
    print(os.path.dirname(next(m.__file__ for n, m in sys.modules.items() if n[:7] == "kernel_")))
"""


def started(home: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "NUMBA_"))}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", STEP],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out.strip()


needs_numba = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))


@needs_numba
def test_processes_that_start_at_once_share_one_file_and_its_machine_code(tmp_path: Path) -> None:
    where = {finished(process) for process in [started(tmp_path) for _ in range(3)]}
    kept = tmp_path / ".cache" / "adam_any"
    assert where == {str(kept)}
    assert len(list(kept.glob("*.py"))) == 1
    assert [path.stat().st_mtime_ns for path in kept.glob("*.py")] == [0]
    code = {path.name: path.stat().st_mtime_ns for path in kept.rglob("*.nbc")}
    assert code
    finished(started(tmp_path))
    assert {path.name: path.stat().st_mtime_ns for path in kept.rglob("*.nbc")} == code


@needs_numba
def test_a_home_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.write_text("")  # no directory can be made in it, not even by root
    other.mkdir()
    assert Path(finished(started(home, TMPDIR=str(other)))).parent == other


@needs_numba
def test_code_is_not_run_from_a_directory_that_others_can_write(tmp_path: Path) -> None:
    kept = tmp_path / ".cache" / "adam_any"
    kept.mkdir(parents=True)
    kept.chmod(0o777)
    other = tmp_path / "other"
    other.mkdir()
    assert Path(finished(started(tmp_path, TMPDIR=str(other)))).parent == other


@needs_numba
def test_where_nothing_can_be_written_it_is_compiled_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from adam_any.engines import cache

    def full(*_: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(cache, "keep", full)
    monkeypatch.setattr(compiled, "_kernels", {})
    p = np.zeros(5, np.float32)
    Adam(p, lr=1.0).step(np.ones(5, np.float32))
    assert p.tolist() == [-1.0] * 5


def test_without_numba_explain_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    compiled.missing.cache_clear()
    try:
        (choice,) = Adam(np.zeros(3)).explain()
    finally:
        compiled.missing.cache_clear()
    assert choice.engine == "cpu"
    assert choice.reason.startswith("one pass in cache-sized tiles")
