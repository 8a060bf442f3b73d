"""The workloads: lists of shapes, and float32 arrays of normal-sized values in them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Arrays = list[Array]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Workload:
    """A name for the command line, a title for people, and the shapes of the parameters."""

    key: str
    title: str
    shapes: tuple[Shape, ...]
    #: Whether all gradients are zero, and so all moments.
    zeros: bool = False

    @property
    def elements(self) -> int:
        """The number of parameters, all leaves together."""
        return sum(math.prod(shape) for shape in self.shapes)

    def arrays(self, seed: int) -> Arrays:
        """Normally distributed float32 arrays of these shapes, the same for the same seed."""
        random = np.random.default_rng(seed)
        return [random.standard_normal(shape, dtype=np.float32) for shape in self.shapes]


def resnet50() -> Iterator[Shape]:
    """The parameters of ResNet-50 (He et al. 2016), weights and batch-norm pairs in order."""

    def convolution(out: int, into: int, width: int) -> Iterator[Shape]:
        yield from ((out, into, width, width), (out,), (out,))  # then its batch norm

    yield from convolution(64, 3, 7)
    into = 64
    for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        out = 4 * inner
        for block in range(blocks):
            yield from convolution(inner, into, 1)
            yield from convolution(inner, inner, 3)
            yield from convolution(out, inner, 1)
            if block == 0:
                yield from convolution(out, into, 1)  # the shortcut
            into = out
    yield from ((1000, into), (1000,))


def gpt2() -> Iterator[Shape]:
    """The parameters of GPT-2 small (Radford et al. 2019); the output layer is the embedding."""
    width, layers = 768, 12

    def linear(into: int, out: int) -> Iterator[Shape]:
        yield from ((into, out), (out,))

    yield from ((50257, width), (1024, width))
    for _ in range(layers):
        yield from ((width,), (width,))
        yield from linear(width, 3 * width)
        yield from linear(width, width)
        yield from ((width,), (width,))
        yield from linear(width, 4 * width)
        yield from linear(4 * width, width)
    yield from ((width,), (width,))


def _one(name: str) -> Workload:
    number, _, unit = name.partition(" ")
    elements = int(number) * {"": 1, "k": 1_000, "M": 1_000_000}[unit]
    return Workload(f"1x{number}{unit}", f"1 × {name}", ((elements,),))


_MANY = (
    Workload("200x64x64", "200 × 64²", ((64, 64),) * 200),
    Workload("1000x1000", "1000 × 1000", ((1000,),) * 1000),
    Workload("resnet50", "ResNet-50", tuple(resnet50())),
    Workload("gpt2", "GPT-2 small", tuple(gpt2())),
)
_TWO = Workload("2x100", "2 × 100", ((100,), (100,)))
_ON_CPU = (
    *map(_one, ("1", "100", "1 k", "10 k", "100 k", "1 M", "4 M", "16 M", "64 M")),
    *(_TWO, *_MANY),
)
_ZEROS = dataclasses.replace(
    _one("100 M"), key="1x100M-zeros", title="1 × 100 M, zeros", zeros=True
)
_ON_GPU = (_one("1 M"), _one("100 M"), _ZEROS, *_MANY)

#: What each benchmark steps, by the name on the command line.
ON_CPU = {workload.key: workload for workload in _ON_CPU}
ON_GPU = {workload.key: workload for workload in _ON_GPU}
