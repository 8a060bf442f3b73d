"""`python -m tests.helpers.pretend MODULE ...`: run a module as if there were a GPU.

CUDA is emulated, and the benchmark's device is the host, which lends CuPy's arrays.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any
from unittest import mock

import numpy as np

from bench import cuda
from bench.harness import wall

from . import emulated


class Pretended:
    """What `bench.cuda.Cuda` is, in the host's memory; time means nothing on it."""

    xp: Any = np
    cache = 0
    seconds = staticmethod(wall)
    apart = False

    def array(self, x: Any) -> Any:
        return emulated.array(np.array(x))

    def host(self, x: Any) -> Any:
        return emulated.numpy(x).copy()

    def fuse(self, function: Any) -> Any:
        return function

    def allocate_apart(self) -> None:
        self.apart = True

    def runs_jax(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass

    def available(self) -> int:
        return 1 << 40

    def describe(self) -> dict[str, Any]:
        return {"device": "a pretended GPU"}


def main(module: str, *arguments: str) -> None:
    sys.argv = [module, *arguments]
    with emulated.emulated(), mock.patch.object(cuda, "Cuda", Pretended):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
