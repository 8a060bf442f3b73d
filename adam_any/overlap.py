"""Which of many spans of memory overlap, without comparing each with each.

- The columns of a matrix lie between each other: the first byte of each comes before the last of
  all others. But every element of a strided array is a multiple of its strides from the first, so
  its bytes modulo a common divisor of the strides, the period, are those of one element.
- So a group of spans falls apart twice: into those whose bounds do not touch, and into those that
  differ modulo their common period. What does not fall apart is compared exactly, pair by pair.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from math import gcd
from typing import NamedTuple


class Span(NamedTuple):
    """The bytes from `low` to `high`, of which a run of bytes is taken in every period or less.

    The period is 0 where there is one run.
    """

    low: int
    high: int
    run: int
    period: int

    def misses(self, other: Span) -> bool:
        """Return whether two spans surely have no byte in common."""
        if self.high <= other.low or other.high <= self.low:
            return True
        period = gcd(self.period, other.period)
        if not self.run <= period >= other.run:
            return False
        return self.run <= (other.low - self.low) % period <= period - other.run


def pair(
    spans: Sequence[Span], written: Sequence[bool], share: Callable[[int, int], bool]
) -> tuple[int, int] | None:
    """Two spans with a byte in common, of which one is written, or None; `share` decides."""
    some = (k for k, span in enumerate(spans) if span.low < span.high)
    groups = [sorted(some, key=spans.__getitem__)]
    while groups:
        group = groups.pop()
        if len(group) < 2 or not any(written[k] for k in group):
            continue
        parts = _by_bounds(spans, group)
        if len(parts) == 1:
            parts = _by_period(spans, group)
        if len(parts) > 1:
            groups += reversed(parts)
            continue
        near: list[int] = []
        for k in group:
            near = [j for j in near if spans[j].high > spans[k].low]
            for j in near:
                if (written[j] or written[k]) and not spans[j].misses(spans[k]) and share(j, k):
                    return j, k
            near.append(k)
    return None


def _by_bounds(spans: Sequence[Span], group: Iterable[int]) -> list[list[int]]:
    """Those of a group, sorted, in parts whose bounds do not touch."""
    parts: list[list[int]] = []
    end = -1
    for k in group:
        low, high, *_ = spans[k]
        if low >= end:
            parts.append([])
        parts[-1].append(k)
        end = max(end, high)
    return parts


def _by_period(spans: Sequence[Span], group: Sequence[int]) -> list[list[int]]:
    """Those of a group in parts that differ modulo their common period, each sorted."""
    period = _period(spans[k] for k in group)
    if not period:
        return [list(group)]
    places = {k: spans[k].low % period for k in group}
    parts: list[list[int]] = []
    end = -1
    for k in sorted(group, key=places.__getitem__):
        if places[k] >= end:
            parts.append([])
        parts[-1].append(k)
        end = max(end, places[k] + spans[k].run)
    while len(parts) > 1 and end - period > places[parts[0][0]]:  # a run goes on from the start
        first = parts.pop(0)
        parts[-1] += first
        end = max(end, *(period + places[k] + spans[k].run for k in first))
    return [sorted(part, key=spans.__getitem__) for part in parts]


def _period(spans: Iterable[Span]) -> int:
    """The common period of several spans; 0 where they have none that tells anything."""
    longest, period = 0, 0
    for span in spans:
        longest, period = max(longest, span.run), gcd(period, span.period)
    return period if longest <= period else 0


class Group:
    """Spans whose bounds touch, to be asked which of them others may overlap."""

    def __init__(self, spans: Sequence[Span], first: int) -> None:
        """`first` is the index of the first of them."""
        self._spans, self._first = spans, first
        self.low, self.high = spans[0].low, max(span.high for span in spans)

    def near(self, other: Span) -> Iterator[int]:
        """The indices of all that may have a byte in common with another span."""
        period, starts, order, run = self._places
        indices: Iterable[int] = range(len(self._spans))
        if period and gcd(period, other.period) == period and other.run <= period:
            place = other.low % period
            indices = (
                order[i]
                for turn in (-period, 0, period)
                for i in range(
                    bisect_right(starts, place + turn - run),
                    bisect_left(starts, place + turn + other.run),
                )
            )
        return (self._first + k for k in indices if not self._spans[k].misses(other))

    @cached_property
    def _places(self) -> tuple[int, list[int], list[int], int]:
        """The common period; where each begins in it, sorted; which it is; and the longest run."""
        period = _period(self._spans)
        if not period:
            return 0, [], [], 0
        places = [span.low % period for span in self._spans]
        order = sorted(range(len(places)), key=places.__getitem__)
        longest = max(span.run for span in self._spans)
        return period, [places[k] for k in order], order, longest


def groups(spans: Sequence[Span]) -> list[Group]:
    """All spans, sorted, in groups whose bounds do not touch."""
    parts = _by_bounds(spans, range(len(spans)))
    return [Group(spans[part[0] : part[-1] + 1], part[0]) for part in parts]
