"""README and docs: every example runs, every link leads somewhere, and the README is short."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import ROOT
from tests.helpers.libraries import LIBRARIES, require

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
#: Their blocks run elsewhere: with a rule's own tests, and on clusters.
ELSEWHERE = {"docs/RULES.md", "docs/SCALING.md"}
NEEDS = ("cupy", "torch", "jax", "dask")


class Example(NamedTuple):
    """A block of Python on a page."""

    page: str
    number: int
    code: str

    @property
    def library(self) -> str:
        return next((name for name in NEEDS if f"import {name}" in self.code), "numpy")

    def __str__(self) -> str:
        return f"{Path(self.page).stem}-{self.number}-{self.library}"


def examples() -> list[Example]:
    """Every block of Python, and the README's first as it is on a GPU."""
    found = [
        Example(page, number, code)
        for page in sorted(set(PAGES) - ELSEWHERE)
        for number, code in enumerate(blocks("python", (ROOT / page).read_text(encoding="utf-8")))
    ]
    first = next(example for example in found if example.page == "README.md")
    on_gpu = first.code.replace("import numpy as np", "import cupy as np")
    return [*found, first._replace(code=on_gpu)]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(example: Example) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(example.code, example.page, "exec"), {"__name__": "__main__"})
    return out.getvalue()


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(e, id=str(e), marks=[pytest.mark.cuda] if e.library == "cupy" else [])
        for e in examples()
    ],
)
def test_examples_run_and_print_what_they_say(
    example: Example,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    require(request.config, next(lib for lib in LIBRARIES if lib.name == example.library))
    printed = run(example)
    for promised in re.findall(r"^print\(.*\)  # (.*)$", example.code, re.MULTILINE):
        assert promised in printed


def test_one_line_changes_on_a_gpu() -> None:
    assert "change the first line to `import cupy as np`" in README
    assert examples()[-1].code.startswith("import cupy as np\n")


def test_the_commands_are_each_one_line() -> None:
    install, demo, tests = blocks("sh", README)
    assert install == "pip install adam-any\n"
    assert demo.endswith("python -m adam_any\n") and demo.count("\n") == 1
    assert tests.endswith("python -m pytest -q -nauto\n") and tests.count("\n") == 1


def test_it_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 100
    assert len(README.split()) <= 600


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", text):
        if target.startswith(("../../", "gallery/", "how_it_works/")):  # web pages, or built ones
            continue
        there = (ROOT / page).parent / target if target else ROOT / page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor[1:] in [
                re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings
            ]
