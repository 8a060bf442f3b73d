"""A report as tables for people, in Markdown, so that they can be pasted as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from .competitors import ADAM_BESIDE, DEEPSPEED, FAMILY, FOREACH, LION, OPTAX, OURS, TEXTBOOK, TORCH
from .on_device import COPY, CUPY
from .results import (
    DEVICE_TIME,
    END_TO_END,
    HOST_TIME,
    OTHER_RULES,
    TIME,
    WRAPPED_TIME,
    Comparison,
    Report,
)
from .workloads import ON_GPU
from .wrapped import TARGETS

NAME_WIDTH, COLUMN_WIDTH = 27, 14
LION_BYTES, ADAM_BYTES = 20, 28  # an element's reads and writes in float32

#: The competitors in the table of docs/speed.md, and their names there.
COLUMNS = {
    OURS: "adam_any, one step",
    TORCH: "torch fused, times as long",
    DEEPSPEED: "DeepSpeed CPUAdam",
    OPTAX: "optax under `jax.jit`",
    TEXTBOOK: "textbook NumPy",
}

#: And in the table of docs/family.md, where there is no Adam.
RULE_COLUMNS = {
    OURS: "adam_any, one step",
    TORCH: "torch fused, times as long",
    FOREACH: "torch foreach",
    OPTAX: "optax under `jax.jit`",
}

#: What the GPU benchmark is to reach: how many times as long as ours another's step takes, at
#: least. The copy's, for as many bytes, is the share of its bandwidth.
RATIOS = (
    ("1x100M", DEVICE_TIME, COPY, 0.93),
    ("1x100M", DEVICE_TIME, TORCH, 1.0),
    ("1x100M", DEVICE_TIME, CUPY, 4.0),
    ("1000x1000", END_TO_END, TORCH, 5.0),
    ("200x64x64", END_TO_END, TORCH, 5.0),
    *((key, END_TO_END, CUPY, 5.0) for key in ON_GPU if not key.startswith("1x100M")),
)
#: And the seconds of a step of ours, at most.
SECONDS = (("200x64x64", HOST_TIME, 50e-6), ("1000x1000", HOST_TIME, 250e-6))

Rows = Iterable[Iterable[str]]
Cell = Callable[[Comparison, str], str]


def show(report: Report, console: Console) -> None:
    """Print all tables, with as many workloads side by side as fit."""
    settings = "{rounds} rounds, turns of {turn} s".format(**report.settings)
    _line(console, f"python -m bench {report.kind}, {report.date} ({settings})")
    for facts in (report.machine, report.versions):
        _line(console, ", ".join(f"{name} {value}" for name, value in facts.items()))
    for title, heads, rows in _tables(report, max(1, (console.width - NAME_WIDTH) // COLUMN_WIDTH)):
        table = Table("", box=box.MARKDOWN)
        for head in heads:
            table.add_column(head, justify="left" if head == "how" else "right")
        for row in rows:
            table.add_row(*row)
        if table.rows:
            console.print(f"\n{title}\n", highlight=False)
            console.print(table)
    for line in (*_lion(report), *_family(report), *_absent(report)):
        _line(console, f"\n{line}")


def table(report: Report) -> str:
    """The table in docs/speed.md, or where there is no Adam that in docs/family.md: our time of a
    step, and others' as a multiple of it.
    """
    comparisons = [c for c in report.comparisons if c.measure == TIME] or report.comparisons
    columns = COLUMNS if comparisons[0].measure == TIME else RULE_COLUMNS
    heads = [c.title.removeprefix("1 × ") for c in comparisons]
    lines = [[f" float32, {report.machine['threads']} threads ", *(f" {head} " for head in heads)]]
    lines.append(["---"] * len(lines[0]))
    for name, text in columns.items():
        cell = _time if name == OURS else _ratio
        lines.append([f" {text} ", *(f" {cell(c, name) or '-'} " for c in comparisons)])
    return "\n".join("|".join(["", *line, ""]) for line in lines)


def reached(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """For each target that concerns what was measured: what, how much it should be and is, and
    whether that is enough.
    """
    for c in report.comparisons:
        for name, other, most, bound in TARGETS if c.measure == WRAPPED_TIME else ():
            if (ratio := c.ratio(name, other)) is not None:
                enough = ratio <= bound if most == "at most" else ratio >= bound
                yield f"{name} / {other}", f"{most} {bound:.2f}", f"{ratio:.2f}", _yes(enough)
    found = {(c.key, c.measure): c for c in report.comparisons if report.kind == "gpu"}
    for key, measure, name, least in RATIOS:
        if (c := found.get((key, measure))) and (ratio := c.ratio(name, OURS)) is not None:
            what = f"{c.title}, {measure.lower()}: {name} / {OURS}"
            yield what, f"{least:.2f} or more", f"{ratio:.2f}", _yes(ratio >= least)
    for key, measure, most in SECONDS:
        if (c := found.get((key, measure))) and (ours := c.median(OURS)) is not None:
            what = f"{c.title}, {measure.lower()}: {OURS}"
            yield what, f"{most * 1e6:.0f} µs or less", f"{ours * 1e6:.1f} µs", _yes(ours <= most)


def duration(seconds: float) -> str:
    """Seconds with three digits and a unit.

    >>> duration(0.0123)
    '12.3 ms'
    """
    seconds = float(f"{seconds:.3g}")  # rounded first, so that 999.9 us is 1 ms
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit = next((unit for unit, size in units.items() if seconds >= size), "µs")
    return f"{seconds / units[unit]:#.3g}".rstrip(".") + f" {unit}"


def times(value: float) -> str:
    """A ratio: two decimals around 1, and two digits of what is more.

    >>> [times(x) for x in (0.984, 1.463, 3.14, 72.4)]
    ['0.98', '1.46', '3.1', '72']
    """
    return f"{value:.{2 if value < 1.995 else 1 if value < 9.95 else 0}f}"


def _tables(report: Report, fit: int) -> Iterator[tuple[str, Iterable[str], Rows]]:
    """Title, heads of all columns but the first, and rows of each table."""
    for measure in dict.fromkeys(c.measure for c in report.comparisons):
        measured = [c for c in report.comparisons if c.measure == measure]
        for title, cell in (
            (f"{measure}, median of rounds", _time),
            (f"That time divided by {OURS}'s, so that more than 1 is slower", _ratio),
        ):
            shown = [c for c in measured if any(cell(c, row.name) for row in c.rows)]
            for start in range(0, len(shown), fit):
                part = shown[start : start + fit]
                yield title, [c.title for c in part], _comparisons(part, cell)
    yield "What is to be reached", ("to be", "is", "reached"), reached(report)
    for title in dict.fromkeys(figure.table for figure in report.figures):
        rows = (
            (f.name, "-" if f.value is None else f"{f.value:.3g} {f.unit}", f.how)
            for f in report.figures
            if f.table == title
        )
        yield title, ("value", "how"), rows


def _comparisons(comparisons: list[Comparison], cell: Cell) -> Rows:
    for name in dict.fromkeys(row.name for c in comparisons for row in c.rows):
        yield name, *(cell(c, name) or "-" for c in comparisons)


def _time(comparison: Comparison, name: str) -> str:
    median = comparison.median(name)
    return "" if median is None else duration(median)


def _ratio(comparison: Comparison, name: str) -> str:
    ratio = comparison.ratio(name, OURS)
    return "" if ratio is None else times(ratio)


def _lion(report: Report) -> Iterator[str]:
    """A user's own rule should cost no more for each byte that it moves."""
    ratios = [(c.title, c.ratio(LION, OURS)) for c in report.comparisons]
    share = ADAM_BYTES / LION_BYTES
    if cells := [f"{title} {times(r * share)}" for title, r in ratios if r is not None]:
        yield f"Time per byte, {LION} / {OURS}: {', '.join(cells)}"


def _family(report: Report) -> Iterator[str]:
    """And no more should any other rule."""
    cells = []
    for c in report.comparisons:
        ratio = c.ratio(OURS, ADAM_BESIDE)
        if c.measure == OTHER_RULES and ratio is not None:
            cells.append(f"{c.title} {times(ratio * ADAM_BYTES / _bytes(c.title))}")
    if cells:
        yield f"Time per byte, a rule's / Adam's: {', '.join(cells)}"


def _bytes(name: str) -> int:
    """An element's reads and writes in float32: p, g and moments; p and moments."""
    rule = FAMILY[name][OURS].keywords["rule"]
    return 4 * (3 + 2 * len(rule.moments))


def _absent(report: Report) -> Iterator[str]:
    """Who did not take part, and why; each reason once."""
    rows = [row for c in report.comparisons for row in c.rows]
    for name, why in dict.fromkeys((row.name, row.missing) for row in rows if row.missing):
        yield f"Without {name}: {why}"


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _yes(enough: bool) -> str:
    return "yes" if enough else "no"
