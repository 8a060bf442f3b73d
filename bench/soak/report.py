"""What a soak found: a plain record, which goes into a JSON file, and tables for people."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .memory import Growth


@dataclasses.dataclass
class Soak:
    """One run: where, when, with what, and what was found."""

    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    #: Optimizers, steps, elements updated, saves and loads.
    done: dict[str, int] = dataclasses.field(default_factory=dict)
    #: How often each kind of fault was injected.
    faults: dict[str, int] = dataclasses.field(default_factory=dict)
    #: The largest distance from the oracle, as a share of what rounding may amount to.
    strain: float = 0.0
    mismatches: list[str] = dataclasses.field(default_factory=list)
    memory: list[Growth] = dataclasses.field(default_factory=list)

    @property
    def grew(self) -> list[str]:
        """What was lost of memory, in words."""
        return [f"{g.name} grew by {g.difference:,.0f}" for g in self.memory if g.grew]

    @property
    def passed(self) -> bool:
        """Whether everything was as it must be."""
        return not self.mismatches and not self.grew

    def add(self, done: Counter[str], faults: Counter[str], strain: float) -> None:
        """Count what an optimizer has been through."""
        self.done = dict(Counter(self.done) + done)
        self.faults = dict(Counter(self.faults) + faults)
        self.strain = max(self.strain, strain)

    def save(self, path: Path) -> None:
        """Write this as JSON."""
        head = {"kind": "soak", "passed": self.passed}
        path.write_text(json.dumps({**head, **dataclasses.asdict(self)}, indent=1) + "\n")


def show(soak: Soak) -> None:
    """Print it, as Markdown, so that it can be pasted as it is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()

    def text(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        shown = Table(box=box.MARKDOWN)
        for i, head in enumerate(heads):
            shown.add_column(head, justify="right" if i else "left")
        for row in rows:
            shown.add_row(*row)
        console.print()
        console.print(shown)

    text(f"python -m bench soak, {soak.date} ({_listed(soak.settings)})")
    text(_listed(soak.machine))
    text(_listed(soak.versions))
    table(("done", "count"), ((name, f"{n:,}") for name, n in soak.done.items()))
    table(("fault", "count"), ((name, f"{n:,}") for name, n in sorted(soak.faults.items())))
    heads = "memory in the quiet", "second fifth", "last", "more", "noise", "1000 steps"
    rows = []
    for g in soak.memory:
        numbers = g.fifths[1], g.fifths[-1], g.difference, g.noise, g.slope
        rows.append((g.name, *(f"{x:,.0f}" for x in numbers)))
    if soak.memory:
        table(heads, rows)
    text(f"\n{len(soak.mismatches)} mismatches; {soak.strain:.0%} of the bound from the oracle")
    for line in (*soak.mismatches, *soak.grew):
        text(line)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
