"""JAX, sharded or not; its tracers, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..detect import is_tracer
from ..dtypes import DTYPES, is_complex
from . import Library


class Devices(frozenset[Any]):
    """The devices of a JAX array."""

    __slots__ = ()

    def __str__(self) -> str:
        first, *others = sorted(map(str, self))
        return f"{1 + len(others)} devices ({first}, ...)" if others else first


class JAX(Library):
    """JAX."""

    def device(self, x: Any) -> Any:
        """The set of devices, not the sharding: a gradient may be laid out differently.

        It is read from the sharding, which a donated array still has.
        """
        return None if is_tracer(x) else Devices(x.sharding.device_set)

    def shared(self, x: Any) -> bool:
        return not x.is_fully_addressable

    def first(self, x: Any) -> bool:
        return int(jax.process_index()) == 0

    def of_first(self, x: Any, value: float) -> float:
        from jax.experimental.multihost_utils import broadcast_one_to_all

        with jax.enable_x64(True):
            return float(broadcast_one_to_all(np.float64(value)))

    def unsaved(self, x: Any) -> str | None:
        if x.is_fully_addressable or x.is_fully_replicated:
            return None
        return "no process can address all of this array; write its shards, with orbax"

    def engine(self, device: Any) -> str | None:
        return "xla"

    def unable(self, dtype: str) -> str | None:
        """Return whether JAX would turn its float64 into float32, silently."""
        config: Any = jax.config
        if DTYPES[dtype].compute == "float64" and not config.jax_enable_x64:
            return (
                f"the parameter is {dtype}, but outside jax.enable_x64(True) JAX would compute it "
                "in 32 bits; construct and step inside it"
            )
        return None

    def like(self, x: Any, new: Any) -> Any:
        """Joined without arithmetic, which would spoil infinities."""
        if is_complex(x):
            return jax.lax.complex(new[..., 0], new[..., 1]).astype(x.dtype)
        return new.astype(x.dtype)

    def tried(
        self, f: Callable[..., Any], x: Any, number: int, shape: tuple[int, ...], compute: str
    ) -> Any:
        like: Any = jax.ShapeDtypeStruct
        return jax.eval_shape(f, *[like(shape, compute)] * number)

    def zeros(self, x: Any, compute: str) -> Any:
        with jax.transfer_guard("allow"):  # the number 0 comes from the host, and is ours
            return super().zeros(x, compute)

    def to_host(self, x: Any) -> Any:
        return np.asarray(x)

    def from_host(self, host: Any, like: Any) -> Any:
        # Without x64 JAX turns float64 into float32, and says nothing here.
        with jax.enable_x64(True):
            # It reads the host's memory later, or shares it: so it gets memory of its own.
            return jax.device_put(host.copy(), like.sharding)

    def counter(self, x: Any) -> Any:
        """An array, which `jax.lax.scan` can carry."""
        return jnp.zeros((), jnp.int32)

    def largest(self, arrays: Sequence[Any]) -> list[float]:
        several = len(arrays[0].sharding.device_set) > 1
        # Without x64 JAX would narrow a float64 gradient, which a float32 parameter may have.
        with jax.enable_x64(True):
            return [float(peak) for peak in np.asarray(_peaks(list(arrays), several))]


@partial(jax.jit, static_argnums=1)
def _peaks(arrays: list[Any], several: bool) -> Any:
    return jnp.stack([jnp.max(_magnitudes(x, several)) for x in arrays])


def _magnitudes(x: Any, several: bool) -> Any:
    x = jnp.maximum(abs(x.real), abs(x.imag)) if is_complex(x) else abs(x)
    # The maximum over devices may ignore a NaN (on CPUs it does); on one it does not, and is ten
    # times as fast as this.
    return jnp.where(jnp.isnan(x), jnp.inf, x) if several else x


LIBRARY = JAX("jax")
