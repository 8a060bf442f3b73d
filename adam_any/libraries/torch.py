"""PyTorch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import increment_version

from ..memory import Extent, same_order
from . import Library

TENSORS = (torch.Tensor, torch.nn.Parameter)


class Torch(Library):
    """PyTorch."""

    def writable(self, x: Any) -> bool:
        """Return whether torch lets it be written.

        Outside inference mode it does not, if the tensor was made inside.
        """
        return not x.is_inference() or torch.is_inference_mode_enabled()

    def engine(self, device: Any) -> str | None:
        return {"cpu": "cpu", "cuda": "cuda"}.get(device.type)

    def accept(self, x: Any, what: str) -> None:
        """Raise for a layout without strides, and for a tensor without memory, or with too little.

        A gradient may be a zero tensor; a meta tensor is refused by its device.
        """
        if getattr(x, "_is_flat_param", False):
            raise TypeError(
                f"the {what} is a flattened one of FSDP1, whose storage comes and goes; use FSDP2, "
                "torch.distributed.fsdp.fully_shard, whose parameters are DTensors"
            )
        if x.is_nested:
            raise TypeError(f"the {what} is a nested tensor; pass the tensors in it one by one")
        if x.layout != torch.strided:
            raise TypeError(f"the {what} has layout {x.layout}; pass .to_dense() of it")
        if what != "gradient" and (x.is_meta or x._is_zerotensor()):
            kind = "meta" if x.is_meta else "zero"
            raise TypeError(f"the {what} is a {kind} tensor, without memory; pass a real one")
        if x.is_meta or x.numel() == 0 or x._is_zerotensor():
            return
        last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
        needed = (x.storage_offset() + last + 1) * x.element_size()
        have = x.untyped_storage().nbytes()
        if have < needed:
            raise ValueError(
                f"the storage of the {what} has {have} bytes, but its shape {tuple(x.shape)} needs "
                f"{needed}; it has been freed or resized, so restore it first "
                "(FSDP1 frees it between uses: use FSDP2, torch.distributed.fsdp.fully_shard)"
            )

    def lost(self, x: Any) -> str | None:
        """Of a tensor that was computed from others, nobody would see the steps."""
        if x.is_leaf:
            return None
        return (
            "the parameter is not a leaf of autograd, but was computed from other tensors, which "
            "would stay as they are; pass those, or .detach().requires_grad_() of it"
        )

    def extent(self, x: Any) -> Extent | None:
        size = x.element_size()
        return Extent(x.data_ptr(), tuple(x.shape), tuple(s * size for s in x.stride()), size)

    def reals(self, x: Any) -> Any:
        """A detached view, unless it is a lazy conjugate or negative."""
        x = x.detach()
        return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.resolve_neg()

    def like(self, x: Any, new: Any) -> Any:
        out = torch.empty_like(x.detach())
        self.write(out, new)
        return out

    def paired(self, x: Any) -> Any:
        return torch.view_as_complex(x)

    def truth(self, x: Any, value: bool) -> Any:
        return torch.tensor(value, device=x.device)

    def write(self, x: Any, new: Any) -> None:
        """Write through a detached view, so that the write is not part of the user's graph."""
        x = x.detach()
        x.copy_(torch.view_as_complex(new.contiguous()) if x.is_complex() else new)

    def copy(self, x: Any) -> Any:
        """A leaf of autograd, if it is one that requires a gradient."""
        out = x.detach().clone()
        if isinstance(x, torch.nn.Parameter):
            return torch.nn.Parameter(out, requires_grad=x.requires_grad)
        return out.requires_grad_(x.requires_grad)

    def to_host(self, x: Any) -> Any:
        """A view of a tensor on the CPU; x.numpy() would forbid for ever to resize its storage."""
        x = x.detach().resolve_conj().resolve_neg().cpu()
        if x.dtype == torch.bfloat16:
            return super().to_host(x.view(torch.int16)).view("u2")
        return super().to_host(x)

    def from_host(self, host: Any, like: Any) -> Any:
        if host.dtype == "u2":  # the bits of bfloat16
            return torch.tensor(host.view("i2"), device=like.device).view(torch.bfloat16)
        return torch.tensor(host, dtype=like.dtype, device=like.device)

    def largest(self, arrays: Sequence[Any]) -> list[float]:
        lows, highs = zip(*(torch.aminmax(_dense(self.reals(x))) for x in arrays), strict=True)
        found: list[float] = torch.maximum(-torch.stack(lows), torch.stack(highs)).tolist()
        return found

    def capturing(self, x: Any) -> bool:
        if not x.is_cuda:
            return False
        with torch.cuda.device(x.device):
            return bool(torch.cuda.is_current_stream_capturing())

    def no_address(self, x: Any) -> str | None:
        if type(x) not in TENSORS:
            return f"is of class {type(x).__name__}, whose memory may not be its own"
        if x.is_conj() or x.is_neg():
            return "is a lazy conjugate or negative; call its resolve method"
        return None

    def addresses(self, params: Sequence[Any], itemsize: int) -> Addresses:
        return Addresses(params, itemsize)

    def readable(self, p: Any, g: Any) -> bool:
        if type(g) not in TENSORS or g.is_conj() or g.is_neg():
            return False
        if g.data_ptr() == 0 or g.data_ptr() % g.itemsize:
            return False
        return same_order(tuple(p.shape), g.stride(), p.stride())

    def transposed(self, g: Any, axes: tuple[int, ...]) -> Any:
        return g.detach().permute(axes)

    def in_c_order(self, x: Any) -> Any:
        return x.contiguous()

    def pour(self, x: Any, line: Any) -> None:
        x.detach().copy_(torch.from_numpy(line).reshape(x.shape))

    def fill(self, out: Any, g: Any) -> None:
        line = torch.from_numpy(out)
        line = torch.view_as_complex(line.reshape(-1, 2)) if g.is_complex() else line
        line.reshape(g.shape).copy_(g)


class Addresses:
    """Finds the gradients of torch parameters, by way of their memory.

    Autograd sees no operation, but learns that the tensors have changed.
    """

    objects: Sequence[Any] | None = None

    def __init__(self, params: Sequence[Any], itemsize: int) -> None:
        self._params = params
        self._likes = [(p.dtype, p.shape, p.stride()) for p in params]
        self._facts = self._now()
        self._misaligned = itemsize - 1

    def find(self, grads: Sequence[Any]) -> list[int | None]:
        found: list[int | None] = [None] * len(grads)
        device, misaligned = self._params[0].device, self._misaligned
        for k, (g, (dtype, shape, stride)) in enumerate(zip(grads, self._likes, strict=True)):
            if type(g) not in TENSORS or g.dtype != dtype or g.shape != shape:
                continue
            if g.stride() != stride or g.device != device or g.is_conj() or g.is_neg():
                continue
            address = g.data_ptr()
            if address and not address & misaligned:  # 0: a zero tensor, or one without memory
                found[k] = address
        return found

    def moved(self) -> bool:
        """Return whether a parameter has other memory, or another meaning.

        It has after `p.data = x`, `p.t_()`, `p.resize_(n)`, `model.half()`.
        """
        return self._now() != self._facts

    def written(self, grads: Sequence[Any]) -> None:
        """Let autograd know, so that a graph that still needs the old values says so."""
        for p, g in zip(self._params, grads, strict=True):
            if g is not None:
                increment_version(p)

    def _now(self) -> list[Any]:
        return [(p.data_ptr(), p.dtype, p.shape, p.stride()) for p in self._params]


def _dense(x: Any) -> Any:
    """The same numbers in the order of their memory: for others aminmax makes a copy."""
    if x.is_contiguous():
        return x
    return x.permute(sorted(range(x.ndim), key=x.stride, reverse=True))


LIBRARY = Torch("torch")
