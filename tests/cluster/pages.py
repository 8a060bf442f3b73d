"""The programs of docs/SCALING.md, and the classes in them."""

from __future__ import annotations

import ast
import re
from typing import Any

from tests.helpers import ROOT


def program(library: str) -> str:
    """The blocks of a library's section, one after another, with small arrays."""
    page = (ROOT / "docs" / "SCALING.md").read_text(encoding="utf-8")
    (section,) = (part for part in page.split("\n## ") if part.startswith(library))
    text = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    return text.replace("100_000_000", "8_000").replace("4_000_000", "1_000")


def classes(library: str) -> dict[str, Any]:
    """What the program imports and defines, without running it."""
    kept = (ast.Import, ast.ImportFrom, ast.ClassDef)
    tree = ast.parse(program(library))
    tree.body = [node for node in tree.body if isinstance(node, kept)]
    names: dict[str, Any] = {}
    exec(compile(tree, "SCALING.md", "exec"), names)
    return names
