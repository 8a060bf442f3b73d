"""A report as a picture: on every workload, everyone's time as a multiple of this package's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .competitors import DEEPSPEED, FOREACH, IN_PLACE, LIMIT, NO_NUMBA, OPTAX, OURS, TEXTBOOK, TORCH
from .on_device import COPY, CUPY, FUSE, OURS_TORCH
from .report import duration
from .results import END_TO_END, TIME, Comparison, Report

WIDTH, DPI = 6.0, 150  # 900 pixels, as wide as a README is shown
TEXT = "#444444"

#: Who is shown, with colour by family (Okabe and Ito's, told apart by the colour-blind) and marker.
STYLES: dict[str, tuple[str, str]] = {
    TEXTBOOK: ("#0072B2", "s"),
    IN_PLACE: ("#0072B2", "o"),
    "torch for-loop": ("#D55E00", "s"),
    FOREACH: ("#D55E00", "^"),
    TORCH: ("#D55E00", "o"),
    OPTAX: ("#009E73", "D"),
    DEEPSPEED: ("#CC79A7", "v"),
    NO_NUMBA: ("#000000", "x"),
    LIMIT: ("#888888", "|"),
    CUPY: ("#0072B2", "s"),
    FUSE: ("#0072B2", "o"),
    OURS_TORCH: ("#000000", "x"),
    COPY: ("#888888", "|"),
}


def draw(report: Report, path: Path) -> None:
    """Write a PNG; nothing appears on a screen. Raises ValueError if there is nothing to draw."""
    shown = [c for c in report.comparisons if c.measure in (TIME, END_TO_END)]
    comparisons = [c for c in shown if c.median(OURS) is not None]
    if not comparisons:
        raise ValueError(f"no workload in this report has a time of {OURS} to compare with")
    with matplotlib.rc_context({"font.size": 8.5, "axes.edgecolor": TEXT, "text.color": TEXT}):
        height = 1.7 + 0.34 * len(comparisons)
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        _axes(axes, comparisons)
        for name, style in STYLES.items():
            _points(axes, comparisons, name, *style)
        figure.legend(
            loc="outside lower center",
            ncols=5,
            fontsize=8,
            frameon=False,
            handletextpad=0.1,
            columnspacing=1,
        )
        figure.suptitle(_caption(report), fontsize=8)
        figure.savefig(path)


def _axes(axes: Axes, comparisons: list[Comparison]) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1.2, zorder=1)
    axes.set_xlabel(f"time of a step / {OURS}'s   (right of the line: slower)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(comparisons)), [c.title for c in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    _own_times(axes, comparisons)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _points(axes: Axes, comparisons: list[Comparison], name: str, colour: str, marker: str) -> None:
    ratios = enumerate(c.ratio(name, OURS) for c in comparisons)
    points = [(ratio, row) for row, ratio in ratios if ratio is not None]
    if points:
        size, edge = (9, 2) if marker == "|" else (5, 1.2)
        look: dict[str, Any] = {"markersize": size, "markeredgewidth": edge}
        look.update(color=colour, markerfacecolor="none", label=name, clip_on=False)
        axes.plot(*zip(*points, strict=True), marker, **look)


def _own_times(axes: Axes, comparisons: list[Comparison]) -> None:
    """A column of times at the right: the time that 1 stands for."""
    beside = axes.get_yaxis_transform()
    for row, comparison in enumerate(comparisons):
        ours = comparison.median(OURS)
        if ours is not None:
            axes.text(1.13, row, duration(ours), transform=beside, ha="right", va="center")
    axes.text(1.13, -0.75, "1× is", transform=beside, ha="right", va="center", weight="bold")
    axes.annotate(OURS, (1, -0.75), ha="center", va="center", weight="bold", annotation_clip=False)


def _caption(report: Report) -> str:
    m = report.machine
    on = m.get("device") or f"{m['threads']} threads, {m['processor']}"
    return f"Adam, float32, {on}, {report.date[:10]}"
