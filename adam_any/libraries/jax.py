"""JAX."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import Library, is_complex


def _like(x: Any, new: Any) -> Any:
    if is_complex(x):
        return jax.lax.complex(new[..., 0], new[..., 1]).astype(x.dtype)
    return new.astype(x.dtype)


def _to_host(x: Any) -> Any:
    return np.asarray(x)


def _from_host(host: Any, like: Any) -> Any:
    # Without x64 JAX turns float64 into float32, and says nothing here.
    with jax.enable_x64(True):
        # It reads the host's memory later, or shares it: so it gets memory of its own.
        return jax.device_put(host.copy(), like.sharding)


def _counter(x: Any) -> Any:
    return jnp.zeros((), jnp.int32)


def _largest(arrays: Sequence[Any]) -> list[float]:
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


ROW = Library(
    like=_like, to_host=_to_host, from_host=_from_host, counter=_counter, largest=_largest
)
