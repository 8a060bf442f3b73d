"""What the GPU benchmark is to reach, and whether a report has reached it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .competitors import OURS
from .on_device import COPY, CUPY, TORCH
from .results import DEVICE_TIME, END_TO_END, HOST_TIME, Report
from .workloads import ON_GPU

#: How many times as long as ours another's step takes, at least. The copy's, for as many bytes, is
#: the share of its bandwidth.
RATIOS = (
    ("1x100M", DEVICE_TIME, COPY, 0.93),
    ("1x100M", DEVICE_TIME, TORCH, 1.0),
    ("1x100M", DEVICE_TIME, CUPY, 4.0),
    ("1000x1000", END_TO_END, TORCH, 5.0),
    ("200x64x64", END_TO_END, TORCH, 5.0),
    *((key, END_TO_END, CUPY, 5.0) for key in ON_GPU if not key.startswith("1x100M")),
)
#: Seconds of a step of ours, at most.
SECONDS = (("200x64x64", HOST_TIME, 50e-6), ("1000x1000", HOST_TIME, 250e-6))


class Reached(NamedTuple):
    """One line for people: what, how much it should be and is, and whether that is enough."""

    what: str
    wanted: str
    found: str
    reached: str


def reached(report: Report) -> list[Reached]:
    """A line for each target that concerns what was measured."""
    if report.kind != "gpu":
        return []
    return [*_ratios(report), *_seconds(report)]


def _ratios(report: Report) -> Iterator[Reached]:
    for key, measure, name, least in RATIOS:
        theirs, ours = (_median(report, key, measure, who) for who in (name, OURS))
        if theirs is not None and ours is not None:
            what = f"{_title(key, measure)}: {name} / {OURS}"
            ratio = theirs / ours
            yield _line(what, f"{least:.2f} or more", f"{ratio:.2f}", ratio >= least)


def _seconds(report: Report) -> Iterator[Reached]:
    for key, measure, most in SECONDS:
        ours = _median(report, key, measure, OURS)
        if ours is not None:
            what = f"{_title(key, measure)}: {OURS}"
            yield _line(what, f"{most * 1e6:.0f} µs or less", f"{ours * 1e6:.1f} µs", ours <= most)


def _line(what: str, wanted: str, found: str, enough: bool) -> Reached:
    return Reached(what, wanted, found, "yes" if enough else "no")


def _title(key: str, measure: str) -> str:
    return f"{ON_GPU[key].title}, {measure.lower()}"


def _median(report: Report, key: str, measure: str, name: str) -> float | None:
    for comparison in report.comparisons:
        if (comparison.key, comparison.measure) == (key, measure):
            return comparison.median(name)
    return None
