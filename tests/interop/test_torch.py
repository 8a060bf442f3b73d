"""States from and to torch.optim.Adam and AdamW, with the real ones."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW, Optimizer
from adam_any.interop import from_torch, to_torch
from tests.helpers.bits import as_bytes, refused, snapshot
from tests.helpers.files import put
from tests.helpers.libraries import EPS, Lib, named, on
from tests.helpers.rules import Sgd

torch: Any = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

LR = 0.01
OPTIONS = {"decoupled": True, "amsgrad": True, "maximize": True, "weight_decay": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "-".join(chosen) or "plain": {k: v if k in chosen else type(v)() for k, v in OPTIONS.items()}
    for n in range(len(OPTIONS) + 1)
    for chosen in combinations(OPTIONS, n)
}
SHAPES = {"b": (3, 4), "a": (), "c": (5,), "late": (2,), "never": (2,)}


def values(dtype: str, seed: int) -> dict[str, Any]:
    """An array for each name."""
    rng = np.random.default_rng(seed)
    parts = {name: rng.normal(size=(2, *shape)) for name, shape in SHAPES.items()}
    return {
        name: np.asarray(x[0] + 1j * x[1] if dtype.startswith("complex") else x[0], dtype)
        for name, x in parts.items()
    }


def gradients(dtype: str, step: int) -> dict[str, Any]:
    g: dict[str, Any] = values(dtype, 100 + step)
    g["never"] = None
    if step < 7:
        g["late"] = None
    return g


def torch_run(case: dict[str, Any], params: dict[str, Any], **more: Any) -> Any:
    """The real optimizer over named parameters, in an order that is not sorted."""
    options = {k: v for k, v in case.items() if k != "decoupled"}
    kind = torch.optim.AdamW if case["decoupled"] else torch.optim.Adam
    return kind(list(params.items()), lr=LR, betas=(0.8, 0.95), eps=1e-6, **options, **more)


def torch_step(optimizer: Any, params: dict[str, Any], grads: dict[str, Any]) -> None:
    for name, p in params.items():
        p.grad = None if grads[name] is None else torch.tensor(grads[name])
    optimizer.step()


def ours(case: dict[str, Any], params: Any, **more: Any) -> Adam:
    options = {k: v for k, v in case.items() if k != "decoupled"}
    return (AdamW if case["decoupled"] else Adam)(params, **options, **more)


def tensors(params: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(x, requires_grad=True) for name, x in params.items()}


@cache
def path(case: str, dtype: str) -> list[dict[str, Any]]:
    """Where torch goes alone: the parameters after each of 20 steps."""
    params = tensors(values(dtype, 0))
    optimizer = torch_run(CASES[case], params)
    seen = []
    for step in range(20):
        torch_step(optimizer, params, gradients(dtype, step))
        seen.append({name: p.detach().numpy().copy() for name, p in params.items()})
    return seen


def check(case: str, dtype: str, found: dict[str, Any], steps: int) -> None:
    """`found` is where torch alone is, within 2 eps max(|p|, lr) for each of the last steps."""
    seen = path(case, dtype)
    for name, want in seen[-1].items():
        size = np.max([np.maximum(np.abs(at[name]), LR) for at in seen[-steps - 1 :]], axis=0)
        assert np.all(np.abs(np.asarray(found[name]) - want) <= 2 * EPS[dtype] * size * steps), name


@pytest.mark.promise("A run that began in `torch.optim` continues here, within 2 eps a step.")
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_began_in_torch_continues_here(case: str, dtype: str) -> None:
    params = tensors(values(dtype, 0))
    optimizer = torch_run(CASES[case], params)
    for step in range(10):
        torch_step(optimizer, params, gradients(dtype, step))
    start = {name: p.detach().numpy().copy() for name, p in params.items()}
    opt = ours(
        CASES[case], start, engine="eager"
    )  # the others compile each case, and have its bits
    from_torch(opt, optimizer.state_dict())
    assert opt.steps == {"a": 10, "b": 10, "c": 10, "late": 3, "never": 0}
    assert opt.lr == LR and "betas=(0.8, 0.95), eps=1e-06" in repr(opt)
    for step in range(10, 20):
        found = opt.step(gradients(dtype, step))
    check(case, dtype, found, 10)


@pytest.mark.promise("A run that began here continues in `torch.optim`.")
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_began_here_continues_in_torch(case: str, dtype: str) -> None:
    options = CASES[case]
    opt = ours(options, values(dtype, 0), lr=LR, betas=(0.8, 0.95), eps=1e-6, engine="eager")
    for step in range(10):
        found = opt.step(gradients(dtype, step))
    params = {name: torch.tensor(found[name], requires_grad=True) for name in sorted(found)}
    optimizer = torch_run({**options, "weight_decay": 0.7}, params)
    optimizer.load_state_dict(to_torch(opt))
    assert optimizer.param_groups[0]["weight_decay"] == options["weight_decay"]
    for step in range(10, 20):
        torch_step(optimizer, params, gradients(dtype, step))
    check(case, dtype, {name: p.detach().numpy() for name, p in params.items()}, 20)
    assert optimizer.state[params["late"]]["step"] == 13
    assert params["never"] not in optimizer.state


def test_there_and_back_is_exact(lib: Lib) -> None:
    for dtype in ("float32", "complex128"):
        params = {name: lib.array(x, dtype) for name, x in values(dtype, 0).items()}
        grads = {name: lib.array(x, dtype) for name, x in values(dtype, 1).items()}
        opt = Adam(params, lr=0.3, amsgrad=True, engine=lib.engine)
        for _ in range(2):
            opt.step({**grads, "late": None})
        state = to_torch(opt)
        assert state["param_groups"][0]["param_names"] == list(opt.steps)
        device = lib.device.replace("emulated", "cpu")
        assert all(x.device.type == device for x in tensors_of(state) if x.ndim)
        other = Adam(opt.params, amsgrad=True, engine=lib.engine)
        before = snapshot(opt)
        from_torch(other, state)
        assert snapshot(other) == snapshot(opt) and repr(other) == repr(opt)
        for x in tensors_of(state):
            x.zero_()
        assert snapshot(other) == snapshot(opt) == before


def tensors_of(state: dict[str, Any]) -> list[Any]:
    return [x for entry in state["state"].values() for x in entry.values()]


def test_one_step_of_torch_between_leaves_no_trace_but_its_own() -> None:
    """The real load_state_dict and state_dict in between."""
    opt = Adam({"w": np.ones(3)}, lr=0.1)
    opt.step({"w": np.arange(3.0)})
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([("w", w)])
    optimizer.load_state_dict(to_torch(opt))
    before = snapshot(opt)
    from_torch(opt, optimizer.state_dict())
    assert snapshot(opt) == before


class Renamed:
    """A state dict of torch, ten steps in, whose parameters are b, a, c, late and never."""

    def __init__(self, named: bool = True) -> None:
        self.params = tensors(values("float64", 0))
        optimizer = torch_run(CASES["plain"], self.params)
        for step in range(3):
            torch_step(optimizer, self.params, values("float64", step))
        self.state = optimizer.state_dict()
        if not named:
            del self.state["param_groups"][0]["param_names"]

    @property
    def group(self) -> dict[str, Any]:
        group: dict[str, Any] = self.state["param_groups"][0]
        return group


@pytest.mark.promise(
    "A torch state with parameter names is matched by name, too.",
    defect="D16",
    seen=["torch#134107"],
)
def test_parameters_are_matched_by_names() -> None:
    """In torch names do not affect the loading of a state."""
    there = Renamed()
    opt = Adam(values("float64", 0))
    from_torch(opt, there.state)
    state = opt.state_dict()["state"]
    for i, name in enumerate(there.params):
        assert as_bytes(state[name]["m"]) == as_bytes(there.state["state"][i]["exp_avg"])

    nested = Adam({"net": values("float64", 0)})
    with pytest.raises(ValueError, match=r"names=list\(opt.steps\).*missing \['net.a'"):
        from_torch(nested, there.state)
    from_torch(nested, there.state, names=(f"net.{name}" for name in there.params))
    assert as_bytes(nested.state_dict()["state"]["net.b"]["m"]) == as_bytes(state["b"]["m"])


def test_parameters_without_names_are_matched_by_position() -> None:
    there = Renamed(named=False)
    opt = Adam(list(values("float64", 0).values()))
    from_torch(opt, there.state)
    state = opt.state_dict()["state"]
    for i in range(len(there.params)):
        assert as_bytes(state[str(i)]["v"]) == as_bytes(there.state["state"][i]["exp_avg_sq"])
    # The keys of a dict are sorted, and torch's parameters are not: their shapes show it here.
    by_name = Adam(values("float64", 0))
    with refused(by_name, ValueError, match=r"'a': exp_avg has shape \(3, 4\).*pass names"):
        from_torch(by_name, there.state)
    from_torch(by_name, there.state, names=list(there.params))


@pytest.mark.promise(
    "Step counts are read in every form in which torch has saved them.",
    defect="D12",
    seen=["torch#118326"],
)
@pytest.mark.parametrize("make", [int, float, torch.tensor, lambda t: torch.tensor([t])])
@pytest.mark.parametrize("count", [3, 2**24 + 1, 2**40])
def test_a_step_count_may_be_an_int_or_a_tensor(make: Any, count: int) -> None:
    """There are checkpoints with steps of shape [1]."""
    there = Renamed()
    for entry in there.state["state"].values():
        entry["step"] = make(count)
    opt = Adam(values("float64", 0))
    from_torch(opt, there.state)
    assert set(opt.steps.values()) == {count}
    written = to_torch(opt)["state"][0]["step"]
    assert written.shape == () and int(written) == count
    assert written.dtype == (torch.float32 if count < 2**24 else torch.float64)


def test_hyperparameters_may_be_tensors_and_flags_are_ignored() -> None:
    there = Renamed()
    flags = {"foreach": True, "capturable": True, "fused": True, "differentiable": True}
    there.group.update(flags, lr=torch.tensor(0.5), betas=(torch.tensor(0.75), 0.5), initial_lr=3)
    opt = Adam(values("float64", 0))
    from_torch(opt, there.state)
    assert "lr=0.5, betas=(0.75, 0.5), eps=1e-06" in repr(opt)


def test_a_schedule_stays_and_is_written_as_its_value() -> None:
    opt = Adam(values("float64", 0), lr=lambda count: 1 / (1 + count))
    lr = opt.lr
    from_torch(opt, Renamed().state)
    assert opt.lr is lr
    assert to_torch(opt)["param_groups"][0]["lr"] == 0.25


def test_groups_with_equal_hyperparameters_are_taken_as_one() -> None:
    params = tensors(values("float64", 0))
    first, *rest = params.items()
    optimizer = torch.optim.Adam([{"params": [first]}, {"params": rest}], lr=LR)
    torch_step(optimizer, params, values("float64", 1))
    opt = Adam(values("float64", 0))
    from_torch(opt, optimizer.state_dict())
    state = opt.state_dict()["state"]
    for name, p in params.items():
        assert as_bytes(state[name]["m"]) == as_bytes(optimizer.state[p]["exp_avg"])
    for name, value in {"lr": 0.5, "betas": (0.9, 0.9), "maximize": True}.items():
        other = optimizer.state_dict()
        other["param_groups"][1][name] = value
        with refused(opt, ValueError, match=f"{name} is .* use several optimizers"):
            from_torch(opt, other)


def test_moments_of_half_precision_are_widened() -> None:
    """torch keeps them in the parameter's dtype; here they have float32."""
    p = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    optimizer = torch.optim.Adam([p], lr=0.1)
    p.grad = torch.tensor([1.0, 2.0, 3.0, 1e-5], dtype=torch.bfloat16)
    optimizer.step()
    opt = Adam(p.detach().clone())
    from_torch(opt, optimizer.state_dict())
    found = opt.state_dict()["state"][""]
    for name, theirs in (("m", "exp_avg"), ("v", "exp_avg_sq")):
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], optimizer.state[p][theirs].float())
    written = to_torch(opt)
    assert written["state"][0]["exp_avg"].dtype == torch.float32
    optimizer.load_state_dict(written)
    assert optimizer.state[p]["exp_avg"].dtype == torch.bfloat16


GROUP = ("param_groups", 0)
WRONG = {
    "no dict": (lambda state: [], "not a torch.optim state_dict"),
    "ours": (lambda state: Adam(1.0).state_dict(), "no param_groups"),
    "no groups": (put("param_groups", to=[]), "no param_groups"),
    "other optimizer": (put(*GROUP, "amsgrad"), "lacks one of"),
    "amsgrad": (put(*GROUP, "amsgrad", to=True), "amsgrad is True in torch's state"),
    "maximize": (put(*GROUP, "maximize", to=True), "maximize is True in torch's state"),
    "AdamW": (put(*GROUP, "decoupled_weight_decay", to=True), "but decoupled is False here"),
    "lr": (put(*GROUP, "lr", to=-1.0), "lr is -1.0"),
    "eps": (put(*GROUP, "eps", to="x"), "a hyperparameter of torch's state is not a number"),
    "more": (put(*GROUP, "params", to=list(range(6))), "has 6 parameters and 5 names"),
    "shape": (
        lambda state: put("state", 1, to=state["state"][0])(state),
        r"'a': exp_avg has shape \(3, 4\)",
    ),
    "lacks": (put("state", 0, to={"step": 1}), r"torch's state of 'b': missing \['exp_avg'"),
    "vmax": (
        put("state", 0, "max_exp_avg_sq", to=torch.ones(3, 4)),
        r"not known \['max_exp_avg_sq'",
    ),
    "complex": (put("state", 0, "exp_avg", to=1j * torch.ones(3, 4)), "'b': exp_avg is complex64"),
    "int": (put("state", 0, "exp_avg", to=torch.ones(3, 4).long()), "'b': exp_avg is int64"),
    "list": (put("state", 0, "exp_avg", to=[1.0]), "'b': exp_avg is list"),
    "step": (put("state", 0, "step", to=torch.tensor(0.5)), "'b': step is"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(name: str) -> None:
    change, message = WRONG[name]
    opt = Adam(values("float64", 0))
    opt.step(values("float64", 1))
    with refused(opt, ValueError, match=message):
        from_torch(opt, change(Renamed().state))


def test_states_of_older_versions_do_not_say_whether_decay_is_decoupled() -> None:
    there = Renamed()
    del there.group["decoupled_weight_decay"]
    for make in (Adam, AdamW):
        from_torch(make(values("float64", 0)), there.state)


def test_a_rule_that_is_not_adam_is_refused() -> None:
    opt: Any = Optimizer(np.ones(2), Sgd())
    with pytest.raises(TypeError, match="Adam"):
        from_torch(opt, Renamed().state)
    with pytest.raises(TypeError, match="Adam"):
        to_torch(opt)


def test_a_torn_optimizer_is_not_written() -> None:
    opt = Adam(1.0)
    opt._contents.torn = True
    with pytest.raises(RuntimeError, match="interrupted"):
        to_torch(opt)


@on([named("torch-cuda")])
def test_moments_on_a_gpu_go_in_and_out(lib: Lib) -> None:
    p = torch.ones(3, device="cuda", requires_grad=True)
    for options in ({}, {"capturable": True}, {"fused": True}):
        optimizer = torch.optim.Adam([p], **options)
        p.grad = torch.ones_like(p)
        optimizer.step()
        opt = Adam([p.detach().clone()])
        from_torch(opt, optimizer.state_dict())
        assert opt.steps == {"0": 1}
        assert torch.equal(opt.state_dict()["state"]["0"]["m"], optimizer.state[p]["exp_avg"])


def test_reading_a_state_does_not_import_torch() -> None:
    code = """
import sys
import numpy as np
from adam_any import Adam
from adam_any.interop import from_torch
opt = Adam(np.ones(2))
group = dict(lr=1, betas=[0, 0], eps=0, weight_decay=0, amsgrad=False, params=[0])
from_torch(opt, {"state": {0: dict(step=3, exp_avg=np.ones(2), exp_avg_sq=np.ones(2))},
                 "param_groups": [group]})
assert opt.steps == {"": 3}
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
