"""Steps of many processes: seconds, bytes that were sent, and the host's share; and planning on
paper, for more parameters than fit anywhere.

Each engine is measured in worker processes of its own, each held to one core and one thread, on
127.0.0.1. What is sent is counted by the system, as bytes through the loopback device, so that it
has whatever the libraries say to each other beside.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
ELEMENTS, PROCESSES = 100_000_000, (1, 2, 4)
ENGINES = ("torch", "torch, norm", "JAX", "JAX, norm", "Dask", "NumPy")

#: Steps that are measured, after as many that are not; of few elements, for the host's time.
STEPS, SMALL_STEPS, SMALL = 4, 30, 4_000

#: Seconds in which one engine must be done.
PATIENCE = 600.0

#: Chunks of one element, for the cost of a chunk.
CHUNKS = 200

#: What is planned on paper: parameters, processes, and leaves of one process.
PAPER, PAPER_PROCESSES, LEAVES = 10**12, 1_000, 2_000

Tick = Callable[[str], None]


def run(engines: Iterable[str], elements: int, processes: Iterable[int], tick: Tick) -> list[Any]:
    """Measure; a dict for each engine and number of processes."""
    rows = []
    for engine in engines:
        for number in (1,) if engine == "NumPy" else processes:
            tick(f"{engine} on {number}")
            found = _measured(engine, number, elements)
            rows.append({"engine": engine, "processes": number, "elements": elements, **found})
    return rows


def _measured(engine: str, number: int, elements: int) -> dict[str, Any]:
    spread = 1 if engine in ("Dask", "NumPy") else number  # Dask starts its workers itself
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "bench.scale",
                engine,
                str(number),
                str(elements),
            ],
            env={
                **os.environ,
                **{name: "1" for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")},
                "GLOO_SOCKET_IFNAME": "lo",
                "JAX_PLATFORMS": "cpu",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "WORLD_SIZE": str(spread),
            },
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(spread)
    ]
    try:
        out = [worker.communicate(timeout=PATIENCE)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    lines = [line for line in out[0].splitlines() if line.startswith("{")]
    if not lines:
        return {"missing": f"the first process ended with {workers[0].returncode}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


# In a worker -------------------------------------------------------------------------------------


def sent() -> int:
    """The bytes that the system has sent through the loopback device so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    raise OSError("the loopback device is not in /proc/net/dev")


def timed(step: Callable[[], None], together: Callable[[], None], steps: int) -> tuple[Any, float]:
    """The seconds of each step, and the bytes that all processes sent in one."""
    for _ in range(steps):
        step()
    together()
    seconds, before = [], sent()
    for _ in range(steps):
        start = perf_counter()
        step()
        seconds.append(perf_counter() - start)
    bytes_ = (sent() - before) / steps
    together()
    return seconds, bytes_


def _report(make: Callable[[int], Callable[[], None]], together: Any, elements: int) -> Any:
    """The figures of an engine whose step `make` gives for a number of elements."""
    host, _ = timed(make(SMALL), together, SMALL_STEPS)
    seconds, bytes_ = timed(make(elements), together, STEPS)
    return {
        "seconds": seconds,
        "bytes": bytes_,
        "host seconds": statistics.median(host),
        "peak bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _rule(engine: str) -> Any:
    from adam_any import rules

    rule = rules.Adam(0.01)
    return rules.Clipped(rule, norm=1.0) if engine.endswith("norm") else rule


def _torch(engine: str, number: int, elements: int) -> Any:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, ones

    from adam_any import Optimizer

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (number,))

    def make(n: int) -> Callable[[], None]:
        p, g = (ones(n, device_mesh=mesh, placements=[Shard(0)]) for _ in range(2))
        opt = Optimizer(p, _rule(engine))
        return lambda: opt.step(g)

    found = _report(make, dist.barrier, elements)
    dist.destroy_process_group()
    return found


def _jax(engine: str, number: int, elements: int) -> Any:
    import jax
    import jax.numpy as jnp
    from jax.experimental.multihost_utils import sync_global_devices
    from jax.sharding import NamedSharding, PartitionSpec

    from adam_any import Optimizer

    address = f"127.0.0.1:{os.environ['MASTER_PORT']}"
    if number > 1:
        rank = int(os.environ["RANK"])
        jax.distributed.initialize(address, number, rank, coordinator_bind_address=address)
    spread = NamedSharding(jax.make_mesh((number,), ("x",)), PartitionSpec("x"))

    def make(n: int) -> Callable[[], None]:
        p, g = (jax.jit(lambda: jnp.ones(n), out_shardings=spread)() for _ in range(2))
        opt = Optimizer(p, _rule(engine))
        return lambda: jax.block_until_ready(opt.step(g))

    found = _report(make, lambda: sync_global_devices("bench"), elements)
    if number > 1:
        jax.distributed.shutdown()
    return found


def _numpy(engine: str, number: int, elements: int) -> Any:
    import numpy as np

    from adam_any import Optimizer

    def make(n: int) -> Callable[[], None]:
        p, g = np.ones(n, np.float32), np.ones(n, np.float32)
        opt = Optimizer(p, _rule(engine))
        return lambda: opt.step(g)

    return _report(make, lambda: None, elements)


def _dask(engine: str, number: int, elements: int) -> Any:
    import dask
    import dask.array as da
    from dask.distributed import Client, LocalCluster

    from adam_any import Optimizer

    dask.config.set({"distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1}})
    with (
        LocalCluster(
            n_workers=number, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster),
    ):

        def make(n: int, chunk: int = 0) -> Callable[[], None]:
            chunk = chunk or max(1, min(n // number, 4_000_000))
            p, g = (da.ones(n, chunks=chunk, dtype="float32").persist() for _ in range(2))
            opt = Optimizer(p, _rule(engine))
            return lambda: opt.step(g)

        found = _report(make, lambda: None, elements)
        before = len(cluster.scheduler.tasks)
        small, _ = timed(make(CHUNKS, 1), lambda: None, STEPS)
        found["seconds a chunk"] = statistics.median(small) / CHUNKS
        found["scheduler records a chunk and step"] = (len(cluster.scheduler.tasks) - before) / (
            2 * STEPS * CHUNKS
        )
    return found


def main(arguments: list[str]) -> None:
    """Measure as one process of those that do."""
    engine, number, elements = arguments[0], int(arguments[1]), int(arguments[2])
    if engine != "Dask" and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    measure = {"torch": _torch, "JAX": _jax, "Dask": _dask, "NumPy": _numpy}
    print(json.dumps(measure[engine.partition(",")[0]](engine, number, elements)), flush=True)
    os._exit(0)  # some threads of gloo do not outlive an interpreter that ends (pytorch#190489)


# On paper ----------------------------------------------------------------------------------------


def paper(tick: Tick) -> dict[str, Any]:
    """Plan for 10^12 parameters in 1,000 processes, as one of these.

    Its memory is reserved and never touched, so it needs none; the process group is torch's fake
    one, which sends nothing.
    """
    tick("on paper")
    text = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from bench import scale; scale._paper()"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def _paper() -> None:
    import pickle
    from unittest import mock

    import torch
    import torch.distributed as dist
    from torch.distributed.checkpoint import default_planner as planning
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from adam_any import Adam
    from adam_any.libraries.dtensor import DTensors

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=PAPER_PROCESSES)
    mesh = init_device_mesh("cpu", (PAPER_PROCESSES,))
    share = PAPER // PAPER_PROCESSES // LEAVES

    def leaf(part: Any) -> Any:
        shape = torch.Size((part.numel() * PAPER_PROCESSES,))
        return DTensor.from_local(part, mesh, [Shard(0)], run_check=False, shape=shape, stride=(1,))

    def untouched(self: Any, x: Any, compute: str) -> Any:
        return torch.empty_like(self.part(x).detach(), dtype=getattr(torch, compute))

    warm = Adam(leaf(torch.ones(1)))  # loads what is loaded once, whatever the size
    warm.step(warm.params)
    found: dict[str, Any] = {"parameters": PAPER, "processes": PAPER_PROCESSES, "leaves": LEAVES}

    def measured(name: str, made: Callable[[], Any]) -> Any:
        before, start = _resident(), perf_counter()
        result = made()
        found[name] = {"seconds": perf_counter() - start, "bytes": _resident() - before}
        return result

    with mock.patch.object(DTensors, "zeros", untouched):
        params = measured(
            "DTensors, by torch",
            lambda: {f"layers.{i}.weight": leaf(torch.empty(share)) for i in range(LEAVES)},
        )
        opt = measured("optimizer: names, checks, moments", lambda: Adam(params))
        plans = measured("plan: addresses and chunks", lambda: opt._contents.current_plans(None))
    found["chunks"] = len(plans[0]._table.chunks)
    moments = {
        f"{name}.{moment}": leaf(x)
        for name, mine in zip(params, (x.moments for x in opt._contents.leaves), strict=True)
        for moment, x in zip(("m", "v"), mine, strict=True)
    }
    state = {**params, **moments}

    def plan() -> Any:
        return planning.create_default_local_save_plan(state, is_coordinator=True)

    local = measured("checkpoint plan of one process, by torch", plan)
    few = 5
    start = perf_counter()
    _, metadata = planning.create_default_global_save_plan([local] * few)
    found["checkpoint plan of all, by torch"] = {
        "seconds": (perf_counter() - start) / few * PAPER_PROCESSES,
        "bytes": len(pickle.dumps(metadata)) / few * PAPER_PROCESSES,
    }
    # The host's time of a real step of as many leaves, with next to no elements.
    params = {name: leaf(torch.ones(4)) for name in params}
    small = Adam(params)
    seconds, _ = timed(lambda: small.step(params), lambda: None, 20)
    found["host's time of a step"] = {"seconds": statistics.median(seconds), "bytes": 0}
    print(json.dumps(found), flush=True)
    os._exit(0)


def _resident() -> int:
    """The bytes of memory that this process really has."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


# Results -----------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """The tables of docs/SCALING.md."""
    lines = [
        "| engine | processes | seconds a step | host's time, ms | sent in a step, bytes |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        head = f"| {row['engine']} | {row['processes']} |"
        if "missing" in row:
            lines.append(f"{head} {row['missing']} | | |")
            continue
        low, high = min(row["seconds"]), max(row["seconds"])
        lines.append(
            f"{head} {low:.3f} to {high:.3f} | {row['host seconds'] * 1e3:.3g} "
            f"| {row['bytes']:,.0f} |"
        )
    for row in result["rows"]:
        if "seconds a chunk" in row:
            lines.append("")
            lines.append(
                f"Dask, {row['processes']} workers: {row['seconds a chunk'] * 1e3:.1f} ms a chunk, "
                f"{row['scheduler records a chunk and step']:.1f} records of the scheduler a chunk "
                "and step."
            )
    if result.get("paper"):
        lines += ["", "| on paper | seconds | MB |", "|---|---|---|"]
        lines += [
            f"| {name} | {x['seconds']:.3g} | {x['bytes'] / 1e6:,.1f} |"
            for name, x in result["paper"].items()
            if isinstance(x, dict)
        ]
    return "\n".join(lines)


def save(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON."""
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
