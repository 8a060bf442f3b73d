"""The files around the package agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_ruff_has_one_version() -> None:
    hooks = ROOT / ".pre-commit-config.yaml"
    if not hooks.exists():
        pytest.skip("the sdist does not have the hooks of the repository")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = dict(tool.split("==") for tool in project["optional-dependencies"]["dev"])
    found = re.search(r"ruff-pre-commit\n +rev: v(\S+)", hooks.read_text(encoding="utf-8"))
    assert found is not None and found[1] == pinned["ruff"]
