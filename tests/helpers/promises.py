"""docs/PROMISES.md from the tests: each `promise` marker is a row of its tables.

A marker is a sentence. If the promise is the absence of a defect of other optimizers, the marker
has its number too, and the issues in which users met it:

    @pytest.mark.promise("Gradients are never written.", defect="D6", seen=["mxnet#15759"])

The engines of a test are read from its parameters: each `Lib` among them. A test that has none
runs on the engine or library that its file or folder is named after. One that starts processes of
its own says `engines=["xla"]` itself.

    python -m tests.helpers.promises

writes the page below its introduction, which is written by hand.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import pytest

from . import ROOT
from .libraries import LIBRARIES, Lib

PAGE = ROOT / "docs" / "PROMISES.md"
MARK = "<!-- python -m tests.helpers.promises writes what follows. -->\n"

ENGINES = ("eager", "cpu", "tiles", "xla", "cuda")

DEFECTS = """
## Defects of other optimizers

| promise | defect | met in | test | engines |
|---|---|---|---|---|
"""
OTHERS = """
## Everything else

| topic | promise | test | engines |
|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Promise:
    """One row; `module` is the file of the test."""

    text: str
    defect: str
    seen: tuple[str, ...]
    module: str
    test: str
    engines: str

    @property
    def topic(self) -> str:
        """What the module is about."""
        return _named(self.module)

    @property
    def line(self) -> str:
        """The row in Markdown; the name of the test as a sentence, which a narrow cell can wrap."""
        name = self.test.removeprefix("test_").replace("_", " ")
        test = f"[{name}](../{self.module})"
        if self.defect:
            cells = (self.text, self.defect, ", ".join(self.seen), test, self.engines)
        else:
            cells = (self.topic, self.text, test, self.engines)
        return "| " + " | ".join(cells) + " |\n"


class Collected:
    """A plugin of pytest that notes the promises of all tests that it collects."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.promises: list[Promise] = []
        self.missing: list[str] = []

    @pytest.hookimpl(tryfirst=True)  # before any are deselected
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        tests = defaultdict(list)
        for item in items:
            tests[item.path, getattr(item, "originalname", item.name)].append(item)
        for (path, name), its in tests.items():
            module = path.relative_to(ROOT).as_posix()
            self.modules.add(module)
            marks = reversed(list(its[0].iter_markers("promise")))  # as they are written
            self.promises += [_promise(module, name, its, *m.args, **m.kwargs) for m in marks]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self.missing.append(f"{report.nodeid}: {report.longreprtext}")

    def page(self, old: str) -> str:
        """The page with the promises that are collected, below what it says by hand."""
        defects = sorted((p for p in self.promises if p.defect), key=_defect)
        others = sorted((p for p in self.promises if not p.defect), key=lambda p: p.topic)
        tables = (DEFECTS, *(p.line for p in defects), OTHERS, *(p.line for p in others))
        return old.partition(MARK)[0] + MARK + "".join(tables)


def _defect(promise: Promise) -> tuple[int, bool, str]:
    """By number; then what every engine holds, and the rest by module."""
    return int(promise.defect[1:]), promise.engines != "every", promise.module


def _named(module: str) -> str:
    """The name of a module without what all of them have."""
    return module.removeprefix("tests/").removesuffix(".py").replace("test_", "")


def _promise(
    module: str,
    test: str,
    items: list[pytest.Item],
    text: str,
    defect: str = "",
    seen: Iterable[str] = (),
    engines: Iterable[str] = (),
) -> Promise:
    """What a marker with these arguments, from `text` on, says of a test."""
    where = ", ".join(engines) or _engines(module, items)
    return Promise(text, defect, tuple(seen), module, test, where)


def _engines(module: str, items: list[pytest.Item]) -> str:
    """The engines that a test runs on: all of them, or a list, or none in particular."""
    params = [item.callspec.params for item in items if hasattr(item, "callspec")]
    libraries = set(chain.from_iterable(_libraries(p.values()) for p in params))
    if libraries == set(LIBRARIES):
        return "every"
    names = {_engine(lib) for lib in libraries}
    return ", ".join(sorted(names or _home(module), key=ENGINES.index)) or "—"


def _libraries(values: Iterable[Any]) -> Iterator[Lib]:
    """Each library among the parameters of a test, or inside one of them."""
    for value in values:
        if isinstance(value, Lib):
            yield value
        elif dataclasses.is_dataclass(value):
            yield from _libraries(vars(value).values())


def _engine(lib: Lib) -> str:
    return "tiles" if lib.tiles else lib.runs


def _home(module: str) -> set[str]:
    """The engines of a module: engines/cuda/..., engines/test_xla.py, libraries/test_dask.py."""
    folder, *names = _named(module).split("/")
    if folder == "libraries":
        return {_engine(lib) for lib in LIBRARIES if lib.name in names}
    return set(names) & set(ENGINES) if folder == "engines" else set()


def main() -> int:
    """Collect all tests, and write the page; nothing is written where a module is missing."""
    found = Collected()
    options = ["-o", "addopts=", "-p", "no:terminal", "--collect-only", str(ROOT / "tests")]
    status = pytest.main(options, plugins=[found])
    if status or found.missing:
        print(*found.missing, "a promise would be lost", sep="\n", file=sys.stderr)
        return 1
    PAGE.write_text(found.page(PAGE.read_text("utf-8")), "utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(found.promises)} promises")
    return 0


if __name__ == "__main__":
    sys.exit(main())
