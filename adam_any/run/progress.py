"""The progress of a run on standard error: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import Any

#: Seconds between two lines, and between two pictures of the bar.
LINE, BAR = 10.0, 0.1


class Progress:
    """Shows nothing where `wanted` is False."""

    def __init__(self, wanted: bool | None, steps: int) -> None:
        self._steps, self._bar = steps, None
        self.wanted = wanted is not False
        if not self.wanted:
            return
        terminal = sys.stderr is not None and sys.stderr.isatty() and find_spec("rich") is not None
        self._every = BAR if terminal else LINE
        self._began = self._shown = time.perf_counter()
        self._first: int | None = None
        if terminal:
            self._bar, self._task = _bar(steps)

    def show(self, step: int, value: float) -> None:
        """Show where the run is, if it is time to."""
        if not self.wanted:
            return
        now = time.perf_counter()
        if self._first is None:
            self._first = step
        if now - self._shown < self._every:
            return
        self._shown = now
        if self._bar is not None:
            self._bar.update(self._task, completed=step, value=f"{value:.6g}", refresh=True)
            return
        rate = (step - self._first) / (now - self._began)
        left = f", {(self._steps - step) / rate:,.0f} s left" if rate else ""
        self.say(f"step {step:,} of {self._steps:,}: value {value:.6g}, {rate:.3g} steps/s{left}")

    def say(self, text: str) -> None:
        """Write a line, where anything is shown."""
        if self.wanted and sys.stderr is not None:
            print(f"minimize: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar(steps: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Any:
            from rich.text import Text

            return Text(f"{task.speed or 0:,.3g} steps/s")

    # No thread refreshes it, so it never interrupts a step.
    bar = Bar(
        *(BarColumn(), MofNCompleteColumn(), TextColumn("value {task.fields[value]}")),
        *(Rate(), TimeRemainingColumn()),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
    )
    bar.start()
    return bar, bar.add_task("", total=steps, value="-")
