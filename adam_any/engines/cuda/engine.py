"""One launch for all leaves of a device and dtype, on their own library's stream.

- Takes CuPy arrays and torch CUDA tensors that are dense in memory, in any order of their axes, of
  every dtype. It reads them in place.
- The kernel is generated from the rule's program and compiled without contraction or flushing, so
  it gives the bits of the reference on NumPy.
- A step computes addresses and scalars on the host, puts them into the argument of one launch, and
  returns: nothing is copied or allocated on the device, and nothing is waited for. Gradients of
  another precision take a launch of their own; more than 4,000 leaves, one for each 4,000.
- A gradient in another order, or one that overlaps a leaf that is written, goes through a copy on
  the device.
- Addresses of parameters and moments, and the chunks, are in tables on the device. Their memory
  belongs to the stream of the launch, so it is not used again before the launches are done; a step
  on another stream makes them anew.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, cast

import numpy as np

from ... import check
from ...coefficients import Coefficients
from ...dtypes import DTYPES, name_of
from ...leaf import Leaf, Update
from ...memory import Extent, Written
from ...words import named
from ..kernels.program import Kind, Program, Traced
from ..kernels.table import Gradients, addresses, chunks, match_memory_order, why_not_dense
from ..protocol import Takes, Unfinished
from . import device
from .adder import Adder
from .codegen import ARGUMENT, CAPACITIES, THREADS, cuda_source, layout

#: Elements of a chunk, which one block works on: at most, and at least where there are as many; and
#: how many blocks a launch should have before its chunks grow. Sixteen blocks for each of an H200's
#: 132 multiprocessors; starting points, to be tuned on a GPU.
LONG, SHORT, BLOCKS = 16384, 2048, 2112


def refusal(traced: Traced, leaf: Leaf) -> str | None:
    """The reason why it cannot take the leaf, or None."""
    lacking = device.missing()
    if lacking is not None:
        return lacking
    if device.architecture(device.number(leaf)) is None:
        return f"{named(leaf.path)} is on a GPU that this NVRTC does not compile for"
    if not leaf.backend.writable:
        return f"{named(leaf.path)} is read-only; pass a copy that can be written"
    if traced.refusal is not None:
        return traced.refusal
    sizes = layout(traced.program, leaf.backend.compute, CAPACITIES[-1])
    if sum(map(struct.calcsize, sizes)) > ARGUMENT:
        scalars = len(traced.program.scalars)
        return f"the rule has {scalars} scalars, too many for a kernel's argument"
    return why_not_dense(leaf)


def key(traced: Traced, leaf: Leaf) -> Hashable:
    """The key of what is compiled."""
    return traced.program, traced.summing(False)


def summary(leaf: Leaf) -> str:
    """A line for `explain()`."""
    return "one launch for all arrays of a device and dtype, compiled by NVRTC"


class Plan:
    """The leaves of one library, device and dtype."""

    in_place = True
    adds_inside = False

    def __init__(self, traced: Traced, leaves: Sequence[Leaf]) -> None:
        self.leaves = leaves
        self._refuse_capture()
        for leaf in leaves:
            match_memory_order(leaf)
        first = leaves[0]
        self._library = first.library
        self._device = device.Device(first.backend.library, device.number(first))
        self._arrays = first.library.addresses([leaf.array for leaf in leaves], first.dtype.size)
        self._traced, self._program = traced, traced.program
        self._operands = [
            first.library.addresses([leaf.operands[path] for leaf in leaves], first.dtype.size)
            for path in self._program.fields
        ]
        self._adders: dict[tuple[bool, str], dict[Launch, Adder]] = {}
        self._values = self._program.values
        self.takes = Takes(self._program.coefficients, self._program.constants)
        self._gradients = Gradients(leaves, self._arrays)
        self._launches = [
            Launch(self._traced, self._program, leaves, slice(first, first + CAPACITIES[-1]))
            for first in range(0, len(leaves), CAPACITIES[-1])
        ]
        self._kernels: dict[str, list[Callable[..., None]]] = {}
        self._own = first.dtype.real
        self._prepare(self._own)
        self._stream: Any = None
        #: The number of the last step, and of its calls: the launch, and the number it writes.
        self._calls: tuple[int, list[tuple[Launch, int]]] = 0, []

    def current(self) -> bool:
        """Return whether the parameters are where they were when the plan was made."""
        return not any(arrays.moved() for arrays in (self._arrays, *self._operands))

    def gather(self, grads: Sequence[Any], written: Written) -> list[Any]:
        """For each leaf the address of its gradient, or else what must be kept until the launch.

        That is a gradient of another dtype, or a copy in the order of its parameter.
        """
        self._refuse_capture()
        found = self._gradients.find(grads, written, self._look)
        self._bind_to(self._device.stream())
        return found

    def look(self, grads: Sequence[Any]) -> list[int] | None:
        """The address of each gradient, if the step is like the one before."""
        if not self.current():
            return None
        self._refuse_capture()
        found = self._gradients.again(grads)
        if found is not None:
            self._bind_to(self._device.stream())
        return found

    def _look(self, leaf: Leaf, g: Any, written: Written) -> Any:
        """The address of one gradient, or what must be kept until the launch."""
        check.gradient(leaf.path, leaf.backend, leaf.shape, g)
        near = leaf.library.beside(leaf.array, g)  # in which all processes take part
        if not leaf.reals:
            return 0
        real = _real(g)
        self._prepare(real)
        if near is not g:
            return self._copied(leaf, near)
        extent = cast(Extent, leaf.library.extent(g))
        spoilt = written.spoils(extent, leaf.extent)
        if spoilt or not self._library.readable(leaf.array, g):
            return self._copied(leaf, g)
        return extent.address if real == self._own else g

    def _copied(self, leaf: Leaf, g: Any) -> Any:
        """A copy of a gradient in its parameter's order."""
        p = leaf.array
        with leaf.library.on(p):
            new = leaf.library.namespace(p).empty_like(leaf.library.part(p), dtype=g.dtype)
        leaf.library.write(new, leaf.library.reals(g))
        return new

    def add(
        self, finite: bool, c: Coefficients, grads: Sequence[Any]
    ) -> list[Sequence[float] | None]:
        """The sums of each leaf that has a gradient; the device is waited for once."""
        program = self._traced.summing(finite)
        assert isinstance(program, Program)  # what has a program has one for its terms
        values, compute = program.values(c), self.leaves[0].backend.compute
        found: list[Sequence[float] | None] = [
            None if g is None else [0.0] * len(program.outputs) for g in grads
        ]
        with self._device.here:
            for launch in self._launches:
                if not launch.blocks:  # all its leaves are empty, and have sums of 0
                    continue
                for real, addresses in self._by_dtype(grads[launch.leaves]):
                    adder = self._adders.setdefault((finite, real), {}).get(launch)
                    if adder is None:
                        kind = Kind(program, self._own, real, compute)
                        adder = Adder(self._traced, kind, self.leaves, launch.leaves)
                        self._adders[finite, real][launch] = adder
                    sums = adder(self._device, self._stream, values, addresses)
                    for k, mine in enumerate(sums, launch.leaves.start):
                        if addresses[k - launch.leaves.start]:
                            found[k] = mine
        return found

    def step(self, number: int, c: Coefficients, grads: Sequence[Any]) -> list[Update]:
        """Update every leaf that has a gradient, in place."""
        return self.launch(number, self._values(c), grads)

    def launch(
        self, number: int, scalars: Sequence[float], gradients: Sequence[Any]
    ) -> list[Update]:
        """Queue the update of every leaf of which something was found."""
        calls = [
            (launch, _signed(number, k), self._kernels[real][i], addresses)
            for i, launch in enumerate(self._launches)
            for k, (real, addresses) in enumerate(self._by_dtype(gradients[launch.leaves]))
            if launch.blocks  # else all its leaves are empty
        ]
        self._calls = number, [(launch, signed) for launch, signed, _, _ in calls]
        self._arrays.written(gradients)  # before, since nothing may be left to do after the launch
        with self._device.here:
            for launch, signed, kernel, addresses in calls:
                launch(kernel, self._stream, signed, scalars, addresses)
        return []

    def finish(self, number: int) -> list[Update] | Unfinished:
        """Ask the device for the last call of each launch."""
        last, calls = self._calls
        if last != number:
            return Unfinished.UNTOUCHED
        seen = [self._device.read(launch.word) >= signed for launch, signed in calls]
        if all(seen):
            return []
        return Unfinished.HALF if any(seen) else Unfinished.UNTOUCHED

    def _by_dtype(self, grads: Sequence[Any]) -> Iterable[tuple[str, Sequence[int]]]:
        """The addresses of gradients of one real dtype after another; zero for all others."""
        if set(map(type, grads)) == {int}:
            return [(self._own, grads)]
        found: dict[str, list[int]] = {}
        for k, g in enumerate(grads):
            real, address = self._own, g
            if g is not None and type(g) is not int:
                real, address = _real(g), self._address(g)
            if address:
                found.setdefault(real, [0] * len(grads))[k] = address
        return found.items()

    def _address(self, g: Any) -> int:
        return cast(Extent, self._library.extent(g)).address

    def _prepare(self, real: str) -> None:
        """Compile and load what reads gradients of a real dtype, unless that has been done."""
        if real not in self._kernels:
            kind = Kind(self._program, self._own, real, self.leaves[0].backend.compute)
            self._kernels[real] = [
                self._device.kernel(cuda_source(kind, launch.capacity)) for launch in self._launches
            ]

    def _bind_to(self, stream: Any) -> None:
        """Rebuild the tables when the stream changes."""
        if self._stream is None or self._stream.ptr != stream.ptr:
            self._device.wait()  # moments may have been made on another
            for launch in self._launches:
                launch.put(self._device, stream)
            self._stream = stream

    def _refuse_capture(self) -> None:
        first = self.leaves[0]
        check.uncaptured(first.path, first.library.capturing(first.array))


class Launch:
    """One launch, for at most 4,000 leaves: its tables, and its argument in the host's memory."""

    def __init__(
        self, traced: Traced, program: Program, leaves: Sequence[Leaf], mine: slice
    ) -> None:
        self.leaves, leaves = mine, leaves[mine]
        compute = leaves[0].backend.compute
        self.capacity = next(n for n in CAPACITIES if n >= len(leaves))
        lengths = [leaf.reals for leaf in leaves]
        chunk = longest(sum(lengths))
        self._held = [
            table(traced, program, leaves),
            chunks(lengths, chunk),
            np.zeros(1, np.int64),
        ]
        self.blocks = len(self._held[1])
        head, gradients = layout(program, compute, self.capacity)
        self._head = struct.Struct(head)
        self._gradients = struct.Struct(f"{len(leaves)}q")
        self._argument = np.zeros(1, f"V{struct.calcsize(head + gradients)}")
        self._room = self._argument.view(np.uint8).data
        self._tables: list[Any] = []

    def put(self, here: device.Device, stream: Any) -> None:
        """Copy the tables to the device, into memory that belongs to a stream."""
        self._tables = here.upload(self._held, stream)
        self._places = [x.data.ptr for x in self._tables]
        self.word = self._tables[-1]

    def __call__(
        self,
        kernel: Callable[..., None],
        stream: Any,
        number: int,
        values: Any,
        addresses: Sequence[int],
    ) -> None:
        """Queue it. The argument is copied by the time that this returns."""
        self._head.pack_into(self._room, 0, *self._places, number, *values)
        self._gradients.pack_into(self._room, self._head.size, *addresses)
        kernel((self.blocks,), (THREADS,), (self._argument,), stream=stream)


def table(traced: Traced, program: Program, leaves: Sequence[Leaf]) -> Any:
    """For each leaf the addresses of the arrays of a program, in a row."""
    state = traced.program.state
    rows = [addresses(leaf, state, program) for leaf in leaves]
    return np.asarray(rows, np.int64).reshape(len(leaves), -1)


def _signed(number: int, k: int) -> int:
    """The number that the `k`th call of a launch in a step writes; they grow.

    There is one call for each real dtype of gradients, of which there are four.
    """
    return number * 4 + k


def longest(elements: int) -> int:
    """The length of a chunk in a launch for this number of elements.

    So a launch has at most 2**31 - 1 blocks, which is CUDA's limit, up to 3 * 10**13 elements.
    """
    return min(LONG, max(SHORT, elements // BLOCKS // 1024 * 1024))


def _real(g: Any) -> str:
    """The dtype of the real numbers of a gradient."""
    return DTYPES[name_of(g.dtype)].real
