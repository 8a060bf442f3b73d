"""A report as tables for people, in Markdown, so that they can be pasted as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from .competitors import LION, OURS
from .results import Comparison, Report
from .targets import Reached, reached

NAME_WIDTH, COLUMN_WIDTH = 27, 14
LION_BYTES, ADAM_BYTES = 20, 28  # an element's reads and writes in float32

Cell = Callable[[Comparison, str], str]


def show(report: Report, console: Console) -> None:
    """Print all tables, with as many workloads side by side as fit."""
    console.print(_header(report), highlight=False, soft_wrap=True)
    fit = max(1, (console.width - NAME_WIDTH) // COLUMN_WIDTH)
    for measure in dict.fromkeys(c.measure for c in report.comparisons):
        for title, cell in (
            (f"{measure}, median of rounds", _time),
            (f"That time divided by {OURS}'s, so that more than 1 is slower", _ratio),
        ):
            measured = [c for c in report.comparisons if c.measure == measure]
            shown = [c for c in measured if any(cell(c, row.name) for row in c.rows)]
            for start in range(0, len(shown), fit):
                part = shown[start : start + fit]
                _print(console, title, _comparisons(part, cell))
    if report.comparisons:
        _lion(report, console)
    if lines := reached(report):
        _print(console, "What is to be reached", _targets(lines))
    if report.slowdown:
        _print(console, "Subnormal moments: steps 780-900 against steps 10-100", _slowdown(report))
    if report.figures:
        _print(console, "Single figures", _figures(report))
    for line in _absent(report):
        console.print(line, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds with three digits and a unit.

    >>> duration(0.0123)
    '12.3 ms'
    """
    seconds = float(f"{seconds:.3g}")  # rounded first, so that 999.9 us is 1 ms
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit = next((unit for unit, size in units.items() if seconds >= size), "µs")
    return f"{seconds / units[unit]:#.3g}".rstrip(".") + f" {unit}"


def ratio(value: float) -> str:
    """Two decimals around 1, and two digits of what is more.

    >>> [ratio(x) for x in (0.984, 1.463, 3.14, 72.4)]
    ['0.98', '1.46', '3.1', '72']
    """
    return f"{value:.{2 if value < 1.995 else 1 if value < 9.95 else 0}f}"


def _header(report: Report) -> str:
    settings = "{rounds} rounds, turns of {turn} s".format(**report.settings)
    return "\n".join(
        (
            f"python -m bench {report.kind}, {report.date} ({settings})",
            ", ".join(f"{name} {value}" for name, value in report.machine.items()),
            ", ".join(f"{name} {value}" for name, value in report.versions.items()),
        )
    )


def _print(console: Console, title: str, table: Table) -> None:
    console.print(f"\n{title}\n", highlight=False)
    console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=box.MARKDOWN)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _comparisons(comparisons: list[Comparison], cell: Cell) -> Table:
    table = _table("", *(c.title for c in comparisons))
    for row in comparisons[0].rows:
        table.add_row(row.name, *(cell(c, row.name) or "-" for c in comparisons))
    return table


def _time(comparison: Comparison, name: str) -> str:
    median = comparison.median(name)
    return "" if median is None else duration(median)


def _ratio(comparison: Comparison, name: str) -> str:
    median, ours = comparison.median(name), comparison.median(OURS)
    return "" if median is None or ours is None else ratio(median / ours)


def _lion(report: Report, console: Console) -> None:
    """A rule of the user's own should cost no more for each byte that it moves."""
    cells = [
        f"{c.title} {ratio(lion / LION_BYTES / (ours / ADAM_BYTES))}"
        for c in report.comparisons
        if (lion := c.median(LION)) is not None and (ours := c.median(OURS)) is not None
    ]
    if cells:
        text = "Time per byte, {} / {}: {}".format(LION, OURS, ", ".join(cells))
        console.print(f"\n{text}", highlight=False, soft_wrap=True)


def _targets(lines: list[Reached]) -> Table:
    table = _table("", "to be", "is", "reached")
    for line in lines:
        table.add_row(*line)
    return table


def _slowdown(report: Report) -> Table:
    table = _table("", "late / early")
    for row in report.slowdown:
        table.add_row(row.name, "-" if row.ratio is None else ratio(row.ratio))
    return table


def _figures(report: Report) -> Table:
    table = _table("", "value", "how")
    for figure in report.figures:
        value = "-" if figure.value is None else f"{figure.value:.3g} {figure.unit}"
        table.add_row(figure.name, value, figure.how)
    table.columns[2].justify = "left"
    return table


def _absent(report: Report) -> Iterator[str]:
    """Who did not take part, and why; each reason once."""
    lists = [c.rows for c in report.comparisons] + [report.slowdown]
    reasons = {(row.name, row.missing): None for rows in lists for row in rows if row.missing}
    for name, why in reasons:
        yield f"\nWithout {name}: {why}"
