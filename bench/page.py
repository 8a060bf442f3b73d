"""The page about a run of `everything`: on what, how each step came out, and what it found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from .harness import reason
from .results import load


def page(report: Mapping[str, Any], measured: Path) -> str:
    """The page in Markdown; `measured` is the benchmark's file, which may not be there."""
    return "\n".join(_lines(report, measured)) + "\n"


def _lines(report: Mapping[str, Any], measured: Path) -> Iterator[str]:
    yield f"# adam_any on {report['device'].get('device', 'a device without a name')}"
    yield f"\n`python -m bench gpu --everything`, {report['date']}\n"
    for facts in (report["device"], report["versions"]):
        yield ", ".join(f"{name} {value}" for name, value in facts.items()) + "\n"
    steps = (
        (x["title"], f"{x['seconds']:.0f} of {x['limit']:.0f}", x["outcome"], x["reason"])
        for x in report["steps"]
    )
    yield from _table(("step", "seconds", "outcome", "reason"), steps)
    targets = [x for x in report["findings"] if "wanted" in x]
    if targets:
        yield "\n## What is to be reached\n"
        rows = ((x["what"], x["wanted"], x["is"], x["outcome"]) for x in targets)
        yield from _table(("", "to be", "is", ""), rows)
    for step in report["steps"]:
        mine = [x for x in report["findings"] if x["step"] == step["name"]]
        rows = [(x["what"], x["is"], x["outcome"]) for x in mine if not {"wanted", "raw"} & {*x}]
        if rows:
            yield f"\n## {step['title']}\n"
            yield from _table(("", "", ""), rows)
    if measured.exists():
        yield "\n## The benchmark\n"
        yield _benchmark(measured)


def _benchmark(measured: Path) -> str:
    text = StringIO()
    try:
        from rich.console import Console

        from .report import show

        show(load(measured), Console(file=text, width=170))
    except Exception as error:  # the file of a step that was ended while it wrote, for one
        text.write(f"\n{measured.name} cannot be shown: {reason(error)}")
    return text.getvalue()


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
