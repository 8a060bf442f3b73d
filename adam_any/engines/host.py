"""Arrays in the host's memory that the CPU engine reads and writes where they lie: NumPy and torch.

One class for each library, made for the leaves of one plan, with the same methods:

- `refusal(leaf)` says why a parameter of this library cannot be written by address, or is None.
- `addresses(grads)` has for each gradient its address, if it can be read in place, or else None:
  such a gradient is then looked at on its own. It is one tight pass.
- `readable(leaf, g)` says whether one gradient, already checked, can be read in place, if its
  dtype can.
- `view(g, axes)` is a gradient with its axes in another order, and `fill(out, g)` copies a part of
  it into a line of reals, converting it.
- `moved()` says whether a parameter lies elsewhere than when the plan was made.
- `written(grads)` tells the library that parameters were written, those with a gradient.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from ctypes import addressof, c_char
from typing import Any, cast

import numpy as np

from .base import Leaf
from .plan import Shape, alike, real_size


class NumPy:
    """NumPy arrays. The buffer protocol gives an address five times faster than
    `__array_interface__` (0.2 us), and vouches for C order; it asks for arrays that can be
    written, and others go the slower way."""

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self._shapes = [leaf.shape for leaf in leaves]
        self._dtype = leaves[0].array.dtype
        self._plain = all(leaf.array.flags.c_contiguous and leaf.array.size for leaf in leaves)
        self._odd = real_size(leaves[0]) - 1

    @staticmethod
    def refusal(leaf: Leaf) -> str | None:
        """None: what is accepted as a parameter can be written by address."""
        return None

    def addresses(self, grads: Sequence[Any]) -> list[int | None]:
        """The address of each gradient that is like its parameter and in C order."""
        found: list[int | None] = [None] * len(grads)
        odd, dtype = self._odd, self._dtype
        if not self._plain:
            return found
        for k, (g, shape) in enumerate(zip(grads, self._shapes, strict=True)):
            if type(g) is np.ndarray and g.dtype is dtype and g.shape == shape:
                try:
                    address = addressof(_buffer(g))
                except (TypeError, ValueError, BufferError):
                    continue  # it cannot be written, or is in another order
                if not address & odd:
                    found[k] = address
        return found

    def readable(self, leaf: Leaf, g: Any) -> bool:
        """Whether its order is the parameter's, and it is aligned."""
        p = leaf.array
        if not isinstance(g, np.ndarray):  # a scalar has no lasting address
            return False
        return alike(leaf.shape, g.strides, p.strides) and g.flags.aligned

    def view(self, g: Any, axes: Shape) -> Any:
        """The same memory with its axes in this order."""
        return np.asarray(g).transpose(axes)

    def fill(self, out: Any, g: Any) -> None:
        """Copy numbers, converted."""
        out = out.view(np.result_type(out, np.complex64)) if g.dtype.kind == "c" else out
        with np.errstate(all="ignore"):
            out.reshape(g.shape)[...] = g

    def moved(self) -> bool:
        """No: an array has its memory for life."""
        return False

    def written(self, grads: Sequence[Any]) -> None:
        """NumPy need not know."""


_buffer = cast(Any, c_char.from_buffer)


class Torch:
    """torch CPU tensors, by way of their memory: autograd sees no operation, but learns that the
    tensors have changed."""

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self._likes = [(x.dtype, x.shape, x.stride()) for x in (leaf.array for leaf in leaves)]
        self._params = [leaf.array for leaf in leaves]
        self._facts = self._current()
        self._odd = real_size(leaves[0]) - 1

    @staticmethod
    def refusal(leaf: Leaf) -> str | None:
        """Why a tensor cannot be written by address, or None."""
        x = leaf.array
        if type(x) not in _tensors():
            return f"{leaf.path!r} is a {type(x).__name__}, whose memory may not be its own"
        if x.is_conj() or x.is_neg():
            return f"{leaf.path!r} is a lazy conjugate or negative; call its resolve method"
        return None

    def addresses(self, grads: Sequence[Any]) -> list[int | None]:
        """The address of each gradient that has its parameter's dtype, shape and strides."""
        found: list[int | None] = [None] * len(grads)
        tensors, device, odd = _tensors(), self._params[0].device, self._odd
        for k, (g, (dtype, shape, stride)) in enumerate(zip(grads, self._likes, strict=True)):
            if type(g) not in tensors or g.dtype != dtype or g.shape != shape:
                continue
            if g.stride() != stride or g.device != device or g.is_conj() or g.is_neg():
                continue
            address = g.data_ptr()
            if address and not address & odd:  # 0 is a zero tensor, or one without memory
                found[k] = address
        return found

    def readable(self, leaf: Leaf, g: Any) -> bool:
        """Whether its order is the parameter's, it is aligned, and its values are its own."""
        x = leaf.array
        if type(g) not in _tensors() or g.is_conj() or g.is_neg():
            return False
        if g.data_ptr() == 0 or g.data_ptr() % g.itemsize:
            return False
        return alike(leaf.shape, g.stride(), x.stride())

    def view(self, g: Any, axes: Shape) -> Any:
        """The same memory with its axes in this order."""
        return g.detach().permute(axes)

    def fill(self, out: Any, g: Any) -> None:
        """Copy numbers, converted."""
        import torch

        line = torch.from_numpy(out)
        line = torch.view_as_complex(line.reshape(-1, 2)) if g.is_complex() else line
        line.reshape(g.shape).copy_(g)

    def moved(self) -> bool:
        """Whether a parameter has other memory, or another meaning: after `p.data = x`, `p.t_()`,
        `p.resize_(n)`, `model.half()`."""
        return self._current() != self._facts

    def _current(self) -> list[Any]:
        return [(x.data_ptr(), x.dtype, x.shape, x.stride()) for x in self._params]

    def written(self, grads: Sequence[Any]) -> None:
        """Let autograd know, so that a graph that still needs the old values says so."""
        from torch.autograd.graph import increment_version

        for x, g in zip(self._params, grads, strict=True):
            if g is not None:
                increment_version(x)


def _tensors() -> tuple[type, ...]:
    torch = sys.modules["torch"]
    return torch.Tensor, torch.nn.Parameter


HOSTS: dict[str, type[NumPy] | type[Torch]] = {"numpy": NumPy, "torch": Torch}
