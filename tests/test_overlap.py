"""Which of many leaves share memory: exactly, and without comparing each with each."""

from __future__ import annotations

from itertools import combinations
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_any import Adam, memory, overlap
from adam_any.memory import Extent, Written

SIZE = 60


@st.composite
def views(draw: st.DrawFn) -> Extent:
    """A strided array of at most two axes somewhere in 60 bytes."""
    itemsize = draw(st.sampled_from([1, 2, 4]))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=2)))
    strides = tuple(draw(st.integers(-12, 12)) for _ in shape)
    reach = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0) + itemsize
    return Extent(100 + draw(st.integers(-low, max(SIZE - high, -low))), shape, strides, itemsize)


def bytes_of(extent: Extent) -> list[int]:
    first = [
        extent.address + sum(i * s for i, s in zip(index, extent.strides, strict=True))
        for index in np.ndindex(*extent.shape)
    ]
    return [at + k for at in first for k in range(extent.itemsize)]


@given(st.lists(st.tuples(views(), st.booleans()), max_size=8))
def test_an_overlap_is_found_just_where_there_is_one(leaves: list[tuple[Extent, bool]]) -> None:
    sets = [set(bytes_of(extent)) for extent, _ in leaves]
    itself = [w and len(bytes_of(x)) > len(s) for (x, w), s in zip(leaves, sets, strict=True)]
    pairs = combinations(range(len(leaves)), 2)
    each_other = any((leaves[i][1] or leaves[j][1]) and sets[i] & sets[j] for i, j in pairs)
    given = [(str(i), extent, written) for i, (extent, written) in enumerate(leaves)]
    if any(itself) or each_other:
        with pytest.raises(ValueError, match="share"):
            Written(given)
    else:
        Written(given)


@given(st.lists(views(), max_size=6), views())
def test_a_gradient_is_spoilt_just_where_it_overlaps(leaves: list[Extent], g: Extent) -> None:
    try:
        written = Written([(str(i), extent, True) for i, extent in enumerate(leaves)])
    except ValueError:
        return
    expected = any(set(bytes_of(extent)) & set(bytes_of(g)) for extent in leaves)
    assert written.spoils(g, None) == expected
    for own in leaves:
        assert not written.spoils(own, own)


def exact(call: Any) -> int:
    """How many pairs of arrays were compared exactly, or nearly so."""
    seen = []
    misses, share = overlap.Span.misses, memory.share_memory

    def counted(f: Any) -> Any:
        return lambda *spans: (seen.append(1), f(*spans))[1]

    with (
        mock.patch.object(overlap.Span, "misses", counted(misses)),
        mock.patch.object(memory, "share_memory", counted(share)),
    ):
        call()
    return len(seen)


def interleaved(n: int) -> dict[str, list[Any]]:
    """Arrays of every kind that lie between each other in one block of memory."""
    x = np.zeros((4, 6, n), np.float32)
    return {
        "columns": list(x.reshape(24, n).T),
        "backwards": list(x.reshape(24, n)[::-1].T),
        "planes": [x[:, :, i] for i in range(n)],
        "parts": [x[:, 1:4, i] for i in range(n)],
        "pairs of columns": [x.reshape(24, n)[:, i : i + 2] for i in range(0, n - 1, 2)],
        "blocks": [x[:2, 0, i : i + 2] for i in range(0, n - 1, 2)]
        + [x[2:, 0, i : i + 2] for i in range(0, n - 1, 2)],
        "real and imaginary": [part for c in np.zeros((2, n), "c8").T for part in (c.real, c.imag)],
        "every other row": [x.reshape(24, n)[::2, i] for i in range(n)],
    }


@pytest.mark.parametrize("kind", interleaved(2))
def test_work_grows_linearly_with_arrays_between_each_other(kind: str) -> None:
    def work(n: int) -> int:
        arrays = interleaved(n)[kind]
        return exact(lambda: Adam(arrays))

    assert work(200) <= 2 * work(100) + 50 <= 1000


@pytest.mark.parametrize("kind", interleaved(2))
def test_gradients_between_the_parameters_take_linear_work(kind: str) -> None:
    def work(n: int) -> int:
        arrays = interleaved(n)[kind]
        opt = Adam(arrays[::2])
        grads = arrays[1 : 2 * len(arrays[::2]) : 2]
        grads += [None] * (len(arrays[::2]) - len(grads))
        opt.step(grads)
        return exact(lambda: opt.step(grads))

    assert work(200) <= 2 * work(100) + 50 <= 1500


def test_read_only_leaves_may_share_memory() -> None:
    x = np.broadcast_to(np.ones(1), (50, 3))
    assert exact(lambda: Adam(list(x))) < 200


def test_two_columns_that_overlap_among_many_are_named() -> None:
    x = np.zeros((5, 100))
    leaves = dict(zip(map(str, range(100)), x.T, strict=True))
    leaves["twice"] = x[1:3, 70]
    with pytest.raises(ValueError, match=r"('twice'|'70'): shares memory with ('twice'|'70')"):
        Adam(leaves)
