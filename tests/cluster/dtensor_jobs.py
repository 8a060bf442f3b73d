"""What each process of torch's does in the tests of DTensors: `python -m ... job arguments`."""

from __future__ import annotations

import copy
import datetime
import sys
import time
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from adam_any import Adam, Optimizer, Stop, functional, interop, minimize, rules
from adam_any.run import loop, progress
from adam_any.run.values import norm

#: Shapes of leaves, with layouts on a mesh of one dimension, and of two. The part of some is empty.
LAYOUTS: dict[str, tuple[tuple[int, ...], Any, Any]] = {
    "even": ((8, 3), [Shard(0)], [Shard(0), Shard(1)]),
    "uneven": ((5, 3), [Shard(0)], [Shard(0), Replicate()]),
    "empty": ((2,), [Shard(0)], [Shard(0), Shard(0)]),
    "columns": ((3, 6), [Shard(1)], [Replicate(), Shard(1)]),
    "replicated": ((4,), [Replicate()], [Replicate(), Replicate()]),
    "number": ((), [Replicate()], [Replicate(), Replicate()]),
}

RULES = {
    "Adam": rules.Adam(0.1),
    "norm": rules.Clipped(rules.Adam(0.1), norm=0.5),
    "each": rules.Clipped(rules.Adam(0.1, amsgrad=True), leaf_norm=0.5),
}

DTYPES = ("float32", "bfloat16", "complex64", "float64")


def meshes() -> list[Any]:
    return [
        init_device_mesh("cpu", (4,)),
        init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b")),
    ]


def values(shape: tuple[int, ...], dtype: str, seed: int) -> Any:
    """The same numbers on every process."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=made, dtype=getattr(torch, dtype))


def gathered(x: Any) -> Any:
    return x.detach().full_tensor().clone()  # of replicas it is the part itself


def alike(x: Any, want: Any) -> None:
    """The same bits, every process's part."""
    got = gathered(x) if isinstance(x, DTensor) else x
    assert got.dtype == want.dtype and got.shape == want.shape
    assert torch.equal(
        torch.view_as_real(got) if got.is_complex() else got,
        torch.view_as_real(want) if want.is_complex() else want,
    ), (got, want)


def near(x: Any, want: Any, steps: int) -> None:
    got = gathered(x)
    bound = 4 * steps * torch.finfo(got.dtype).eps * (abs(want).clamp(min=0.1))
    assert (abs(got - want) <= bound).all(), (got, want)


def leaves(mesh: Any, which: int, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    host, spread = {}, {}
    for seed, (name, (shape, *layouts)) in enumerate(LAYOUTS.items()):
        host[name] = values(shape, dtype, seed)
        spread[name] = distribute_tensor(
            host[name].clone(), mesh, layouts[which], src_data_rank=None
        )
    return host, spread


def steps() -> None:
    """Whatever the layout, parameters and moments have the bits of one process."""
    for which, mesh in enumerate(meshes()):
        for dtype in DTYPES:
            for name, rule in RULES.items():
                for engine in (None, "eager"):
                    _steps(mesh, which, dtype, name, rule, engine)


def _steps(mesh: Any, which: int, dtype: str, name: str, rule: Any, engine: str | None) -> None:
    host, spread = leaves(mesh, which, dtype)
    parts = {key: x.to_local().data_ptr() for key, x in spread.items()}
    many = Optimizer(spread, rule, engine=engine)
    one = Optimizer(host, rule, engine=engine)
    assert {row.engine for row in many.explain()} == {engine or "cpu"}
    for step in range(3):
        grads = {key: values(x.shape, dtype, 100 + step) for key, x in host.items()}
        out = many.step(
            {
                key: distribute_tensor(g, mesh, spread[key].placements, src_data_rank=None)
                for key, g in grads.items()
            }
        )
        one.step(grads)
    for key, x in out.items():
        assert x is spread[key] and x.to_local().data_ptr() == parts[key]
        if name == "Adam":
            alike(x, host[key])
        else:  # the sums of parts are added in another order
            near(x, host[key], 3)
        for moment in many.state_dict()["state"][key]:
            if moment != "step":
                mine, theirs = (opt.state_dict()["state"][key][moment] for opt in (many, one))
                assert mine.placements == x.placements and mine.device_mesh == x.device_mesh
                if name == "Adam":
                    alike(mine, theirs)
        assert many.moment("m")[key].placements == x.placements


def placed(x: Any, like: Any) -> Any:
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def gradients() -> None:
    """A gradient that is placed otherwise, or has not been added up, is moved to its parameter."""
    rank = dist.get_rank()
    for which, mesh in enumerate(meshes()):
        host, spread = leaves(mesh, which, "float32")
        for engine in (None, "eager"):
            many, one = Optimizer(spread, RULES["Adam"], engine=engine), Adam(host, lr=0.1)
            for step in range(4):
                grads, want = {}, {}
                for key, x in host.items():
                    # Small integers, whose sums are exact in any order.
                    terms = [values(x.shape, "float32", 7 * step + r).round() for r in range(4)]
                    if step % 2:
                        want[key] = terms[0] + terms[1] + terms[2] + terms[3]
                        rest = [Partial()] * mesh.ndim
                        grads[key] = DTensor.from_local(terms[rank], mesh, rest, run_check=False)
                    else:
                        want[key] = terms[0]
                        whole = [Replicate()] * mesh.ndim
                        grads[key] = distribute_tensor(terms[0], mesh, whole, src_data_rank=None)
                many.step(grads)
                one.step(want)
            for key, x in host.items():
                alike(spread[key], x)
    assert "a gradient with other placements is redistributed" in str(many.explain())
    assert "4 processes (cpu)" in str(many.explain())


def together() -> None:
    """What is not finite on one process is refused, or skipped, by all."""
    rank = dist.get_rank()
    for which, mesh in enumerate(meshes()):
        host, spread = leaves(mesh, which, "float32")
        beside = torch.ones(2)  # a tensor of each process's own
        grads = {key: placed(x, spread[key]) for key, x in host.items()}
        for wrong, key in ((float("nan"), "uneven"), (1e30, "even"), (float("inf"), "beside")):
            bad = {**grads, "beside": torch.ones(2)}
            if key == "beside":
                bad[key][1] = wrong if rank == 3 else 1.0
            else:
                bad[key] = placed(host[key].clone(), spread[key])
                if rank == 0:
                    bad[key].to_local()[-1, 0] = wrong
            params = {**spread, "beside": beside}
            before = {name: gathered(x) for name, x in spread.items()}
            skipping = Adam(params, nonfinite="skip")
            skipping.step(bad)
            assert skipping.skipped == 1 and set(skipping.steps.values()) == {0}
            raising = Adam(params, nonfinite="raise")
            with pytest.raises(ValueError, match=f"'{key}': the gradient has") as caught:
                raising.step(bad)
            assert ("in another process" in str(caught.value)) == (
                (rank > 0 and key != "beside") and not _holds(bad[key], wrong)
            ), caught.value
            for name, x in spread.items():
                alike(x, before[name])
            raising.step({**grads, "beside": torch.ones(2)})
            assert set(raising.steps.values()) == {1}

        # One process refuses its gradient; those that would wait for its sums are told.
        clipped = Optimizer(spread, RULES["norm"])
        before = {name: gathered(x) for name, x in spread.items()}
        bad = dict(grads)
        if rank == 2:
            bad["even"] = torch.ones(8, 3)
        with pytest.raises((TypeError, ValueError)) as refused:
            clipped.step(bad)
        own = "'even': the gradient belongs to torch, its parameter to dtensor"
        assert (own if rank == 2 else "another process has refused") in str(refused.value)
        with pytest.raises(ValueError, match="'uneven': some processes have a gradient"):
            clipped.step({**grads, "uneven": None if rank == 1 else grads["uneven"]})
        for name, x in spread.items():
            alike(x, before[name])
        clipped.step({**grads, "uneven": None})
        assert clipped.steps["uneven"] == 0 and clipped.steps["even"] == 1


def _holds(g: Any, wrong: float) -> bool:
    part = g.to_local() if isinstance(g, DTensor) else g
    return bool((part == wrong).any() or part.isnan().any())


def states() -> None:
    """A state comes back on another mesh, in other places, and on one process."""
    one_way, other_way = meshes()
    host, spread = leaves(one_way, 0, "complex64")
    opt = Adam(spread, lr=0.1)
    grads = {key: placed(x, spread[key]) for key, x in host.items()}
    opt.step(grads)
    state = opt.state_dict()
    assert state["state"]["uneven"]["m"].shape == (5, 3, 2)

    _, elsewhere = leaves(other_way, 1, "complex64")
    other, single = Adam(elsewhere), Adam({key: gathered(x) for key, x in spread.items()})
    other.params = {key: placed(gathered(x), elsewhere[key]) for key, x in spread.items()}
    single.load_state_dict(state)
    other.load_state_dict(single.state_dict())  # from plain tensors, the same on each process
    for loaded in (other, Adam(spread)):
        loaded.load_state_dict(state)
        loaded.step({key: placed(host[key], x) for key, x in loaded.params.items()})
    want = single.step(host)
    for key, x in want.items():
        alike(elsewhere[key], x)
        alike(spread[key], x)
        alike(other.moment("v")[key], single.moment("v")[key])
    copied = copy.deepcopy(opt)
    copied.step(grads)
    for key, x in want.items():
        alike(spread[key], x)

    with pytest.raises(ValueError, match=r"'columns'.*torch\.distributed\.checkpoint"):
        opt.save("never.adam")
    terms = DTensor.from_local(torch.ones(2), one_way, [Partial()], run_check=False)
    with pytest.raises(ValueError, match="'w': the parameter is placed P"):
        Adam({"w": terms})


def pure() -> None:
    """`functional` gives the numbers of `Optimizer`, and moments that are DTensors."""
    mesh = meshes()[0]
    _, spread = leaves(mesh, 0, "float32")
    before = {key: gathered(x) for key, x in spread.items()}
    rule = RULES["norm"]
    state, params = functional.init(spread, rule), spread
    opt = Optimizer({key: placed(gathered(x), x) for key, x in spread.items()}, rule)
    for seed in range(3):
        grads = {key: placed(values(x.shape, "float32", seed), x) for key, x in spread.items()}
        params, state = functional.step(params, grads, state, rule)
        want = opt.step(grads)
    for key, x in want.items():
        alike(params[key], gathered(x))
        assert state.moments["m"][key].placements == x.placements
        alike(spread[key], before[key])


def fields() -> None:
    """A field that is an array may be placed as its parameter is, or otherwise."""
    mesh = meshes()[0]
    host, spread = leaves(mesh, 0, "float32")
    upper = {key: abs(values(x.shape, "float32", 9)) for key, x in host.items()}
    for places in (lambda x: x.placements, lambda x: [Replicate()]):
        above = {
            key: distribute_tensor(upper[key], mesh, places(x), src_data_rank=None)
            for key, x in spread.items()
        }
        many = Optimizer(spread, rules.Bounded(rules.Adam(0.1), None, above))
        one = Optimizer(host, rules.Bounded(rules.Adam(0.1), None, upper))
        many.step(spread)
        one.step(host)
        for key, x in host.items():
            alike(spread[key], x)


def runs() -> None:
    """All processes stop together, whatever their clocks say, and one shows progress."""
    rank, mesh = dist.get_rank(), meshes()[0]
    _, spread = leaves(mesh, 0, "float32")
    fun = interop.value_and_grad(lambda tree: sum(((x - 3) ** 2).sum() for x in tree.values()))
    clock = mock.Mock(perf_counter=lambda: (1 + 9 * rank) * time.perf_counter())
    with mock.patch.object(loop, "time", clock), mock.patch.object(progress, "LINE", 0.0):
        result = minimize(fun, spread, rules.Adam(0.1), steps=10**6, stop=Stop(seconds=0.5))
    stopped: list[Any] = [None] * dist.get_world_size()
    seen = result.nit, result.message, result.fun, result.history.gradient.tobytes()
    dist.all_gather_object(stopped, seen)
    assert len(set(stopped)) == 1 and result.success, stopped
    want = sum(float((gathered(x).double() ** 2).sum()) for x in spread.values()) ** 0.5
    assert norm(spread) == pytest.approx(want, rel=1e-6)
    ones = DTensor.from_local(torch.ones(3), mesh, [Partial()], run_check=False)
    assert norm(ones) == pytest.approx(48**0.5)


def fsdp() -> None:
    """FSDP2 with a tensor-parallel layer trains as one process does; FSDP1 is refused by name."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = meshes()[1]

    def model() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3), torch.nn.Linear(3, 1)
        ).double()

    def train(module: Any, x: Any, steps: int = 5) -> Any:
        params = dict(module.named_parameters())
        opt = Optimizer(params, rules.Clipped(rules.Adam(0.05), norm=0.1), nonfinite="raise")
        for _ in range(steps):
            module.zero_grad()
            (module(x) ** 2).mean().backward()
            opt.step({name: p.grad for name, p in params.items()})
        return opt

    x = values((8, 3), "float64", 5)
    alone = model()
    train(alone, x)
    spread = model()
    parallelize_module(spread, mesh["b"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(spread, mesh=mesh["a"])
    opt = train(spread, x[mesh.get_local_rank("a") :: 2])
    assert {row.library for row in opt.explain()} == {"dtensor"}
    for mine, want in zip(spread.parameters(), alone.parameters(), strict=True):
        assert isinstance(mine, DTensor)
        torch.testing.assert_close(gathered(mine), want.detach(), rtol=1e-12, atol=1e-12)

    old = FullyShardedDataParallel(model(), device_id=torch.device("cpu"))
    with pytest.raises(TypeError, match=r"FSDP1.*fully_shard"):
        Adam(dict(old.named_parameters()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=30))
    for job in sys.argv[1:]:
        globals()[job]()
        dist.barrier()
        print(f"done: {job}", flush=True)
    dist.destroy_process_group()
