"""docs/PROMISES.md is what the markers on the tests make of it."""

from __future__ import annotations

import re

import pytest

from tests.helpers import ROOT
from tests.helpers.promises import PAGE, Collected


def test_the_page_has_the_promises_of_the_tests(request: pytest.FixtureRequest) -> None:
    """Those of the modules that are collected: not all are, without their library or by request."""
    found = request.config.pluginmanager.get_plugin("promises")
    assert isinstance(found, Collected)
    if not found.promises:
        pytest.skip("no test with a promise is collected: run all tests")

    def judged(line: str) -> bool:
        link = re.search(r"\(\.\./(tests/.*?)\)", line)
        return link is None or link[1] in found.modules or not (ROOT / link[1]).exists()

    page = PAGE.read_text("utf-8")
    written, wanted = (text.splitlines() for text in (page, found.page(page)))
    assert list(filter(judged, written)) == list(filter(judged, wanted)), (
        "run python -m tests.helpers.promises"
    )


def test_each_of_the_25_defects_is_held_absent() -> None:
    defects = re.findall(r"\| (D\d+) \|", PAGE.read_text("utf-8"))
    assert list(dict.fromkeys(defects)) == [f"D{i}" for i in range(1, 26)]
