"""The benchmark of many processes: its tables are those of the page, and it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import scale
from bench.__main__ import main
from tests.helpers import ROOT


def test_the_tables_of_the_page_are_the_result_that_is_kept() -> None:
    result = json.loads((ROOT / "bench" / "results" / "scale.json").read_text())
    page = (ROOT / "docs" / "SCALING.md").read_text(encoding="utf-8")
    for part in scale.table(result).split("\n\n"):
        assert part in page


@pytest.mark.cluster
@pytest.mark.parametrize("engine", ["torch, norm", "JAX, norm", "Dask"])
def test_it_measures_what_two_processes_send(engine: str, tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    pytest.importorskip("distributed", reason="distributed is not installed")
    pytest.importorskip("torch.distributed.tensor", reason="torch has no DTensor here")
    options = ["--elements", "8000", "--processes", "2", "--no-paper"]
    file = tmp_path / "scale.json"
    assert main(["scale", "--only", engine, *options, "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert "missing" not in row and len(row["seconds"]) == scale.STEPS
    assert row["bytes"] > 0


def test_a_process_that_fails_is_a_row_with_the_reason() -> None:
    row = {"engine": "torch", "processes": 4, "missing": "the first process ended with 1"}
    assert "| torch | 4 | the first process ended with 1 | | |" in scale.table({"rows": [row]})
