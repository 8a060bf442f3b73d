"""PyTorch."""

from __future__ import annotations

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


ROW = Library(
    extent=_extent,
    reals=_reals,
    like=_like,
    write=_write,
    copy=_copy,
    to_host=_to_host,
    from_host=_from_host,
)
