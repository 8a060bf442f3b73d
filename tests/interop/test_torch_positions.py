"""What torch.optim decides by position, and what it does not say: never guessed."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW
from adam_any.interop import from_torch, to_torch
from tests.helpers.bits import as_bytes, snapshot

torch: Any = pytest.importorskip("torch", reason="torch is not installed: pip install torch")


def norm() -> Any:
    """A model whose two parameters have one shape, and are not sorted by name."""
    return torch.nn.LayerNorm(3)


def named(model: Any) -> dict[str, Any]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def gradients(scale: float) -> dict[str, Any]:
    return {"weight": np.full(3, scale, "f4"), "bias": np.full(3, -2 * scale, "f4")}


def step(optimizer: Any, model: Any, grads: dict[str, Any]) -> None:
    for name, p in model.named_parameters():
        p.grad = torch.from_numpy(grads[name])
    optimizer.step()


def stepped(params: Any, **options: Any) -> Adam:
    opt = Adam(params, lr=0.1, **options)
    opt.step(gradients(1.0) if isinstance(params, dict) else list(gradients(1.0).values()))
    return opt


def moments(optimizer: Any, model: Any) -> dict[str, Any]:
    return {name: optimizer.state[p]["exp_avg"] for name, p in model.named_parameters()}


@pytest.mark.parametrize("how", ["names", "like"])
def test_moments_keep_to_their_parameters(how: str) -> None:
    model = norm()
    opt = stepped(named(model))
    with pytest.raises(ValueError, match=r"in a dict, whose keys are sorted: pass names=\[name"):
        to_torch(opt)
    if how == "names":
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        state = to_torch(opt, names=[name for name, _ in model.named_parameters()])
    else:
        optimizer = torch.optim.Adam(model.named_parameters(), lr=0.1)
        state = to_torch(opt, optimizer.state_dict())
    assert state["param_groups"][0]["param_names"] == ["weight", "bias"]
    optimizer.load_state_dict(state)
    for name, m in moments(optimizer, model).items():
        assert as_bytes(m) == as_bytes(opt.state_dict()["state"][name]["m"])
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(opt.params[name]))
    step(optimizer, model, gradients(0.5))
    here = opt.step(gradients(0.5))
    for name, p in model.named_parameters():
        assert np.allclose(p.detach().numpy(), here[name], rtol=1e-6, atol=0)


def test_positions_are_taken_where_there_are_some() -> None:
    model = norm()
    values = named(model)
    for params in (
        list(values.values()),
        OrderedDict(values),
        [{"only": x} for x in values.values()],
    ):
        opt = Adam(params)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        step(optimizer, model, gradients(1.0))
        from_torch(opt, optimizer.state_dict())
        found = [entry["m"] for entry in opt.state_dict()["state"].values()]
        assert list(map(as_bytes, found)) == list(map(as_bytes, moments(optimizer, model).values()))
        written = to_torch(opt)["state"]
        assert [as_bytes(x["exp_avg"]) for x in written.values()] == list(map(as_bytes, found))


def test_a_state_without_names_does_not_go_into_a_dict_by_position() -> None:
    model = norm()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    step(optimizer, model, gradients(1.0))
    opt = Adam(named(model))
    before = snapshot(opt)
    with pytest.raises(ValueError, match="in a dict, whose keys are sorted: pass names"):
        from_torch(opt, optimizer.state_dict())
    assert snapshot(opt) == before
    from_torch(opt, optimizer.state_dict(), names=["weight", "bias"])
    for name, m in moments(optimizer, model).items():
        assert as_bytes(opt.state_dict()["state"][name]["m"]) == as_bytes(m)


@pytest.mark.parametrize("names", [["weight"], ["weight", "weight"], ["weight", "Bias"]])
def test_names_that_do_not_fit_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="names"):
        to_torch(stepped(named(norm())), names=names)


# What is torch's own -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [{"foreach": True}, {"fused": True}, {"capturable": True, "foreach": False}, {}],
    ids=str,
)
def test_how_torch_runs_stays_as_it_was(flags: dict[str, Any]) -> None:
    model = norm()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.7, **flags)
    optimizer.param_groups[0]["initial_lr"] = 0.9  # a scheduler's
    before = optimizer.state_dict()["param_groups"]
    opt = stepped(named(model), weight_decay=0.01)
    optimizer.load_state_dict(to_torch(opt, optimizer.state_dict(), names=["weight", "bias"]))
    after = optimizer.state_dict()["param_groups"]
    ours = {"lr": 0.1, "weight_decay": 0.01, "param_names": ["weight", "bias"]}
    assert after == [{**before[0], **ours}]
    if "capturable" not in flags:  # which needs a GPU
        step(optimizer, model, gradients(1.0))


def test_without_it_nothing_is_said_of_how_torch_runs() -> None:
    (group,) = to_torch(Adam(np.ones(3, "f4")))["param_groups"]
    assert not {"foreach", "fused", "capturable", "differentiable"} & group.keys()
    optimizer = torch.optim.Adam([torch.ones(3, requires_grad=True)])
    optimizer.load_state_dict({"state": {}, "param_groups": [group]})
    assert optimizer.param_groups[0]["capturable"] is False


def test_groups_stay_as_they_were() -> None:
    model = norm()
    groups = [{"params": [model.bias]}, {"params": [model.weight], "fused": True}]
    optimizer = torch.optim.Adam(groups, lr=0.7)
    opt = stepped(named(model))
    optimizer.load_state_dict(to_torch(opt, optimizer.state_dict(), names=["bias", "weight"]))
    first, second = optimizer.param_groups
    assert (first["lr"], second["lr"], second["fused"]) == (0.1, 0.1, True)
    assert (first["param_names"], second["param_names"]) == (["bias"], ["weight"])
    for name, m in moments(optimizer, model).items():
        assert as_bytes(m) == as_bytes(opt.state_dict()["state"][name]["m"])


# What an older torch does not say ----------------------------------------------------------------


def older(kind: Any, weight_decay: float) -> dict[str, Any]:
    """The state of a version of torch that has `decoupled_weight_decay` nowhere."""
    p = torch.ones(2, requires_grad=True)
    optimizer = kind([p], weight_decay=weight_decay)
    p.grad = torch.ones(2)
    optimizer.step()
    state: dict[str, Any] = copy.deepcopy(optimizer.state_dict())
    for name in ("decoupled_weight_decay", "maximize"):
        del state["param_groups"][0][name]
    return state


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_a_decay_is_taken_for_what_it_is(make: Any) -> None:
    """torch's AdamW saved what Adam saved."""
    state = older(torch.optim.AdamW, 0.01)
    opt = make([np.ones(2, "f4")])
    before = snapshot(opt)
    with pytest.raises(ValueError, match=r"decoupled=True .*AdamW, decoupled=False .*Adam$"):
        from_torch(opt, state)
    right = make is AdamW
    with pytest.raises(ValueError, match=r"decoupled_weight_decay is .* make an optimizer"):
        from_torch(opt, state, decoupled=not right)
    assert snapshot(opt) == before
    from_torch(opt, state, decoupled=right)
    assert opt.steps == {"0": 1}
    from_torch(make([np.ones(2, "f4")]), older(torch.optim.Adam, 0.0))  # where it is all the same
    newer = torch.optim.AdamW([torch.ones(2)], weight_decay=0.01).state_dict()
    with pytest.raises(ValueError, match="decoupled_weight_decay is True in torch's state"):
        from_torch(opt, newer, decoupled=False)


def test_what_was_before_maximize_did_not_maximize() -> None:
    with pytest.raises(ValueError, match="maximize is False in torch's state"):
        from_torch(Adam([np.ones(2, "f4")], maximize=True), older(torch.optim.Adam, 0.0))


def test_moments_of_no_parameter_are_not_dropped() -> None:
    p = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adam([p])
    p.grad = torch.ones(2)
    optimizer.step()
    state = optimizer.state_dict()
    opt = Adam([np.ones(2, "f4")])
    before = snapshot(opt)
    for stray in ({7: state["state"][0]}, {i: state["state"][0] for i in range(1, 1000)}):
        odd = {**state, "state": {**state["state"], **stray}}
        with pytest.raises(ValueError, match=r"moments of \[\d.*\], which are no param") as raised:
            from_torch(opt, odd)
        assert len(str(raised.value)) < 300
    assert snapshot(opt) == before
    from_torch(opt, state)
