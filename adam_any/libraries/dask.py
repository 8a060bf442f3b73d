"""Dask: lazy, so it computes chunk by chunk, by the library of the chunk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import dask
import dask.array as da
import numpy as np

from ..detect import library
from . import Library


class Dask(Library):
    """Dask."""

    lazy = True

    def device(self, x: Any) -> Any:
        """The host, wherever its workers are."""
        return "cpu"

    def native(self, x: Any) -> bool:
        """Return whether the bytes are in native order; ml_dtypes' bfloat16 is of another kind."""
        return bool(x.dtype.isnative and x.dtype.kind in "fc")

    def copy(self, x: Any) -> Any:
        """A shallow copy: chunks are never written; assigning to an array gives it others."""
        return x.copy()

    def tried(
        self, f: Callable[..., Any], x: Any, number: int, shape: tuple[int, ...], compute: str
    ) -> Any:
        return cast(Library, library(x._meta)).tried(f, x._meta, number, shape, compute)

    def to_host(self, x: Any) -> Any:
        return np.asarray(x.compute())

    def from_host(self, host: Any, like: Any) -> Any:
        return da.from_array(host, chunks=like.chunks, name=False)  # which copies

    def each(self, f: Callable[..., Any], *arrays: Any) -> tuple[Any, ...]:
        """`f` on every chunk of `p` and those that belong to it: one task a chunk, where it is.

        So the chunk's own library computes, with its bits, and what guards `f` against warnings
        holds in the thread that runs it; Dask's own operators would leave both to the scheduler.
        """
        given, axes, packs = _packs(f, *arrays)
        return tuple(
            da.blockwise(_unpacked, own, packs, axes, i=i, meta=x._meta, align_arrays=False)
            for i, (x, own) in enumerate([given[0], *given[2:]])
        )

    def blocks_of(
        self, terms: Callable[..., Any], axes: Sequence[int] | None, *arrays: Any
    ) -> list[list[float]]:
        """The sums of the blocks of every chunk."""
        *_, packs = _packs(partial(_blocks_of, terms), *arrays)
        chunks = dask.compute(packs.to_delayed().ravel().tolist())[0]
        return [[x for part in parts for x in part] for parts in zip(*chunks, strict=True)]

    def computed(self, results: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        persisted: list[tuple[Any, ...]] = dask.persist(results)[0]
        cluster = sys.modules.get("distributed")
        if cluster is not None:
            # There persist returns at once; but a gradient that fails must fail in this step.
            futures = cluster.futures_of(persisted)
            if futures:
                cluster.wait(futures)
            for future in futures:
                if future.status != "finished":
                    future.result()  # raises
        return persisted

    def largest(self, arrays: Sequence[Any]) -> list[float]:
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


def _packs(f: Callable[..., Any], p: Any, g: Any, *others: Any) -> tuple[Any, Any, Any]:
    """A function on every chunk of `p` and those that belong to it: one task each.

    What it is given, with axes; the axes of the results; and these, a pack for each chunk.
    """
    pair = ((2,),)  # the last axis of a complex leaf's moments
    others = tuple(x.rechunk(p.chunks + pair * (x.ndim - p.ndim)) for x in others)
    given = [(x, tuple(range(x.ndim))) for x in (p, g.rechunk(p.chunks), *others)]
    axes = max((axes for _, axes in given), key=len)
    packs = da.blockwise(
        f,
        axes,
        *(x for pair in given for x in pair),
        meta=np.empty((0,) * len(axes), object),
        align_arrays=False,
    )
    return given, axes, packs


def _blocks_of(terms: Callable[..., Any], *chunks: Any) -> list[list[float]]:
    return cast(Library, library(chunks[0])).blocks_of(terms, None, *chunks)


def _unpacked(pack: Any, i: int) -> Any:
    # An axis that the result does not have comes as a list, here of one chunk.
    return _unpacked(pack[0], i) if isinstance(pack, list) else pack[i]


def _peak(chunk: Any) -> Any:
    peak = cast(Library, library(chunk)).largest([chunk])[0] if chunk.size else 0.0
    return np.full((1,) * chunk.ndim, peak)


LIBRARY = Dask("dask")
