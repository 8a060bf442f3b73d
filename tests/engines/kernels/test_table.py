"""Addresses and chunks: index arithmetic, checked without allocating what it describes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_any import Adam, rules
from adam_any.coefficients import rounded
from adam_any.engines.cpu import compiler as compiled
from adam_any.engines.cpu import tiles
from adam_any.engines.kernels.program import Kind
from adam_any.engines.kernels.program import trace as program
from adam_any.engines.kernels.table import Table, chunks, pieces, tasks
from adam_any.memory import Extent, Written, order
from adam_any.memory import same_order as alike
from tests.helpers.libraries import LIBRARIES, Lib, on

LENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=12)


@given(LENGTHS, st.integers(1, 60))
def test_chunks_cover_every_element_once(lengths: list[int], limit: int) -> None:
    covered = [
        (leaf, i)
        for leaf, start, n in chunks(lengths, limit).tolist()
        for i in range(start, start + n)
    ]
    assert covered == [(leaf, i) for leaf, n in enumerate(lengths) for i in range(n)]
    assert all(0 < n <= limit for n in chunks(lengths, limit)[:, 2].tolist())


@given(LENGTHS, st.integers(1, 60))
def test_tasks_hold_every_chunk_once_and_about_equally_many_elements(
    lengths: list[int], limit: int
) -> None:
    sizes = chunks(lengths, limit)[:, 2]
    begins = tasks(sizes, limit).tolist()
    assert begins == sorted(set(begins))
    assert (begins[0], begins[-1]) == (0, len(sizes))
    for first, stop in pairwise(begins):
        assert sum(sizes[first:stop].tolist()) < 2 * limit
    # Each two neighbours hold at least one grain between them, so there are not many small ones.
    for first, stop in zip(begins, begins[2:], strict=False):
        assert sum(sizes[first:stop].tolist()) >= limit


@given(st.permutations(range(4)), st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_order_is_that_of_memory(axes: list[int], shape: list[int]) -> None:
    x = np.empty(shape, np.float32).transpose(axes)
    found = order(Extent(0, x.shape, x.strides, 4))
    assert found is not None
    assert x.transpose(found).flags.c_contiguous


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::2],
        lambda x: x[:, ::2],
        lambda x: x[:, :-1],
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
)
def test_what_has_gaps_or_goes_backwards_has_no_order(view: Any) -> None:
    x = view(np.zeros((4, 6), np.float32))
    assert order(Extent(0, x.shape, x.strides, 4)) is None


def test_an_axis_of_one_has_no_stride_that_matters() -> None:
    assert alike((3, 1), (4, 4), (4, 999))
    assert not alike((3, 2), (8, 4), (4, 12))
    assert order(Extent(0, (3, 1), (4, 999), 4)) is not None
    assert order(Extent(0, (0, 3), (999, 4), 4)) is not None


@given(st.lists(st.integers(1, 5), max_size=4), st.integers(1, 130))
def test_pieces_are_the_array_one_after_another(shape: list[int], limit: int) -> None:
    x = np.arange(math.prod(shape)).reshape(shape)
    before = 0
    for start, index in pieces(tuple(shape), limit):
        part = x[index].reshape(-1)
        assert start == before
        assert 0 < part.size <= limit
        assert part.tolist() == list(range(before, before + part.size))
        before += part.size
    assert before == x.size


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), min_size=9, max_size=12))
def test_memory_near_what_is_written_is_found_one_by_one_or_all_at_once(
    places: list[tuple[int, int]],
) -> None:
    leaves = [(str(i), Extent(10 * i, (7,), (1,), 1), True) for i in range(1, 5)]
    written = Written(leaves)
    expected = [
        k
        for k, (low, size) in enumerate(places)
        if any(low < 10 * i + 7 and low + size > 10 * i for i in range(1, 5)) and size
    ]
    lows, sizes = ([place[i] for place in places] for i in (0, 1))
    together = set(written.near(lows, sizes))
    single = {k for k in range(len(lows)) if written.near(lows[k : k + 1], sizes[k : k + 1])}
    assert together == single >= set(expected)
    assert together <= set(expected) | {k for k, size in enumerate(sizes) if not size}


def test_a_leaf_that_no_line_of_reals_describes_is_read_by_way_of_one() -> None:
    base = np.zeros((3, 8), np.float32)
    wide = np.zeros(33, np.uint8)
    params = {
        "gaps": base[:, ::2],
        "unaligned": wide[1:].view(np.float32),
        "frozen": np.zeros(3, np.float32),
        "dense": np.zeros((2, 3, 4), np.float32).transpose(2, 0, 1),
    }
    params["frozen"].flags.writeable = False
    reasons = {choice.path: (choice.engine, choice.reason) for choice in Adam(params).explain()}
    for name in ("gaps", "unaligned"):
        assert reasons[name][0] == "cpu" and "by way of lines" in reasons[name][1]
    assert reasons["frozen"][0] == "eager" and "read-only" in reasons["frozen"][1]
    assert reasons["dense"][0] == "cpu"


@pytest.mark.promise(
    "Sizes and offsets have 64 bits, so an array may have more than 2^31 elements.",
    defect="D7",
    seen=["DeepSpeed#7640", "apex#1654"],
)
@on(lib for lib in LIBRARIES if lib.name == "numpy" and lib.runs == "cpu")
def test_sizes_and_offsets_have_64_bits(lib: Lib) -> None:
    """With 32 bits there is no update, or one out of bounds.

    2**33 elements are planned without being there. Then a kernel is run on the last 8 of an array
    whose first would be 32 GB before them.
    """
    n, base = 2**33 + 5, 2**46
    table = Table([[base, 2 * base, 3 * base], [7, 8, 9]], [n, 3], 2**20)
    assert {x.dtype for x in (table.addresses, table.chunks, table.tasks)} == {np.dtype(np.int64)}
    leaf, start, length = table.chunks.T.tolist()
    assert (leaf[-2:], start[-2:], length[-2:]) == ([0, 1], [2**33, 0], [5, 3])
    assert start[:-1] == [i * 2**20 for i in range(2**13 + 1)]
    assert sum(length) == table.elements == n + 3
    assert table.tasks[-1] == 2**13 + 2

    p, g, m, v = (np.full(8, x, np.float32) for x in (1.0, 1.0, 0.0, 0.0))
    table = Table([[x.ctypes.data - 2**33 * 4 for x in (p, m, v)]], [8], 8)
    table.chunks[0], table.lengths = (0, 2**33, 8), [2**33 + 8]
    table.gradients[0] = g.ctypes.data - 2**33 * 4
    adam = program(rules.Adam())
    kernel = (compiled if compiled.missing() is None else tiles).Kernel(
        Kind(adam, "float32", "float32", "float32")
    )
    kernel.bind(table)(1, adam.values(rounded(rules.Adam(0.5), 1, "float32")))
    assert p.tolist() == pytest.approx([0.5] * 8)
