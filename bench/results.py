"""What a run found, as plain records that go into a JSON file and come back equal."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

FORMAT = 1

#: What a comparison compares: by the one clock of a CPU, or by one of the three of `gpu`.
TIME = "Time of a step"
DEVICE_TIME, HOST_TIME, END_TO_END = "Device time", "Host time", "Time end to end"


@dataclasses.dataclass
class Row:
    """One competitor on one workload: seconds per step, a value for every round."""

    name: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    steps: int = 0  # in one turn
    missing: str = ""  # why there are no values

    @property
    def median(self) -> float | None:
        """The median of the rounds; None for a competitor that did not take part."""
        return statistics.median(self.seconds) if self.seconds else None


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
        """The median of one competitor; None if it did not take part."""
        return next((row.median for row in self.rows if row.name == name), None)


@dataclasses.dataclass
class Slowdown:
    """One competitor with moments that become subnormal: seconds of single steps."""

    name: str
    early: list[float] = dataclasses.field(default_factory=list)
    late: list[float] = dataclasses.field(default_factory=list)
    missing: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times longer the later steps take."""
        if not self.early or not self.late:
            return None
        return statistics.median(self.late) / statistics.median(self.early)


@dataclasses.dataclass
class Figure:
    """A single number that is no comparison, and how it was obtained."""

    name: str
    value: float | None
    unit: str
    how: str


@dataclasses.dataclass
class Report:
    """One run: where, when, with what, and all values."""

    kind: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    comparisons: list[Comparison] = dataclasses.field(default_factory=list)
    slowdown: list[Slowdown] = dataclasses.field(default_factory=list)
    figures: list[Figure] = dataclasses.field(default_factory=list)
    format: int = FORMAT

    def save(self, path: Path) -> None:
        """Write this report as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def load(path: Path) -> Report:
    """Read a report that `save` wrote. Raises ValueError for any other format."""
    data = json.loads(path.read_text())
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path} is no benchmark result of format {FORMAT}")
    comparisons = [
        Comparison(**{**c, "rows": [Row(**row) for row in c["rows"]]})
        for c in data.pop("comparisons")
    ]
    slowdown = [Slowdown(**row) for row in data.pop("slowdown")]
    figures = [Figure(**figure) for figure in data.pop("figures")]
    return Report(**data, comparisons=comparisons, slowdown=slowdown, figures=figures)
