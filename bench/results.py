"""The results of a run, as plain records that go into a JSON file and come back equal."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

FORMAT = 2

#: What a comparison compares: by the one clock of a CPU, or by one of the three of `gpu`.
TIME = "Time of a step"
WRAPPED_TIME = "Time of a step, with what is put around Adam"
OTHER_KINDS = "Time of a step, other arrays"
LOOP_TIME = "Time of an iteration, its gradient and its step"
OTHER_RULES = "Time of a step of 1 × 16 M, other rules"
DEVICE_TIME, HOST_TIME, END_TO_END = "Device time", "Host time", "Time end to end"


@dataclasses.dataclass
class Row:
    """One competitor on one workload: seconds per step, a value for every round."""

    name: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    steps: int = 0  # in one turn
    missing: str = ""  # why there are no values


@dataclasses.dataclass
class Comparison:
    """All competitors on one workload."""

    key: str
    title: str
    leaves: int
    elements: int
    rows: list[Row]
    measure: str = TIME

    def median(self, name: str) -> float | None:
        """The median of one competitor's rounds; None if it did not take part."""
        seconds = next((row.seconds for row in self.rows if row.name == name), None)
        return statistics.median(seconds) if seconds else None

    def ratio(self, name: str, other: str) -> float | None:
        """One competitor's median divided by another's; None if either did not take part."""
        one, two = self.median(name), self.median(other)
        return None if one is None or two is None else one / two


@dataclasses.dataclass
class Figure:
    """A single number, how it was obtained, and the table in which it is shown."""

    name: str
    value: float | None
    unit: str
    how: str
    table: str = ""


@dataclasses.dataclass
class Report:
    """One run: where, when, with what, and all values."""

    kind: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    comparisons: list[Comparison] = dataclasses.field(default_factory=list)
    figures: list[Figure] = dataclasses.field(default_factory=list)
    format: int = FORMAT

    def save(self, path: Path) -> None:
        """Write this report as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def load(path: Path) -> Report:
    """Read a report that `save` wrote. Raises ValueError for any other format."""
    data = json.loads(path.read_text())
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path} is not a benchmark result of format {FORMAT}")
    for comparison in data["comparisons"]:
        comparison["rows"] = [Row(**row) for row in comparison["rows"]]
    data["comparisons"] = [Comparison(**comparison) for comparison in data["comparisons"]]
    data["figures"] = [Figure(**figure) for figure in data["figures"]]
    return Report(**data)
