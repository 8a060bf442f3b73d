"""A rule as a class of torch.optim, against torch's own: groups, schedulers, states, scaling."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="torch is not installed")

from adam_any import interop, rules  # noqa: E402

Ours = interop.torch_optimizer(rules.Adam())


def params(seed: int = 0) -> list[Any]:
    make = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (4,), ()]
    return [torch.randn(s, dtype=torch.float64, generator=make).requires_grad_() for s in shapes]


def loss(ps: list[Any]) -> Any:
    return sum(((p - i) ** 4).sum() for i, p in enumerate(ps))


def run(opt: Any, ps: list[Any], steps: int, scheduler: Any = None) -> list[Any]:
    for _ in range(steps):
        opt.zero_grad()
        loss(ps).backward()
        opt.step()
        if scheduler is not None:
            scheduler.step()
    return [p.detach().clone() for p in ps]


def close(a: list[Any], b: list[Any]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13)


SCHEDULERS = {
    "none": lambda o: None,
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda n: 1 / (1 + n)),
    "cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=30),
    "warm": lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=5),
}


@pytest.mark.promise(
    "A rule as a `torch.optim.Optimizer` steps as torch's own Adam does, with torch's schedulers."
)
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "weight_decay": 0.1}])
def test_it_is_torchs_adam(scheduler: str, options: dict[str, Any]) -> None:
    ends = []
    for cls in (Ours, torch.optim.Adam):
        ps = params()
        opt = cls([{"params": ps[:1], "lr": 0.01}, {"params": ps[1:]}], lr=0.05, **options)
        ends.append(run(opt, ps, 20, SCHEDULERS[scheduler](opt)))
    close(*ends)


@pytest.mark.promise(
    "Every configuration in which torch tests its own optimizers gives its numbers."
)
@pytest.mark.parametrize(
    "name",
    ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"],
)
def test_it_is_torchs_own_in_what_torch_tests(name: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip(
        "expecttest", reason="expecttest is not installed, which torch's tests need"
    )
    from torch.testing._internal.common_optimizers import optim_db

    request.addfinalizer(partial(torch.set_default_dtype, torch.get_default_dtype()))
    torch.set_default_dtype(torch.float64)  # else torch's NAdam has a product in float32
    (info,) = (x for x in optim_db if x.optim_cls.__name__ == name)
    adam_w = rules.Adam(weight_decay=0.01, decoupled=True)
    cls = interop.torch_optimizer(adam_w if name == "AdamW" else getattr(rules, name)())
    for given in info.optim_inputs_func(device="cpu"):
        ends = []
        for one in (info.optim_cls, cls):
            ps = params()
            ends.append(run(one(ps, **given.kwargs), ps, 20))
        close(*ends)
    for wrong in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        case = wrong.optimizer_error_input
        warns = wrong.error_type is UserWarning
        with pytest.warns(UserWarning) if warns else pytest.raises((TypeError, ValueError)):
            cls(case.params, **case.kwargs)


@pytest.mark.parametrize("way", ["state_dict", "torch.save", "deepcopy", "pickle", "from torch"])
def test_a_state_goes_on(way: str) -> None:
    whole = params()
    opt = Ours(whole, lr=0.05)
    expected = run(opt, whole, 10)
    ps = params()
    first = (torch.optim.Adam if way == "from torch" else Ours)(ps, lr=0.05)
    run(first, ps, 4)
    if way in ("deepcopy", "pickle"):
        both = copy.deepcopy if way == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
        second, ps = both((first, ps))
    else:
        state = first.state_dict()
        if way == "torch.save":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        second = Ours(ps, lr=0.9)
        second.load_state_dict(state)
    close(run(second, ps, 6), expected)


def test_the_state_is_torchs() -> None:
    ps = params()
    opt, theirs = Ours(ps), torch.optim.Adam(params())
    run(opt, ps, 2)
    run(theirs, theirs.param_groups[0]["params"], 2)
    mine, other = opt.state_dict()["state"], theirs.state_dict()["state"]
    assert [set(x) for x in mine.values()] == [set(x) for x in other.values()]
    for a, b in zip(mine.values(), other.values(), strict=True):
        close(list(a.values()), [b[name].to(a[name].dtype) for name in a])


def test_closures_hooks_and_gradients_that_are_none() -> None:
    ps, called = params(), []
    opt = Ours(ps, lr=0.1)
    opt.register_step_post_hook(lambda *_: called.append(1))

    def closure() -> Any:
        opt.zero_grad()
        value = loss(ps[:2])
        value.backward()
        return value

    assert opt.step(closure).item() > opt.step(closure).item()
    assert len(called) == 2 and ps[2] not in opt.state
    opt.add_param_group({"params": [torch.ones(2, requires_grad=True)], "lr": 0.5})
    assert opt.param_groups[1]["lr"] == 0.5 and opt.param_groups[1]["betas"] == (0.9, 0.999)


def test_complex_half_and_a_scaler() -> None:
    z = torch.tensor([1 + 1j], requires_grad=True)
    opt = Ours([z], lr=0.1)
    for _ in range(200):
        opt.zero_grad()
        ((z - (2 + 3j)).abs() ** 2).sum().backward()
        opt.step()
    assert abs(z.item() - (2 + 3j)) < 0.1
    assert opt.state[z]["exp_avg"].is_complex()
    p = torch.ones(3, requires_grad=True)
    scaler, opt = torch.amp.GradScaler("cpu", init_scale=4.0), Ours([p], lr=0.1)
    scaler.scale((p**2).sum()).backward()
    scaler.step(opt)
    scaler.update()
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.9))
    p.grad.fill_(float("inf"))
    scaler.scale(torch.ones(()))
    scaler.step(opt)  # skipped
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.9))


def test_another_rule_and_a_wrapper() -> None:
    bounded = interop.torch_optimizer(rules.Bounded(rules.Adam(), 0.0, 1.0))
    p = torch.full((3,), 0.95, requires_grad=True)
    opt = bounded([p], lr=0.5)
    (-p.sum()).backward()
    opt.step()
    assert p.tolist() == [1, 1, 1]


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="fused=True"):
        Ours(params(), fused=True)
    with pytest.raises(TypeError, match="momentum"):
        Ours(params(), momentum=0.9)
    with pytest.raises(ValueError, match="lr is -1"):
        Ours(params(), lr=-1)
    with pytest.raises(ValueError, match="betas"):
        Ours([{"params": params(), "betas": (1.0, 0.9)}])
    Ours(params(), foreach=False, fused=None, lr=torch.tensor(0.1))
