"""The CUDA device, by way of CuPy: its arrays, its clock, its memory, and what it is.

The benchmark knows the device through this class alone, so a stand-in on the host tests the rest.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .harness import MissingError, Runner, needed

#: What `nvidia-smi` is asked for, if it is there.
ASKED = (
    *("driver_version", "power.limit"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
)


class Cuda:
    """CuPy's current device. Raises MissingError, with the reason, where there is none."""

    def __init__(self) -> None:
        self.xp = needed("cupy")
        if not self.xp.cuda.is_available():
            raise MissingError("CuPy finds no CUDA device")
        self._device = self.xp.cuda.Device()
        self._properties = self.xp.cuda.runtime.getDeviceProperties(self._device.id)
        self._events = self.xp.cuda.Event(), self.xp.cuda.Event()

    @property
    def cache(self) -> int:
        """The bytes of its largest cache."""
        return int(self._properties["l2CacheSize"])

    def array(self, x: Any) -> Any:
        """A copy on the device."""
        return self.xp.asarray(x)

    def host(self, x: Any) -> Any:
        """A copy on the host."""
        return self.xp.asnumpy(x)

    def allocate_apart(self) -> None:
        """Give every array from now on memory of its own, in place of a part of a pool's."""
        self.xp.cuda.set_allocator(None)

    def fuse(self, function: Callable[..., None]) -> Callable[..., None]:
        """The function, as CuPy makes one kernel of it."""
        fused: Callable[..., None] = self.xp.fuse()(function)
        return fused

    def runs_jax(self) -> bool:
        """Whether JAX computes on it."""
        return bool(needed("jax").default_backend() == "gpu")

    def synchronize(self) -> None:
        """Return when all that was launched is done."""
        self._device.synchronize()

    def seconds(self, runner: Runner, steps: int) -> float:
        """Seconds between two events on the default stream, before and after these steps."""
        before, after = self._events
        before.record()
        runner.run(steps)
        after.record()
        after.synchronize()
        return float(self.xp.cuda.get_elapsed_time(before, after)) / 1e3

    def available(self) -> int:
        """The bytes that are free once each library has given back what it keeps for later."""
        self.xp.get_default_memory_pool().free_all_blocks()
        if "torch" in sys.modules and (cuda := import_module("torch.cuda")).is_available():
            cuda.empty_cache()
        return int(self._device.mem_info[0])

    def describe(self) -> dict[str, Any]:
        """A description for the results; driver, clocks and power limit where the system tells."""
        runtime = self.xp.cuda.runtime
        command = ["nvidia-smi", f"--id={self._device.pci_bus_id}", "--format=csv,noheader"]
        command.append(f"--query-gpu={','.join(ASKED)}")
        try:
            said = subprocess.run(command, capture_output=True, text=True).stdout
        except OSError:  # it is not there
            said = ""
        values = said.strip().split(", ")
        return {
            "device": self._properties["name"].decode(),
            "compute capability": self._device.compute_capability,
            "memory": f"{self._device.mem_info[1] / 1e9:.0f} GB",
            "cache": f"{self.cache / 1e6:.0f} MB",
            "CUDA runtime": runtime.runtimeGetVersion(),
            "CUDA driver": runtime.driverGetVersion(),
            **(dict(zip(ASKED, values, strict=True)) if len(values) == len(ASKED) else {}),
        }
