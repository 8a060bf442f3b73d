"""The table in the README: what a reader compares, out of a result of the CPU benchmark."""

from __future__ import annotations

from collections.abc import Iterator

from .competitors import OURS, TEXTBOOK
from .report import duration, ratio
from .results import Comparison, Report

#: Whom the table names, and how.
ROWS = {
    OURS: "adam_any, one step",
    "torch fused": "torch fused, times as long",
    "DeepSpeed CPUAdam": "DeepSpeed CPUAdam",
    "optax, jax.jit": "optax under `jax.jit`",
    TEXTBOOK: "textbook NumPy",
}


def table(report: Report) -> str:
    """The table in Markdown: our time of a step, and everyone's as a multiple of it."""
    threads = report.machine["threads"]
    heads = [c.title.removeprefix("1 × ") for c in report.comparisons]
    lines = [[f"float32, {threads} threads", *heads], ["---"] * (1 + len(heads))]
    lines += [[text, *_cells(report, name)] for name, text in ROWS.items()]
    return "\n".join("|".join(["", *map(_padded, line), ""]) for line in lines)


def _cells(report: Report, name: str) -> Iterator[str]:
    for comparison in report.comparisons:
        yield _cell(comparison, name)


def _cell(comparison: Comparison, name: str) -> str:
    median, ours = comparison.median(name), comparison.median(OURS)
    if median is None or ours is None:
        return "-"
    return duration(median) if name == OURS else ratio(median / ours)


def _padded(cell: str) -> str:
    return cell if cell == "---" else f" {cell} "
