"""torch's DTensors in a group of one process; tests/cluster has what more of them do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from adam_any import Adam, Optimizer, functional, interop, minimize, rules
from tests.helpers.bits import refused

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
pytest.importorskip(
    "torch.distributed.tensor", reason="torch has no DTensor here: pip install 'torch>=2.6'"
)

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("torch has no gloo here: use a build with it")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1))
    distributed.destroy_process_group()


def spread(mesh: Any, x: Any) -> Any:
    from torch.distributed.tensor import DTensor, Replicate, Shard

    places = [Shard(0) if x.ndim else Replicate(), Replicate()]
    return DTensor.from_local(x.clone(), mesh, places, run_check=False)


def alike(x: Any, want: Any) -> None:
    assert torch.equal(x.detach().to_local(), want)


@pytest.mark.promise(
    "torch's DTensors get the bits of its tensors, in place.", engines=["eager", "cpu"]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", [None, "eager"])
def test_bits_are_those_of_tensors(mesh: Any, dtype: str, engine: str | None) -> None:
    kind = getattr(torch, dtype)
    host = {"w": torch.randn(4, 3, dtype=kind), "s": torch.ones((), dtype=kind)}
    host["t"] = torch.randn(3, 4, dtype=kind).T  # in another order of memory
    many = {name: spread(mesh, x) for name, x in host.items()}
    rule = rules.Clipped(rules.Adam(0.1, amsgrad=True), norm=1.0)
    a = Optimizer(many, rule, engine=engine, nonfinite="raise")
    b = Optimizer(host, rule, engine=engine)
    assert {(row.library, row.engine) for row in a.explain()} == {("dtensor", engine or "cpu")}
    for step in range(3):
        grads = {name: x / (1 + step) for name, x in host.items()}
        out = a.step({name: spread(mesh, x) for name, x in grads.items()})
        b.step(grads)
    for name, x in out.items():
        assert x is many[name]
        alike(x, host[name])
        alike(a.moment("v")[name], b.moment("v")[name])


def test_state_comes_from_tensors_and_goes_to_them(mesh: Any) -> None:
    x = torch.randn(5, dtype=torch.complex64)
    one, many = Adam({"x": x}, lr=0.1), Adam({"x": spread(mesh, x)}, lr=0.1)
    one.step({"x": x})
    many.params = {"x": spread(mesh, x)}
    many.load_state_dict(one.state_dict())
    one.load_state_dict(many.state_dict())
    other = copy.deepcopy(many)
    for opt in (many, other):
        opt.step({"x": spread(mesh, torch.ones_like(x))})
    one.step({"x": torch.ones_like(x)})
    alike(many.params["x"], one.params["x"])
    alike(other.params["x"], one.params["x"])


def test_the_user_hears_of_writes_through_autograd(mesh: Any) -> None:
    p = torch.nn.Parameter(spread(mesh, torch.ones(3)))
    opt = Adam({"p": p})
    product = (p * p).sum()
    opt.step({"p": spread(mesh, torch.ones(3))})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_what_is_not_accepted_is_named(mesh: Any) -> None:
    from torch.distributed.tensor import DTensor, Partial, Replicate

    opt = Adam({"w": spread(mesh, torch.ones(3))})
    with refused(opt, TypeError, match="'w': the gradient belongs to torch"):
        opt.step({"w": torch.ones(3)})
    terms = DTensor.from_local(torch.ones(3), mesh, [Partial(), Replicate()], run_check=False)
    with pytest.raises(ValueError, match=r"'w': the parameter is placed P.*redistribute it"):
        Adam({"w": terms})
    opt.step({"w": terms})
    flat = torch.nn.Parameter(torch.ones(3))
    flat._is_flat_param = True
    with pytest.raises(TypeError, match=r"'w': .*FSDP1.*fully_shard"):
        Adam({"w": flat})
    with pytest.raises(ValueError, match=r"'w' cannot be saved.*torch\.distributed\.checkpoint"):
        opt.save("never.adam")


def test_pure_steps_and_runs(mesh: Any) -> None:
    x = spread(mesh, torch.zeros(3))
    state, rule = functional.init(x), rules.Adam(0.1)
    new, state = functional.step(x, spread(mesh, torch.ones(3)), state, rule)
    assert new.placements == state.moments["m"].placements == x.placements
    alike(x, torch.zeros(3))
    fun = interop.value_and_grad(lambda x: ((x - 3) ** 2).sum())
    result = minimize(fun, x, rule, steps=100, progress=False)
    want = minimize(fun, torch.zeros(3), rule, steps=100, progress=False)
    alike(result.last, want.last)
    assert result.history.gradient == pytest.approx(want.history.gradient, rel=1e-6)
    assert result.fun == want.fun


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_a_run_moves_from_torch_and_back(mesh: Any, dtype: str) -> None:
    """Also with the class of torch's own kind."""
    x, g = (torch.randn(4, 3, dtype=getattr(torch, dtype)) for _ in range(2))
    one, many = (torch.nn.Parameter(y) for y in (x.clone(), spread(mesh, x)))
    kind = interop.torch_optimizer(rules.Adam())
    opts = [kind([p], lr=0.1) for p in (one, many)]
    for _ in range(2):
        for opt, p, grad in zip(opts, (one, many), (g, spread(mesh, g)), strict=True):
            p.grad = grad
            opt.step()
            opt.load_state_dict(opt.state_dict())
    alike(many, one.detach())
    alike(opts[1].state_dict()["state"][0]["exp_avg"], opts[0].state_dict()["state"][0]["exp_avg"])

    mine = Adam(many, lr=0.1)
    mine.step(spread(mesh, g))
    theirs = torch.optim.Adam([torch.nn.Parameter(spread(mesh, x))], lr=0.1)
    theirs.load_state_dict(interop.to_torch(mine))
    moment = theirs.state_dict()["state"][0]["exp_avg"]
    assert moment.placements == many.placements
    other = Adam(many)
    interop.from_torch(other, theirs.state_dict())
    alike(other.moment("m"), mine.moment("m").to_local())
