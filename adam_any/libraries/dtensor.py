"""torch's DTensors: each process steps the part that it holds, as a torch tensor.

- The part shares memory with the parameter, so an engine for torch steps it where it is, and
  nothing is communicated.
- A gradient with other placements, `Partial` among them, is redistributed to the parameter's.
- Moments are plain tensors inside, parts as well; the user gets DTensors of the same placements.
- A number about all elements, such as a norm, is the sum of what the processes have: one
  all-reduce for all leaves of a mesh (of a mesh that is a part of the world, one a dimension).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor, distribute_tensor

from ..memory import Extent
from . import torch as plain


class Mesh(NamedTuple):
    """The processes that hold a DTensor; gradients must be on the same mesh."""

    mesh: Any

    @property
    def type(self) -> str:
        """The kind of device that the parts are on."""
        return str(self.mesh.device_type)

    def __str__(self) -> str:
        number = self.mesh.size()
        return f"{number} process{'es' * (number > 1)} ({self.type})"


class DTensors(plain.Torch):
    """torch's DTensors, and the plain tensors that are parts of them."""

    spread = True

    def device(self, x: Any) -> Any:
        return Mesh(x.device_mesh) if isinstance(x, DTensor) else x.device

    def writable(self, x: Any) -> bool:
        return super().writable(self.part(x))

    def elements(self, x: Any) -> int:
        return int(self.part(x).numel())

    def processes(self, x: Any) -> int:
        return int(x.device_mesh.size())

    def accept(self, x: Any, what: str) -> None:
        """Raise for terms of a sum that has not been formed, except as a gradient."""
        if what != "gradient" and any(placement.is_partial() for placement in x.placements):
            raise ValueError(
                f"the {what} is placed {_shown(x.placements)}: each process has a term of a sum "
                "that has not been formed; redistribute it"
            )
        super().accept(self.part(x), what)

    def remark(self, x: Any) -> str:
        return (
            f"each process steps its part, placed {_shown(x.placements)}; a gradient with other "
            "placements is redistributed"
        )

    def unsaved(self, x: Any) -> str | None:
        if all(placement.is_replicate() for placement in x.placements):
            return None
        return (
            "it is a DTensor, of which each process holds a part; write its parts, with "
            "torch.distributed.checkpoint"
        )

    def extent(self, x: Any) -> Extent | None:
        return super().extent(self.part(x))

    # Parts ----------------------------------------------------------------------------------------

    def beside(self, p: Any, x: Any) -> Any:
        """The same numbers placed as a parameter is: itself if they are, redistributed if not.

        A plain tensor is taken for all of them, the same in each process.
        """
        mesh, placements = p.device_mesh, p.placements
        with torch.no_grad():
            if not isinstance(x, DTensor):
                return distribute_tensor(x.detach(), mesh, placements, src_data_rank=None)
            if x.device_mesh != mesh:
                return distribute_tensor(x.full_tensor(), mesh, placements, src_data_rank=None)
            return x if x.placements == placements else x.redistribute(mesh, placements)

    def part(self, x: Any) -> Any:
        """The part of a DTensor that is held here, in the same memory; a plain tensor is one."""
        if not isinstance(x, DTensor):
            return x
        local = x._local_tensor  # to_local() would be a step in the user's graph
        return local.wait() if hasattr(local, "wait") else local  # it may still be on its way

    def whole(self, p: Any, x: Any) -> Any:
        strides = tuple(p.stride())
        if x.ndim > p.ndim:  # pairs
            strides = (*(2 * n for n in strides), 1)
        return DTensor.from_local(
            x.detach(),
            p.device_mesh,
            p.placements,
            run_check=False,
            shape=torch.Size((*p.shape, *x.shape[p.ndim :])),
            stride=strides,
        )

    def shared(self, x: Any) -> bool:
        return self.processes(x) > 1

    def first(self, x: Any) -> bool:
        return not any(x.device_mesh.get_coordinate())

    def of_first(self, x: Any, value: float) -> float:
        return _added(x.device_mesh, [value if self.first(x) else 0.0])[0]

    def norm(self, x: Any) -> float:
        with torch.no_grad():
            x = x if x.dtype.itemsize > 2 else x.float()
            return float(torch.linalg.vector_norm(x).full_tensor())

    def totals(
        self,
        arrays: Sequence[Any],
        sums: Sequence[Sequence[float]],
        flags: Sequence[Sequence[float]],
    ) -> tuple[list[list[float]], list[list[float]]]:
        of_mesh: dict[Any, list[int]] = {}
        for k, x in enumerate(arrays):
            of_mesh.setdefault(x.device_mesh, []).append(k)
        all_sums, all_flags = super().totals(arrays, sums, flags)
        for mesh, which in of_mesh.items():
            line: list[float] = []
            for k in which:
                # Of replicas the first counts.
                line += sums[k] if _first(arrays[k]) else [0.0] * len(sums[k])
                line += flags[k]
            found = iter(_added(mesh, line))
            for k in which:
                all_sums[k] = [next(found) for _ in sums[k]]
                all_flags[k] = [next(found) for _ in flags[k]]
        return all_sums, all_flags

    # Reals ----------------------------------------------------------------------------------------

    def reals(self, x: Any) -> Any:
        return super().reals(self.part(x))

    def like(self, x: Any, new: Any) -> Any:
        return self.whole(x, super().like(self.part(x), new))

    def write(self, x: Any, new: Any) -> None:
        super().write(self.part(x), new)

    def to_host(self, x: Any) -> Any:
        """All of a DTensor, on every process; all of its mesh must call it."""
        with torch.no_grad():
            return super().to_host(x.full_tensor() if isinstance(x, DTensor) else x)

    def from_host(self, host: Any, like: Any) -> Any:
        new = super().from_host(host, self.part(like))
        return self.beside(like, new) if isinstance(like, DTensor) else new

    def largest(self, arrays: Sequence[Any]) -> list[float]:
        """Of the parts here, of which some may be empty."""
        parts = [self.part(x) for x in arrays]
        return [super(DTensors, self).largest([x])[0] if x.numel() else 0.0 for x in parts]

    # Addresses ------------------------------------------------------------------------------------

    def no_address(self, x: Any) -> str | None:
        return super().no_address(self.part(x))

    def addresses(self, params: Sequence[Any], itemsize: int) -> Addresses:
        return Addresses(params, itemsize)

    def readable(self, p: Any, g: Any) -> bool:
        return super().readable(self.part(p), self.part(g))

    def transposed(self, g: Any, axes: tuple[int, ...]) -> Any:
        return super().transposed(self.part(g), axes)

    def fill(self, out: Any, g: Any) -> None:
        super().fill(out, self.part(g))


class Addresses(plain.Addresses):
    """Finds the parts of gradients that are placed as their parameters are."""

    def __init__(self, params: Sequence[Any], itemsize: int) -> None:
        self._whole = params
        super().__init__([LIBRARY.part(x) for x in params], itemsize)

    def find(self, grads: Sequence[Any]) -> list[int | None]:
        pairs = zip(grads, self._whole, strict=True)
        return super().find([LIBRARY.part(g) if _alike(g, p) else None for g, p in pairs])

    def written(self, grads: Sequence[Any]) -> None:
        super().written(grads)
        for p, g in zip(self._whole, grads, strict=True):
            if g is not None and isinstance(p, DTensor):
                increment_version(p)

    def _now(self) -> list[Any]:
        # FSDP may give a parameter another part.
        self._params = [LIBRARY.part(x) for x in self._whole]
        return [*super()._now(), *(getattr(x, "placements", None) for x in self._whole)]


def _alike(g: Any, p: Any) -> bool:
    """Return whether a gradient has the shape, mesh and placements of its parameter."""
    return (
        isinstance(g, DTensor)
        and g.shape == p.shape
        and g.placements == p.placements
        and g.device_mesh == p.device_mesh
    )


def _first(x: Any) -> bool:
    """Return whether this process holds the first of several replicas of its part."""
    at = x.device_mesh.get_coordinate()
    assert at is not None  # only processes of the mesh step its arrays
    return not any(
        n and placement.is_replicate() for n, placement in zip(at, x.placements, strict=True)
    )


def _added(mesh: Any, numbers: Sequence[float]) -> list[float]:
    """The sums over all processes of a mesh; they have the same bits in each."""
    line = torch.tensor(numbers, dtype=torch.float64, device=mesh.device_type)
    every = mesh.size() == dist.get_world_size()
    for group in [None] if every else mesh.get_all_groups():
        dist.all_reduce(line, group=group)
    found: list[float] = line.tolist()
    return found


def _shown(placements: Any) -> str:
    return ", ".join(map(str, placements))


LIBRARY = DTensors("dtensor")
