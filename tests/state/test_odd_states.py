"""Odd contents of a checkpoint: refused at once, in a message of a few lines, or made ordinary."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from adam_any import Adam, AdamW
from tests.helpers.bits import as_bytes, snapshot
from tests.helpers.files import seal
from tests.helpers.libraries import Lib
from tests.helpers.optimizers import schedule


def with_moment(opt: Adam, m: Any) -> dict[str, Any]:
    state = opt.state_dict()
    state["state"][""]["m"] = m
    return state


def refused(opt: Adam, m: Any, message: str) -> None:
    before = snapshot(opt)
    with pytest.raises(ValueError, match=message) as raised:
        opt.load_state_dict(with_moment(opt, m))
    assert len(str(raised.value)) < 500 and snapshot(opt) == before


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sparse", "the parameter: the m has layout torch.sparse_coo"),
        ("csr", "the parameter: the m has layout torch.sparse_csr"),
        ("mkldnn", "the parameter: the m has layout torch._mkldnn"),
        ("meta", "the parameter: the m is a meta tensor"),
        ("zero", "the parameter: the m is a zero tensor"),
        ("nested", "the parameter: the m is a nested tensor"),
        ("freed", "the parameter: the storage of the m has 0 bytes"),
        ("half", r"the parameter: m is float16 of \(2, 2\); it must be float32"),
    ],
)
@pytest.mark.parametrize("home", ["numpy", "torch"])
@pytest.mark.filterwarnings("ignore:.*Sparse CSR:UserWarning", "ignore:.*nested:UserWarning")
def test_moments_that_are_no_plain_tensors_are_refused(
    torch_: Any, kind: str, message: str, home: str
) -> None:
    m = torch_.ones(2, 2)
    if kind == "mkldnn" and not torch_.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    if kind == "freed":
        m.untyped_storage().resize_(0)
    make = {
        "sparse": m.to_sparse,
        "csr": m.to_sparse_csr,
        "mkldnn": m.to_mkldnn,
        "meta": lambda: m.to("meta"),
        "zero": lambda: torch_._efficientzerotensor(2, 2),
        "nested": lambda: torch_.nested.nested_tensor([torch_.ones(2), torch_.ones(3)]),
        "freed": lambda: m,
        "half": m.half,
    }[kind]
    opt = Adam(torch_.ones(2, 2) if home == "torch" else np.ones((2, 2), "f4"))
    refused(opt, make(), message)


def test_subclasses_of_arrays_are_refused() -> None:
    masked = np.ma.masked_array(np.ones(2), [True, False])
    refused(
        Adam(np.ones(2)), masked, "the parameter: the m is a MaskedArray, whose operators differ"
    )


def test_moments_with_a_graph_are_detached(torch_: Any) -> None:
    for engine in (None, "eager"):
        opt = Adam(torch_.ones(2), engine=engine)
        m = torch_.ones(2, requires_grad=True)
        for given in (m, m * 2, torch_.nn.Parameter(torch_.ones(2)), torch_.ones(2)._neg_view()):
            opt.load_state_dict(with_moment(opt, given))
            (mine, _) = opt._contents.leaves[0].moments
            assert type(mine) is torch_.Tensor and not mine.requires_grad and not mine.is_neg()
            assert mine.tolist() == given.tolist()
            opt.step(torch_.ones(2))
            assert opt.state_dict()["state"][""]["m"].grad_fn is None


def test_a_state_from_the_host_is_copied(lib: Lib) -> None:
    opt = Adam(lib.array([1.0, 2.0]), engine=lib.engine)
    host = np.ones(2)
    opt.load_state_dict(with_moment(opt, host))
    host[:] = 7
    assert as_bytes(opt.state_dict()["state"][""]["m"]) == np.ones(2).tobytes()


def test_a_jax_tracer_is_no_moment() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    opt = Adam(np.ones(2, "f4"))

    def traced(m: Any) -> Any:
        refused(opt, m, "the parameter: m is .*Tracer; it must be float32")
        return m

    jax.jit(traced)(jax.numpy.ones(2))


# Counts ------------------------------------------------------------------------------------------


def document(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="np") as file:
        found: dict[str, Any] = json.loads(file.metadata()["adam_any"])
        return found


@pytest.mark.parametrize("count", [2**53, 2**53 + 1, 2**63 - 1])
def test_a_count_that_is_loaded_can_be_counted_on_and_saved(count: int, tmp_path: Path) -> None:
    opt = Adam(np.ones(2))
    opt.save(tmp_path / "f")
    state = opt.state_dict()
    state["state"][""]["step"] = count
    values = document(tmp_path / "f")
    values["steps"][""] = count
    seal(tmp_path / "f", json.dumps(values), load_file(tmp_path / "f"))
    for load in (lambda: opt.load(tmp_path / "f"), lambda: opt.load_state_dict(state)):
        if count <= 2**53:
            load()
            opt.step(np.ones(2))
            assert opt.state_dict()["state"][""]["step"] == count + 1
            opt.save(tmp_path / "g")
        else:
            with pytest.raises(
                ValueError, match=r"the parameter: step is \d+; .* from 0 to 2\*\*53"
            ):
                load()


# Messages ----------------------------------------------------------------------------------------


def test_messages_show_a_few_of_many_names(tmp_path: Path) -> None:
    opt = Adam({"w": np.ones(2)})
    opt.save(tmp_path / "f")
    values, tensors = document(tmp_path / "f"), load_file(tmp_path / "f")
    many = {f"name {i}": np.ones(1) for i in range(10_000)}
    seal(tmp_path / "f", json.dumps(values), {**tensors, **many})
    before = snapshot(opt)
    with pytest.raises(ValueError, match=r"not known \['name 0', .*, and 9,995 more\]") as raised:
        opt.load(tmp_path / "f")
    assert len(str(raised.value)) < 500
    with pytest.raises(ValueError, match=r"missing \[.*, and 9,995 more\]") as raised:
        Adam(dict.fromkeys(many, 1.0) | {"w": 1.0}).load_state_dict(opt.state_dict())
    assert len(str(raised.value)) < 500
    assert snapshot(opt) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update({"x" * 10**6: 1}),
        lambda d: d.update(format="x" * 10**6),
        lambda d: d.update(rule="x" * 10**6),
        lambda d: d.update(options={"x" * 10**6: 1}),
        lambda d: d.update(hyperparameters={"x" * 10**6: 1}),
        lambda d: d["hyperparameters"].update(lr="x" * 10**6),
        lambda d: d["hyperparameters"].update(lr=10**10_000),
        lambda d: d["hyperparameters"].update(betas=(0.9,) * 10**5),
        lambda d: d["state"][""].update(step="x" * 10**6),
        lambda d: d["state"][""].update(step=10**10_000),
        lambda d: d["state"][""].update({"x" * 10**6: 1}),
        lambda d: d["state"][""].update(m="x" * 10**6),
    ],
)
def test_messages_are_short_whatever_is_in_a_state(change: Any) -> None:
    opt = Adam(np.ones(2))
    state = opt.state_dict()
    change(state)
    with pytest.raises(ValueError) as raised:
        opt.load_state_dict(state)
    assert len(str(raised.value)) < 1000


def test_a_path_with_half_a_character_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^'a\\ud800': this path has surrogates") as raised:
        Adam({"a\ud800": np.ones(1), "b": 1.0}).save(tmp_path / "f")
    assert type(raised.value) is ValueError and list(tmp_path.iterdir()) == []


# Hyperparameters ---------------------------------------------------------------------------------


def test_a_state_may_be_loaded_without_its_hyperparameters(lib: Lib) -> None:
    opt = Adam(lib.array([1.0, 2.0]), lr=0.1, betas=(0.5, 0.5), engine=lib.engine)
    opt.step(lib.array([3.0, -1.0]))
    other = Adam(copy.deepcopy(opt).params, lr=0.7, eps=1e-4, engine=lib.engine)
    shown = repr(other)
    other.load_state_dict(opt.state_dict(), hyperparameters=False)
    assert repr(other) == shown and other.lr == 0.7
    assert snapshot(other) == snapshot(opt)
    state = opt.state_dict()
    state["hyperparameters"] = None  # and nobody looks at them
    other.load_state_dict(state, hyperparameters=False)
    with pytest.raises(ValueError, match="options is"):
        other.load_state_dict(AdamW(1.0).state_dict(), hyperparameters=False)
    other.load_state_dict(opt.state_dict())
    assert repr(other) == repr(opt)


@pytest.mark.parametrize("options", [{"weight_decay": schedule}, {"betas": (schedule, 0.99)}])
def test_every_schedule_stays_as_constructed(options: dict[str, Any], tmp_path: Path) -> None:
    opt = Adam(1.0, lr=0.25, **options)
    opt.step(1.0)
    opt.save(tmp_path / "f")
    other = Adam(2.0, **options)
    other.load(tmp_path / "f")
    assert repr(other) == repr(opt) and snapshot(other) == snapshot(opt)
    other.load_state_dict(opt.state_dict())
    assert repr(other) == repr(opt)
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*None"):
        Adam(1.0).load(tmp_path / "f")
