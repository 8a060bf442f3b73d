"""State in and out: state_dict, load_state_dict, copies and pickles."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW
from tests.helpers.bits import as_bytes, refused, snapshot
from tests.helpers.files import put
from tests.helpers.libraries import LIBRARIES, Lib, on
from tests.helpers.optimizers import COPIES, example, schedule


@pytest.mark.promise("Copies and pickles step independently, and give the same numbers.")
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("lr", [0.1, schedule], ids=["float", "schedule"])
def test_copies_step_alone_and_alike(lib: Lib, how: str, lr: Any) -> None:
    opt, grads = example(lib, lr=lr)
    before = snapshot(opt)
    other = COPIES[how](opt)
    assert type(other) is Adam and repr(other) == repr(opt)
    assert snapshot(other) == before
    assert other.explain() == opt.explain()
    other.step(grads)
    assert snapshot(opt) == before
    opt.step(grads)
    assert snapshot(other) == snapshot(opt) != before


def test_state_dict_is_laid_out_as_documented(lib: Lib) -> None:
    opt, _ = example(lib, weight_decay=0.01)
    d = opt.state_dict()
    assert {k: v for k, v in d.items() if k != "state"} == {
        "format": 2,
        "params": False,
        "rule": "adam",
        "options": {"decoupled": False, "amsgrad": True, "maximize": False, "eps_hat": False},
        "hyperparameters": {
            "lr": 0.1,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.01,
            "lr_max": 0.0,
        },
    }
    assert set(d["state"]) == set(opt.steps)
    for path, entry in d["state"].items():
        assert list(entry) == ["step", "m", "v", "vmax"]
        assert entry["step"] == opt.steps[path]
    last = d["state"][f"all.{len(lib.dtypes) - 1}"]
    lib.check(last["m"], "float64", (2, 3, 2))
    assert AdamW(1.0).state_dict()["options"]["decoupled"] is True


def test_a_copy_of_a_read_only_parameter_is_replaced_like_it() -> None:
    p = np.ones(2)
    p.flags.writeable = False
    for make in (copy.copy, copy.deepcopy):
        other = make(Adam(p))
        assert not other.params.flags.writeable
        kept = other.params
        assert other.step(np.ones(2)) is not kept and kept.tolist() == [1, 1]


@pytest.mark.promise(
    "State is copied out and in, so two optimizers never share it.",
    defect="D5",
    seen=["torch#196083", "torch#147288"],
)
@pytest.mark.uses("operators")
def test_state_is_copied_out_and_in(lib: Lib) -> None:
    """In torch two optimizers may share their state."""
    one, other = (Adam(lib.array([1.0, 2.0]), lr=0.1, engine=lib.engine) for _ in range(2))
    g = lib.array([3.0, -4.0])
    one.step(g)
    state = one.state_dict()
    other.load_state_dict(state)
    before = snapshot(one), snapshot(other)
    if lib.name != "jax":  # whose arrays cannot be written
        state["state"][""]["m"][...] = 7.0
        assert (snapshot(one), snapshot(other)) == before
    other.step(g)
    assert snapshot(one) == before[0]
    state = one.state_dict()
    kept = as_bytes(state["state"][""]["m"])
    other.load_state_dict(state)
    for opt in (one, other):
        opt.step(g)
        assert as_bytes(state["state"][""]["m"]) == kept


@pytest.mark.promise(
    "Step counts are exact integers, however large.",
    defect="D12",
    seen=["ao#4915", "DeepSpeed#8496"],
)
@pytest.mark.uses("operators")
def test_a_step_count_is_an_exact_int(lib: Lib) -> None:
    """The counters of others stop at 256, in bfloat16, or at 2^24, in float32."""
    opt = Adam({"w": lib.array([1.0])}, engine=lib.engine)
    for count in (256, 2**24, 2**40):
        for kind in (int, lib.array, lambda n: lib.array([n])):
            state = opt.state_dict()
            state["state"]["w"]["step"] = kind(count)
            opt.load_state_dict(state)
            opt.step({"w": lib.array([1.0])})
            assert opt.steps == {"w": count + 1} and type(opt.steps["w"]) is int


@pytest.mark.promise(
    "Step counts do not depend on torch's default dtype.", defect="D12", seen=["torch#74424"]
)
@on(lib for lib in LIBRARIES if lib.name == "torch")
def test_the_step_count_ignores_torch_default_dtype(lib: Lib) -> None:
    lib.module.set_default_dtype(lib.module.bfloat16)
    try:
        opt = Adam(lib.array([1.0, 1.0], "float32"), engine=lib.engine)
        for _ in range(300):
            opt.step(lib.array([1.0, 1.0], "float32"))
        assert opt.steps == {"": 300}
        lib.check(opt.params, "float32", (2,))
        lib.check(opt.state_dict()["state"][""]["v"], "float32", (2,))
    finally:
        lib.module.set_default_dtype(lib.module.float32)


@pytest.mark.promise(
    "State is matched with parameters by name, not by position.",
    defect="D16",
    seen=["torch#1489", "torch#113673", "lightning#17025"],
)
def test_state_is_matched_by_names(lib: Lib, tmp_path: Path) -> None:
    """Others restore it by position."""

    def adam(**sizes: int) -> Adam:  # of a dict the leaves are sorted, of this they are not
        tree = OrderedDict((name, lib.array(np.ones(n))) for name, n in sizes.items())
        return Adam(tree, engine=lib.engine)

    opt = adam(a=3, b=3)
    opt.step(OrderedDict(a=lib.array([1.0, 2.0, 3.0]), b=lib.array([4.0, 5.0, 6.0])))
    opt.step(OrderedDict(a=None, b=lib.array([7.0, 8.0, 9.0])))
    opt.save(tmp_path / "state")
    state = opt.state_dict()
    for load in (lambda new: new.load(tmp_path / "state"), lambda new: new.load_state_dict(state)):
        other = adam(b=3, a=3)
        load(other)
        assert other.steps == {"a": 1, "b": 2}
        for name, entry in other.state_dict()["state"].items():
            assert as_bytes(entry["m"]) == as_bytes(state["state"][name]["m"])
        with pytest.raises(ValueError, match=r"missing \['c'\], not known \['b'\]"):
            load(adam(a=3, c=3))
        with pytest.raises(ValueError, match=r"'b': m is .* of \(3,\)"):
            load(adam(a=3, b=4))


WRONG = {
    "no dict": (lambda state: [1], "the state is a list"),
    "no format": (put("format"), "keys is"),
    "other format": (put("format", to=3), "format is 3"),
    "other rule": (put("rule", to="lion"), "rule is 'lion'"),
    "other options": (put("options", "amsgrad", to=True), "options is"),
    "missing option": (put("options", "amsgrad"), "options is"),
    "bad lr": (put("hyperparameters", "lr", to=-1.0), "lr is -1.0"),
    "bad eps": (put("hyperparameters", "eps", to="x"), "eps is 'x'"),
    "tiny eps": (put("hyperparameters", "eps", to=1e-60), "'b': eps = 1e-60 is 0.0"),
    "no eps": (put("hyperparameters", "eps"), r"missing \['eps'\]"),
    "extra": (put("hyperparameters", "x", to=1.0), r"not known \['x'\]"),
    "no path": (put("state", "a"), r"the state: missing \['a'\]"),
    "extra path": (put("state", "c", to={}), r"not known \['c'\]"),
    "no moment": (put("state", "a", "m"), r"'a': missing \['m'\]"),
    "extra moment": (put("state", "a", "vmax", to=np.ones(2)), r"'a': .*not known"),
    "shape": (put("state", "a", "m", to=np.ones(3)), r"'a': m is float64 of \(3,\)"),
    "dtype": (put("state", "a", "m", to=np.ones(2, "f4")), "'a': m is float32"),
    "no array": (put("state", "a", "m", to=[1.0, 1.0]), "'a': m is list"),
    "no entry": (put("state", "a", to=1), "'a': it is an int"),
    **{
        f"step {step!r}": (put("state", "a", "step", to=step), "'a': step is")
        for step in (-1, 1.5, np.nan, np.inf, True, "3", np.ones(2), [1])
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(name: str) -> None:
    change, message = WRONG[name]
    opt = Adam({"a": np.ones(2), "b": np.float32(1)}, lr=0.1)
    opt.step({"a": np.ones(2), "b": np.float32(1)})
    with refused(opt, ValueError, match=message):
        opt.load_state_dict(change(opt.state_dict()))


def test_torch_parameters_stay_parameters_in_a_copy(torch_: Any) -> None:
    opt = Adam([torch_.nn.Parameter(torch_.ones(2)), torch_.ones(2, requires_grad=True)])
    for make in COPIES.values():
        parameter, tensor = make(opt).params
        assert isinstance(parameter, torch_.nn.Parameter) and parameter.requires_grad
        assert tensor.requires_grad and tensor.is_leaf
