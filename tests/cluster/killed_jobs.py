"""Programs of which one process is killed in the middle of a step: `python -m ... library`.

Each steps to the end, from the last shards if there are any. A schedule is asked in the middle of
a step, so the one of the process that is to die kills it there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adam_any import Adam
from tests.cluster.pages import classes

STEPS, DEADLY, EVERY, N = 12, 8, 3, 64


def schedule(dies: bool) -> Callable[[int], float]:
    """A learning rate; the process that asks for that of one step does not live to use it."""

    def rate(count: int) -> float:
        if dies and count == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.1 / (1 + count)

    return rate


def alone(library: str) -> str:
    """The bits of such a run in one process."""
    x: Any = np.arange(float(N))
    if library == "torch":
        import torch

        x = torch.arange(float(N))
    if library == "JAX":
        import jax.numpy as jnp

        x = jnp.arange(float(N))
    opt = Adam({"x": x}, lr=schedule(False))
    for step in range(1, STEPS + 1):
        x = opt.params["x"]
        g = x - step + jnp.sum(jnp.sign(x)) if library == "JAX" else x - step
        opt.step({"x": g})
    return np.asarray(opt.params["x"]).tobytes().hex()


def torch_(folder: str, dies: bool) -> None:
    import datetime

    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=30))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x = distribute_tensor(torch.arange(float(N)), mesh, [Shard(0)], src_data_rank=None)
    opt = Adam({"x": x}, lr=schedule(dies and dist.get_rank() == 2), nonfinite="raise")
    shards = classes("torch")["Shards"](folder)
    found = shards.load({"params": opt.params, "state": opt.state_dict()})
    if found is not None:
        opt.load_state_dict(found["state"])
    for step in range(opt.steps["x"] + 1, STEPS + 1):
        # A sum over processes, as most gradients have.
        g = DTensor.from_local(x.full_tensor() - step, mesh, [Replicate()], run_check=False)
        opt.step({"x": g})
        if step % EVERY == 0:
            shards.save(step, {"params": opt.params, "state": opt.state_dict()})
    print("end:", x.full_tensor().numpy().tobytes().hex(), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def jax_(folder: str, dies: bool) -> None:
    import jax
    import jax.numpy as jnp
    from jax.experimental.multihost_utils import process_allgather
    from jax.sharding import NamedSharding, PartitionSpec

    address, number, index = (
        os.environ["ADDRESS"],
        int(os.environ["WORLD_SIZE"]),
        int(os.environ["RANK"]),
    )
    jax.distributed.initialize(
        address, number, index, coordinator_bind_address=address, heartbeat_timeout_seconds=10
    )
    spread = NamedSharding(jax.make_mesh((number,), ("x",)), PartitionSpec("x"))
    x = jax.jit(lambda: jnp.arange(float(N)), out_shardings=spread)()
    # A sum over processes, of whole numbers, so that its order does not matter.
    gradient = jax.jit(lambda x, step: x - step + jnp.sum(jnp.sign(x)), out_shardings=spread)
    opt = Adam({"x": x}, lr=schedule(dies and index == 2))
    shards = classes("JAX")["Shards"](folder)
    found = shards.load({"params": opt.params, "state": opt.state_dict()})
    if found is not None:
        opt.params = found["params"]
        opt.load_state_dict(found["state"])
    for step in range(opt.steps["x"] + 1, STEPS + 1):
        opt.step({"x": gradient(opt.params["x"], float(step))})
        if step % EVERY == 0:
            shards.save(step, {"params": opt.params, "state": opt.state_dict()})
    print("end:", process_allgather(opt.params["x"], tiled=True).tobytes().hex(), flush=True)
    jax.distributed.shutdown()


def dask_(folder: str, dies: bool) -> None:
    import dask
    import dask.array as da
    from dask.distributed import Client, LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    local = LocalCluster(
        n_workers=4, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    with local as cluster, Client(cluster) as client:
        opt = Adam({"x": da.arange(float(N), chunks=N // 4)}, lr=schedule(False))
        shards = classes("Dask")["Shards"](folder)
        found = shards.load({"params": opt.params, "state": opt.state_dict()})
        if found is not None:
            opt.params = found["params"]
            opt.load_state_dict(found["state"])
        for step in range(opt.steps["x"] + 1, STEPS + 1):
            g = opt.params["x"] - step
            if step == DEADLY - 1:  # one worker is lost, with its chunks: they are computed again
                (worker, *_) = client.scheduler_info()["workers"]
                os.kill(client.run(os.getpid, workers=[worker])[worker], signal.SIGKILL)
            if dies and step == DEADLY:
                g = g.map_blocks(_fatal, meta=g._meta)
            before = opt.params["x"].compute().tobytes()
            try:
                opt.step({"x": g})
            except Exception:
                assert opt.steps["x"] == step - 1
                assert opt.params["x"].compute().tobytes() == before
                raise
            if step % EVERY == 0:
                shards.save(step, {"params": opt.params, "state": opt.state_dict()})
        print("end:", opt.params["x"].compute().tobytes().hex(), flush=True)


def _fatal(chunk: Any, block_id: Any = None) -> Any:
    """Kill every worker that computes the second chunk."""
    if block_id == (1,):
        os.kill(os.getpid(), signal.SIGKILL)
    return chunk


if __name__ == "__main__":
    JOBS = {"torch": torch_, "JAX": jax_, "Dask": dask_}
    JOBS[sys.argv[1]](str(Path(sys.argv[2])), sys.argv[3:] == ["dies"])
