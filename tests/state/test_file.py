"""State in a file: save and load."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from adam_any import Adam, AdamW, Optimizer
from tests.helpers.bits import as_bytes, refused, snapshot
from tests.helpers.files import put, seal
from tests.helpers.libraries import Lib
from tests.helpers.optimizers import example, schedule
from tests.helpers.rules import Sgd
from tests.helpers.systems import needs_posix_files


def moments(opt: Optimizer) -> dict[str, Any]:
    """Every moment by its name in the file, with its dtype and shape."""
    return {
        f"{path}/{name}": (str(x.dtype).rpartition(".")[2], tuple(x.shape), as_bytes(x))
        for path, entry in opt.state_dict()["state"].items()
        for name, x in entry.items()
        if name != "step"
    }


def stepped(**options: Any) -> Adam:
    opt = Adam({"a": np.ones((3, 2)), "b": np.float32(1)}, **options)
    opt.step({"a": np.full((3, 2), 0.25), "b": np.float32(0.5)})
    return opt


def by_dict(here: Optimizer, there: Optimizer, path: Path) -> None:
    there.load_state_dict(here.state_dict())


def by_file(here: Optimizer, there: Optimizer, path: Path) -> None:
    here.save(path)
    there.load(path)


HANDED = pytest.mark.parametrize("hand", [by_dict, by_file])


@pytest.mark.promise(
    "A file and a state dict keep the dtypes and bits of moments.",
    defect="D11",
    seen=["torch#43706", "fairseq2#212"],
)
@HANDED
def test_a_loaded_optimizer_continues_with_the_same_bits(
    lib: Lib, hand: Any, tmp_path: Path
) -> None:
    """Dtypes, shapes, bits, step counts and hyperparameters; half precision among them."""
    opt, grads = example(lib, betas=(0.8, 0.99), weight_decay=0.1)
    other, _ = example(lib, lr=0.7)
    other.params = copy.deepcopy(opt).params
    before = snapshot(opt)
    hand(opt, other, tmp_path / "state")
    assert repr(other) == repr(opt) and other.steps == opt.steps
    assert moments(other) == moments(opt)
    assert snapshot(opt) == before
    opt.step(grads), other.step(grads)
    assert snapshot(other) == snapshot(opt) != before


@pytest.mark.promise("State moves between libraries and devices without losing a bit.")
@HANDED
def test_a_state_goes_across_libraries(lib: Lib, hand: Any, tmp_path: Path) -> None:
    numbers = np.linspace(-1, 1, 6).reshape(2, 3)
    for dtype in ("float32", "complex128"):
        here = Adam({"w": lib.array(numbers, dtype)}, lr=0.1, engine=lib.engine)
        here.step({"w": lib.array(numbers, dtype)})
        there = Adam({"w": numbers.astype(dtype)}, lr=0.7)
        hand(here, there, tmp_path / "here")
        assert there.lr == 0.1 and moments(there) == moments(here)
        back = Adam({"w": lib.array(numbers, dtype)}, engine=lib.engine)
        hand(there, back, tmp_path / "there")
        assert moments(back) == moments(here)


@HANDED
def test_a_schedule_is_saved_as_none_and_stays_as_constructed(hand: Any, tmp_path: Path) -> None:
    opt, fixed = Adam(1.0, lr=schedule), Adam(1.0, lr=0.5)
    assert opt.state_dict()["hyperparameters"]["lr"] is None
    hand(opt, fixed, tmp_path / "f")
    assert fixed.lr == 0.5
    hand(fixed, opt, tmp_path / "f")
    assert opt.lr is schedule


@HANDED
def test_a_state_that_is_read_only_can_be_stepped_on(hand: Any, tmp_path: Path) -> None:
    opt = stepped()
    state = opt.state_dict()
    for entry in state["state"].values():
        entry["m"].flags.writeable = entry["v"].flags.writeable = False
    opt.load_state_dict(state)
    hand(opt, opt, tmp_path / "f")
    assert all(x.flags.writeable for leaf in opt._contents.leaves for x in leaf.moments)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "C": lambda x: x.copy(),
    "Fortran": lambda x: np.asfortranarray(x),
    "transposed": lambda x: x.T,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[::-1, ::-1],
    "0-d": lambda x: x[0, 0, 0].reshape(()),
    "empty": lambda x: x[:, :0],
    "size 1": lambda x: x[:1, :1, :1],
    "permuted": lambda x: np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1),
}


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_order_of_a_moment_does_not_matter(
    layout: str, dtype: str, tmp_path: Path
) -> None:
    """safetensors writes the memory as it lies, whatever the strides."""
    values = np.arange(24.0).reshape(2, 3, 4).astype(dtype)
    p = LAYOUTS[layout](values)
    opt = Adam(p.copy(order="K"), lr=0.1)
    opt.step(p + 1)
    state = opt.state_dict()["state"][""]
    odd = {"m": np.asfortranarray(state["m"]), "v": state["v"][::-1][::-1]} if p.ndim else {}
    opt.load_state_dict({**opt.state_dict(), "state": {"": {**state, **odd}}})
    opt.save(tmp_path / "f")
    with safe_open(tmp_path / "f", framework="np") as file:
        for name in ("m", "v"):
            found = file.get_tensor(f"/{name}")
            assert found.shape == state[name].shape and found.dtype == state[name].dtype
            assert found.tobytes() == state[name].tobytes()
    other = Adam(p.copy(order="K"))
    other.load(tmp_path / "f")
    assert moments(other) == moments(opt)
    opt.step(p)
    other.step(p)
    assert moments(other) == moments(opt)


def test_the_file_is_laid_out_as_documented(tmp_path: Path) -> None:
    """Format and checksum, stated once more: another program can read and check the file."""
    opt = stepped(lr=0.1)
    opt.save(tmp_path / "f")
    with safe_open(tmp_path / "f", framework="np") as file:
        metadata = file.metadata()
        names = sorted(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    assert names == ["a/m", "a/param", "a/v", "b/m", "b/param", "b/v"]
    assert json.loads(metadata["adam_any"]) == {
        "format": 2,
        "params": True,
        "rule": "adam",
        "options": dict.fromkeys(("decoupled", "amsgrad", "maximize", "eps_hat"), False),
        "hyperparameters": {
            "lr": 0.1,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 0.0,
            "lr_max": 0.0,
        },
        "steps": {"a": 1, "b": 1},
    }
    lines = [metadata["adam_any"]]
    for name, x in tensors.items():
        data = hashlib.sha256(x.tobytes()).hexdigest()
        lines.append(f'["{name}", "{x.dtype}", {list(x.shape)}, "{data}"]')
    assert metadata == {
        "adam_any": metadata["adam_any"],
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


finite = st.floats(min_value=0, max_value=1e38, allow_subnormal=True)
beta = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(lr=finite, betas=st.tuples(beta, beta), eps=finite, decay=finite)
def test_hyperparameters_survive_bit_for_bit(
    tmp_path_factory: Any, lr: float, betas: tuple[float, float], eps: float, decay: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "hyperparameters"
    opt = AdamW(np.ones(1), lr, betas, eps, decay)
    opt.save(path)
    other = AdamW(np.ones(1))
    other.load(path)
    given_, found = (opt.state_dict()["hyperparameters"], other.state_dict()["hyperparameters"])
    assert json.dumps(found) == json.dumps(given_) and found == given_


@pytest.mark.parametrize("tree", [{}, None, {"a": None}, np.ones(0), {"ü/..": {"../b": 1.0}}])
def test_every_tree_can_be_saved(tree: Any, tmp_path: Path) -> None:
    Adam(tree, lr=0.5).save(tmp_path / "f")
    other = Adam(tree)
    other.load(tmp_path / "f")
    assert other.lr == 0.5
    assert os.listdir(tmp_path) == ["f"]


def test_a_rule_of_the_users_own(tmp_path: Path) -> None:
    rule = Sgd(lr=0.5, limits=(0.1, float("inf")), count=np.float32(0.1))
    opt = Optimizer(np.ones(2), rule)
    opt.step(np.ones(2))
    opt.save(tmp_path / "f")
    other = Optimizer(np.ones(2), Sgd())
    other.load(tmp_path / "f")
    assert moments(other) == moments(opt)
    assert other.state_dict()["hyperparameters"] == opt.state_dict()["hyperparameters"]
    with pytest.raises(ValueError, match="options is"):
        Optimizer(np.ones(2), Sgd(kind="other")).load(tmp_path / "f")
    with pytest.raises(ValueError, match=r"limits is .* must be a tuple of 1 numbers"):
        Optimizer(np.ones(2), Sgd(limits=(0.0,))).load(tmp_path / "f")
    for kind in ([1], object(), b"x", {1: 2}):
        with pytest.raises(ValueError, match=r"kind is .* which a file cannot hold"):
            Optimizer(np.ones(2), Sgd(kind=kind)).save(tmp_path / "f")


def test_names_that_a_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    stepped().save(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    with pytest.raises(ValueError, match="surrogates"):
        Adam({"\ud800": np.ones(1)}).save(tmp_path / "f")
    # What safetensors would refuse to read: a header of more than 100 MB.
    with pytest.raises(ValueError, match=r"a file cannot hold this state: .* header too large"):
        Adam({"x" * 34_000_000: np.ones(1)}).save(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == before
    assert os.listdir(tmp_path) == ["f"]


# What is on the disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    call: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt = stepped()
    opt.save(tmp_path / "f")
    old, before = (tmp_path / "f").read_bytes(), snapshot(opt)
    opt.lr = 0.5

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)) as raised:
        opt.save(tmp_path / "f")
    monkeypatch.undo()
    if isinstance(raised.value, OSError):
        assert raised.value.errno == errno.ENOSPC
        assert raised.value.filename == str(tmp_path / "f")
        assert "what was there is unchanged: no space" in str(raised.value)
    assert (tmp_path / "f").read_bytes() == old and os.listdir(tmp_path) == ["f"]
    assert snapshot(opt) == before
    opt.save(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() != old


@needs_posix_files
def test_the_file_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        info = os.fstat(handle)
        seen.append("folder" if stat.S_ISDIR(info.st_mode) else f"file of {info.st_size}")
        fsync(handle)

    def replaced(old: str, new: str) -> None:
        seen.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    stepped().save(tmp_path / "f")
    size = (tmp_path / "f").stat().st_size
    assert seen == [f"file of {size}", "replace", "folder"]


@needs_posix_files
def test_a_new_file_gets_the_usual_permissions_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    opt = stepped()
    opt.save(tmp_path / "f")
    assert (tmp_path / "f").stat().st_mode == usual
    (tmp_path / "f").chmod(0o640)
    opt.save(tmp_path / "f")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


@needs_posix_files
def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "latest"
    link.symlink_to(tmp_path / "elsewhere" / "f")
    opt = stepped()
    for _ in range(2):  # to a file that is not there yet, and to one that is
        opt.save(link)
        assert link.is_symlink() and not (tmp_path / "elsewhere" / "f").is_symlink()
        Adam({"a": np.ones((3, 2)), "b": np.float32(1)}).load(link)


@needs_posix_files
def test_a_path_is_a_str_or_a_path_here_or_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opt = stepped()
    for path in ("plain", Path("path"), str(tmp_path / "whole"), "n" * 255, "ü \udcff"):
        opt.save(path)
        opt.load(path)
    assert len(os.listdir()) == 5


@needs_posix_files
def test_what_is_no_file_is_an_os_error(tmp_path: Path) -> None:
    opt = stepped()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "f").touch()
    before = snapshot(opt)
    missing = tmp_path / "no" / "f"
    for call in (opt.save, opt.load):
        with pytest.raises(FileNotFoundError, match="no"):
            call(missing)
        for path in (tmp_path, tmp_path / "fifo", "/dev/null"):
            with pytest.raises(OSError, match="not a regular file"):
                call(path)
        with pytest.raises(NotADirectoryError):
            call(tmp_path / "f" / "g")
    with pytest.raises(FileNotFoundError) as raised:
        opt.load(tmp_path / "none")
    assert raised.value.filename == str(tmp_path / "none")
    assert snapshot(opt) == before
    assert sorted(os.listdir(tmp_path)) == ["f", "fifo"]


@needs_posix_files
def test_a_file_that_may_not_be_read_is_a_permission_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything: run as another user")
    opt = stepped()
    opt.save(tmp_path / "f")
    (tmp_path / "f").chmod(0)
    with pytest.raises(PermissionError):
        opt.load(tmp_path / "f")


# What does not fit -------------------------------------------------------------------------------


def rewritten(path: Path, change: Any) -> None:
    """Change the document and the tensors of a file, and seal it anew."""
    with safe_open(path, framework="np") as file:
        document = json.loads(file.metadata()["adam_any"])
    document, tensors = change((document, load_file(path)))
    seal(path, json.dumps(document), tensors)


WRONG = {
    "format": (put(0, "format", to=3), "format is 3"),
    "extra": (put(0, "more", to=2), "keys is"),
    "rule": (put(0, "rule", to="lion"), "rule is 'lion'"),
    "options": (put(0, "options", "amsgrad", to=True), "options is"),
    "list of options": (put(0, "options", to=[]), "options is"),
    "lr": (put(0, "hyperparameters", "lr", to=-1), "lr is -1"),
    "lr nan": (put(0, "hyperparameters", "lr", to=float("nan")), "lr is nan"),
    "lr huge": (put(0, "hyperparameters", "lr", to=10**400), "lr is 1000"),
    "lr list": (put(0, "hyperparameters", "lr", to=[0.1]), "lr is"),
    "betas": (put(0, "hyperparameters", "betas", to=[0.9, 0.9, 0.9]), "betas is"),
    "beta": (put(0, "hyperparameters", "betas", to=[0.9, True]), "betas is"),
    "eps none": (put(0, "hyperparameters", "eps", to=None), "eps is None"),
    "eps tiny": (put(0, "hyperparameters", "eps", to=1e-60), "'b': eps = 1e-60 is 0.0"),
    "no steps": (put(0, "steps", to=None), "steps: it is a NoneType"),
    "steps of others": (put(0, "steps", to={"a": 1}), r"steps: missing \['b'\]"),
    "step negative": (put(0, "steps", "a", to=-1), "'a': step is -1"),
    "step half": (put(0, "steps", "a", to=0.5), "'a': step is 0.5"),
    "step huge": (put(0, "steps", "a", to=2**63), "'a': step is 9223372036854775808"),
    "step infinite": (put(0, "steps", "a", to=float("inf")), "'a': step is inf"),
    "step text": (put(0, "steps", "a", to="1"), "'a': step is '1'"),
    "missing": (put(1, "a/m"), r"missing \['a/m'\]"),
    "unknown": (put(1, "a/x", to=np.ones(1)), r"not known \['a/x'\]"),
    "shape": (
        put(1, "a/m", to=np.ones((2, 3))),
        r"'a': m is F64 of \(2, 3\) .* be F64 of \(3, 2\)",
    ),
    "dtype": (put(1, "a/v", to=np.ones((3, 2), "f4")), r"'a': v is F32 of \(3, 2\)"),
    "complex": (put(1, "b/v", to=np.ones((), "c8")), "'b': v is C64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(name: str, tmp_path: Path) -> None:
    change, message = WRONG[name]
    opt = stepped()
    opt.save(tmp_path / "f")
    rewritten(tmp_path / "f", lambda whole: whole)
    opt.load(tmp_path / "f")  # what is sealed here can be loaded
    rewritten(tmp_path / "f", change)
    with refused(opt, ValueError, match=message):
        opt.load(tmp_path / "f")


def test_the_checksum_covers_every_byte_of_every_moment(tmp_path: Path) -> None:
    opt = stepped()
    opt.save(tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) - begin == 3 * (6 * 8 + 4)
    for at in range(begin, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (tmp_path / "f").write_bytes(damaged)
        with refused(opt, ValueError, match="checksum"):
            opt.load(tmp_path / "f")


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    opt = stepped()
    tensors = {"a/m": np.ones((3, 2))}
    for metadata in (None, {}, {"format": "pt"}, {"adam_any": "{}"}):
        save_file(tensors, tmp_path / "f", metadata=metadata)
        with pytest.raises(ValueError, match="not written by adam_any"):
            opt.load(tmp_path / "f")
    for document in ("", "[]", "3", "{", "[" * 100_000, "9" * 5000):
        seal(tmp_path / "f", document, tensors)
        with pytest.raises(ValueError, match=r"metadata is not (valid JSON|a JSON object)"):
            opt.load(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(ValueError, match="not a checkpoint"):
        opt.load(tmp_path / "f")


@pytest.mark.promise("Loading a file never unpickles anything.")
def test_nothing_is_unpickled(tmp_path: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("unpickled",))

    (tmp_path / "f").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a checkpoint"):
        stepped().load(tmp_path / "f")


@pytest.mark.promise("A state on the host is saved without copying it.")
def test_a_state_on_the_host_is_saved_without_a_copy_and_loaded_with_one(tmp_path: Path) -> None:
    leaves = {str(i): np.ones(250_000) for i in range(8)}  # 16 moments of 2 MB
    opt = Adam(leaves)
    opt.step(leaves)
    opt.save(tmp_path / "f")  # whatever is imported at the first time
    opt.load(tmp_path / "f")
    tracemalloc.start()
    try:
        opt.save(tmp_path / "f")
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.clear_traces()
        opt.load(tmp_path / "f")
        loading = tracemalloc.get_traced_memory()[1]
        tracemalloc.clear_traces()
        opt.load(tmp_path / "f", params=False)
        moments_only = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saving < 1e6
    assert 48e6 < loading < 48e6 + 2 * 2e6 + 1e6
    assert 32e6 < moments_only < 32e6 + 2 * 2e6 + 1e6
