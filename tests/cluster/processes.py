"""Worker processes on 127.0.0.1: what the tests of clusters start, and end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.helpers import ROOT

#: A worker has one thread, and listens on the loopback device alone.
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
}

#: Seconds after which a worker that has not ended is killed, and the test fails.
PATIENCE = 120.0


#: What a thread of gloo may say when the interpreter has ended (pytorch#190489).
AT_EXIT = "terminate called without an active exception"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(arguments: Sequence[str], cwd: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
    """A Python process."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **ENVIRONMENT, **environment},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(processes: Sequence[subprocess.Popen[str]], patience: float = PATIENCE) -> list[str]:
    """What processes have printed, after all have ended; those that do not are killed."""
    printed = []
    try:
        for process in processes:
            printed.append(process.communicate(timeout=patience)[0])
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return printed


def ranks(module: str, number: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Processes of one group of torch's, each running a module, as torchrun starts them."""
    port = str(free_port())
    return [
        start(
            ["-W", "ignore", "-m", module, *arguments],
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(number),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(number)
    ]


def torchrun(file: Path, number: int, folder: Path) -> list[subprocess.Popen[str]]:
    """A program under torchrun, which starts so many processes."""
    here = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    count = ["--nproc-per-node", str(number)]
    return [start(["-m", "torch.distributed.run", *count, *here, str(file)], folder)]


def jax_processes(file: Path, number: int, folder: Path) -> list[subprocess.Popen[str]]:
    """A program on so many processes of JAX, which is told of them before it begins."""
    address = f"127.0.0.1:{free_port()}"
    text = file.read_text()
    found = []
    for index in range(number):
        mine = file.with_stem(f"{file.stem}{index}")
        mine.write_text(
            "import jax\n"
            f"jax.distributed.initialize('{address}', {number}, {index}, "
            f"coordinator_bind_address='{address}', heartbeat_timeout_seconds=10)\n"
            f"{text}\njax.distributed.shutdown()\n"
        )
        found.append(start([str(mine)], folder))
    return found


def succeed(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """The same, of processes of which none may fail."""
    printed = ended(processes)
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == 0 or AT_EXIT in text, text
    return printed
