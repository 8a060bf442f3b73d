"""The geometry of the CUDA kernel, tried out: what a block is, what it works on, and how it reads.

Adam's kernel of float32 is launched as the engine does it, on parts of the same four arrays, so
that every geometry needs no more memory than one. Each must give the bits of the first.
"""

from __future__ import annotations

import itertools
import re
import statistics
import struct
from collections.abc import Iterable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from adam_any.engines.cuda import codegen
from adam_any.engines.cuda import device as engine
from adam_any.engines.kernels.program import trace
from adam_any.engines.kernels.table import chunks
from adam_any.rules import Adam

from .gpu import CACHES
from .harness import Runner, calibrated, reason
from .on_device import Copy, Rotation

SIZES = (100_000_000, 1_000_000)
ODD = 5003
ROUNDS, TURN = 3, 0.08

#: Read and written past the caches: what nobody reads again before the next step.
STREAMED = """
template <class T>
static __device__ Pack<T> streamed(const T* x) {
    Pack<T> y;
    for (int i = 0; i < int(sizeof(y) / 16); ++i)
        reinterpret_cast<uint4*>(&y)[i] = __ldcs(reinterpret_cast<const uint4*>(x) + i);
    return y;
}

template <class T>
static __device__ void stream(T* x, const Pack<T>& y) {
    for (int i = 0; i < int(sizeof(y) / 16); ++i)
        __stcs(reinterpret_cast<uint4*>(x) + i, reinterpret_cast<const uint4*>(&y)[i]);
}
"""


class Geometry(NamedTuple):
    """The threads of a block, the elements of a chunk, and of a thread at once; how often its loop
    is unrolled, and whether gradient and moments go past the caches.
    """

    threads: int = codegen.THREADS
    chunk: int = 16384
    width: int = codegen.WIDTHS["float32"]
    unroll: int = 1
    streamed: bool = False

    def __str__(self) -> str:
        past = ", streamed" if self.streamed else ""
        return (
            f"{self.threads} threads, chunks of {self.chunk}, {self.width} at once, "
            f"unrolled {self.unroll}{past}"
        )


FIRST = Geometry()
CHOICES = {
    "chunk": (16384, 2048, 4096, 8192, 32768, 65536),
    "threads": (256, 512),
    "width": (4, 8),
    "unroll": (1, 2),
    "streamed": (False, True),
}


def geometries() -> list[Geometry]:
    """The one that is built in, then those that differ from it in one thing, then all others."""
    found = [
        Geometry(**dict(zip(CHOICES, x, strict=True))) for x in itertools.product(*CHOICES.values())
    ]
    return sorted(found, key=lambda x: min(2, sum(a != b for a, b in zip(x, FIRST, strict=True))))


def text(geometry: Geometry) -> str:
    """The text of Adam's kernel, in this geometry."""
    kind = codegen.Kind(trace(Adam()), *("float32",) * 3)
    with (
        mock.patch.object(codegen, "THREADS", geometry.threads),
        mock.patch.dict(codegen.WIDTHS, float32=geometry.width),
    ):
        made = codegen.cuda_source(kind, codegen.CAPACITIES[0])
    made = made.replace("#pragma unroll 1\n", f"#pragma unroll {geometry.unroll}\n", 1)
    if geometry.streamed:
        made = re.sub(r"= pack\((g|s_\w+) \+ i\);", r"= streamed(\1 + i);", made)
        made = re.sub(r"pack\((s_\w+) \+ i\) = (\w+);", r"stream(\1 + i, \2);", made)
        made = made.replace(
            "static __device__ void update(", f"{STREAMED}\nstatic __device__ void update("
        )
    return made


class Launches(Runner):
    """Steps of so many elements, each on the next part of the arrays p, g, m and v."""

    def __init__(self, arrays: Sequence[Any], elements: int, geometry: Geometry) -> None:
        there = engine.Device("cupy", getattr(arrays[0].data, "device_id", 0))
        program, self._stream = trace(Adam()), there.stream()
        self._kernel = there.kernel(text(geometry))
        table = chunks([elements], geometry.chunk)
        self._grid, self._block = (len(table),), (geometry.threads,)
        head, gradients = codegen.layout(program, "float32", codegen.CAPACITIES[0])
        coefficients = Adam().coefficients(1)
        values = [coefficients[name] for name in program.coefficients]
        size, self._held, self._arguments = struct.calcsize(head + gradients), [], []
        places = there.upload([table, np.zeros(1, np.int64)], self._stream)
        for start in range(0, arrays[0].size - elements + 1, elements):
            p, g, m, v = (x.data.ptr + 4 * start for x in arrays)
            (state,) = there.upload([np.array([[p, m, v]])], self._stream)
            argument = np.zeros(1, f"V{size}")
            room = argument.view(np.uint8).data
            addresses = [x.data.ptr for x in (state, *places)]
            struct.pack_into(head, room, 0, *addresses, 1, *values)
            struct.pack_into("q", room, struct.calcsize(head), g)
            self._held += [state, *places]
            self._arguments.append(argument)
        self._next = itertools.cycle(self._arguments).__next__

    def step(self) -> None:
        """Launch the kernel on the next part."""
        self._kernel(self._grid, self._block, (self._next(),), stream=self._stream)


def sweep(
    device: Any,
    findings: Any,
    seconds: float,
    sizes: Sequence[int] = SIZES,
    chosen: Iterable[Geometry] | None = None,
) -> None:
    """Time every geometry for each number of elements, in turns, while there is time."""
    tried = list(geometries() if chosen is None else chosen)
    right = _right(device, findings, tried)
    host = np.resize(np.random.default_rng(0).standard_normal(1 << 20, np.float32), max(sizes))
    arrays = [device.array(x) for x in (host, host, np.zeros_like(host), np.zeros_like(host))]
    begun = perf_counter()
    for number, elements in enumerate(sizes, 1):
        end = begun + 0.85 * seconds * number / len(sizes)
        beyond = max(1, -(-CACHES * device.cache // (28 * elements)))  # so many copies, in turn
        makers: dict[Any, Any] = {
            "copy": lambda n=elements, k=beyond: Rotation(
                Copy([host[:n]], [], device.xp) for _ in range(k)
            )
        }
        makers |= {x: partial(Launches, arrays, elements, x) for x in right}
        times = _times(device, findings, f"{elements:.0e}", makers, end)
        for name in ("copy", FIRST):
            if name in times:
                findings.add(f"{elements:.0e} elements, {name}", _share(times, name))
        best = sorted((x for x in times if x != "copy"), key=times.__getitem__)[:5]
        for name in best:
            findings.add(
                f"{elements:.0e} elements, best of {len(times) - 1}: {name}", _share(times, name)
            )


def _right(device: Any, findings: Any, tried: Sequence[Geometry]) -> list[Geometry]:
    """Those that compile, and give the bits of the one that is built in."""
    rng = np.random.default_rng(1)
    host = [rng.standard_normal(ODD, np.float32) for _ in range(2)]
    want, right = None, []
    for geometry in dict.fromkeys((FIRST, *tried)):
        arrays = [device.array(x) for x in (*host, *np.zeros((2, ODD), np.float32))]
        try:
            Launches(arrays, ODD, geometry).step()
            found = b"".join(device.host(x).tobytes() for x in arrays)
        except Exception as error:  # one that cannot be compiled must not end the others
            findings.add(str(geometry), reason(error), "wrong")
            continue
        want = want or found
        if found != want:
            findings.add(str(geometry), "other bits", "wrong")
        elif geometry in tried:
            right.append(geometry)
    findings.add(f"geometries with the same bits, on {ODD} elements", str(len(right)), "ok")
    return right


def _times(device: Any, findings: Any, size: str, makers: Any, end: float) -> dict[Any, float]:
    """The median seconds of a step of each, as far as there was time."""
    runners: dict[Any, tuple[Runner, int]] = {}
    times: dict[Any, list[float]] = {}
    for number, (name, make) in itertools.product(range(ROUNDS), makers.items()):
        if perf_counter() > end:
            break
        if name not in runners:
            runner = make()
            device.seconds(runner, 2)
            runners[name] = runner, calibrated(runner, TURN, device.seconds)
        runner, steps = runners[name]
        times.setdefault(name, []).append(device.seconds(runner, steps) / steps)
        findings.add(f"{size} {name}", f"{times[name][-1]:.4g} s", raw=number)
    return {name: statistics.median(x) for name, x in times.items()}


def _share(times: dict[Any, float], name: Any) -> str:
    copy = times.get("copy")
    share = f", {copy / times[name]:.1%} of the copy's bandwidth" if copy and name != "copy" else ""
    return f"{times[name] * 1e6:.1f} µs{share}"
