"""PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..memory import Extent
from . import Library


def _extent(x: Any) -> Extent | None:
    size = x.element_size()
    return Extent(x.data_ptr(), tuple(x.shape), tuple(s * size for s in x.stride()), size)


def _reals(x: Any) -> Any:
    x = x.detach()
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.resolve_neg()


def _write(x: Any, new: Any) -> None:
    # Under the detached view the write is no part of the user's graph, and allowed on its leaves.
    x = x.detach()
    x.copy_(torch.view_as_complex(new.contiguous()) if x.is_complex() else new)


def _like(x: Any, new: Any) -> Any:
    out = torch.empty_like(x.detach())
    _write(out, new)
    return out


def _copy(x: Any) -> Any:
    out = x.detach().clone()
    if isinstance(x, torch.nn.Parameter):
        return torch.nn.Parameter(out, requires_grad=x.requires_grad)
    return out.requires_grad_(x.requires_grad)


def _to_host(x: Any) -> Any:
    return x.detach().cpu().numpy()


def _from_host(host: Any, like: Any) -> Any:
    return torch.tensor(host, dtype=like.dtype, device=like.device)


def _largest(arrays: Sequence[Any]) -> list[float]:
    lows, highs = zip(*(torch.aminmax(_dense(_reals(x))) for x in arrays), strict=True)
    found: list[float] = torch.maximum(-torch.stack(lows), torch.stack(highs)).tolist()
    return found


def _dense(x: Any) -> Any:
    """The same numbers in the order in which they lie: for others aminmax makes a copy."""
    if x.is_contiguous():
        return x
    return x.permute(sorted(range(x.ndim), key=x.stride, reverse=True))


def _capturing(x: Any) -> bool:
    if not x.is_cuda:
        return False
    with torch.cuda.device(x.device):
        return bool(torch.cuda.is_current_stream_capturing())


ROW = Library(
    extent=_extent,
    reals=_reals,
    like=_like,
    write=_write,
    copy=_copy,
    to_host=_to_host,
    from_host=_from_host,
    largest=_largest,
    capturing=_capturing,
)
