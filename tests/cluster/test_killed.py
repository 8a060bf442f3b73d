"""One of four processes is killed in the middle of a step: the others end, and a run goes on."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from . import killed_jobs
from .processes import ended, free_port, ranks, start, succeed

pytestmark = pytest.mark.cluster

JOBS = "tests.cluster.killed_jobs"
NEEDS = {
    "torch": ("torch.distributed.tensor",),
    "JAX": ("jax", "orbax.checkpoint"),
    "Dask": ("distributed", "zarr"),
}

#: Seconds in which the others must have ended.
BOUND = 60.0


def launch(library: str, number: int, *arguments: str) -> list[Any]:
    if library == "torch":
        return ranks(JOBS, number, library, *arguments)
    if library == "Dask":
        return [start(["-W", "ignore", "-m", JOBS, library, *arguments])]
    address = f"127.0.0.1:{free_port()}"
    return [
        start(
            ["-W", "ignore", "-m", JOBS, library, *arguments],
            ADDRESS=address,
            RANK=str(rank),
            WORLD_SIZE=str(number),
        )
        for rank in range(number)
    ]


def end(printed: list[str]) -> str:
    (bits,) = set(re.findall(r"end: (\w+)", "\n".join(printed)))
    return bits


@pytest.mark.promise(
    "A process that is killed in the middle of a step ends the others, with an error; a run from "
    "the last shards ends with the bits of one that was not killed.",
    engines=["eager", "cpu", "xla"],
)
@pytest.mark.parametrize("library", NEEDS)
def test_a_process_killed_in_a_step_ends_the_others_and_shards_go_on(
    library: str, tmp_path: Path
) -> None:
    for name in NEEDS[library]:
        pytest.importorskip(name, reason=f"{name} is not installed: see the extra 'scale'")
    processes = launch(library, 4, str(tmp_path), "dies")
    printed = "\n".join(ended(processes, BOUND))
    assert all(process.returncode != 0 for process in processes), printed
    assert "end:" not in printed
    if library == "Dask":
        assert "KilledWorker" in printed
    else:
        assert [p.returncode for p in processes].count(-signal.SIGKILL) == 1, printed
    assert end(succeed(launch(library, 2, str(tmp_path)))) == killed_jobs.alone(library)
