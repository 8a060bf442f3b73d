"""Dask: lazy, so it computes chunk by chunk, with the row of a chunk's own library."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import dask
import dask.array as da
import numpy as np

from .. import detect
from . import Library, row


def _copy(x: Any) -> Any:
    # Its chunks are never written; only assigning to the array itself gives it others.
    return x.copy()


def _to_host(x: Any) -> Any:
    return np.asarray(x.compute())


def _from_host(host: Any, like: Any) -> Any:
    return da.from_array(host, chunks=like.chunks, name=False)  # which copies


def _each(f: Callable[..., Any], p: Any, g: Any, *moments: Any) -> tuple[Any, ...]:
    """`f` on every chunk of `p` and those that belong to it: one task a chunk, run where it lies.

    So the chunk's own library computes, with its bits, and what guards `f` against warnings holds
    in the thread that runs it; Dask's own operators would leave both to the scheduler.
    """
    pair = ((2,),)  # the last axis of a complex leaf's moments
    moments = tuple(m.rechunk(p.chunks + pair * (m.ndim - p.ndim)) for m in moments)
    given = [(x, tuple(range(x.ndim))) for x in (p, g.rechunk(p.chunks), *moments)]
    axes = max((axes for _, axes in given), key=len)
    packs = da.blockwise(
        f,
        axes,
        *(x for pair in given for x in pair),
        meta=np.empty((0,) * len(axes), object),
        align_arrays=False,
    )
    return tuple(
        da.blockwise(_unpacked, own, packs, axes, i=i, meta=x._meta, align_arrays=False)
        for i, (x, own) in enumerate([given[0], *given[2:]])
    )


def _unpacked(pack: Any, i: int) -> Any:
    # An axis that the result does not have comes as a list, here of one chunk.
    return _unpacked(pack[0], i) if isinstance(pack, list) else pack[i]


def _settle(results: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    settled: list[tuple[Any, ...]] = dask.persist(results)[0]
    cluster = sys.modules.get("distributed")
    if cluster is not None:
        # There persist returns at once; but a gradient that fails must fail in this step.
        futures = cluster.futures_of(settled)
        if futures:
            cluster.wait(futures)
        for future in futures:
            if future.status != "finished":
                future.result()  # raises
    return settled


def _largest(arrays: Sequence[Any]) -> list[float]:
    peaks = [
        x.map_blocks(
            _peak,
            dtype=float,
            chunks=tuple((1,) * n for n in x.numblocks),
            meta=np.empty((0,) * x.ndim),
        )
        for x in arrays
    ]
    return [float(np.max(peak)) for peak in dask.compute(peaks)[0]]


def _peak(chunk: Any) -> Any:
    library = row(cast(str, detect.library(chunk)))
    return np.full((1,) * chunk.ndim, library.largest([chunk])[0] if chunk.size else 0.0)


ROW = Library(
    copy=_copy,
    to_host=_to_host,
    from_host=_from_host,
    each=_each,
    settle=_settle,
    largest=_largest,
)
