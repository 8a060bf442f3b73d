"""docs/SCALING.md: its programs run on clusters, and go on from their shards on other ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .pages import program
from .processes import jax_processes, start, succeed, torchrun

pytestmark = pytest.mark.cluster

NEEDS = {
    "torch": ("torch.distributed.tensor",),
    "JAX": ("jax", "orbax.checkpoint"),
    "Dask": ("distributed", "zarr"),
}


def dask(file: Path, number: int, folder: Path) -> Any:
    text = file.read_text().replace("n_workers=4", f"n_workers={number}")
    file.write_text(text.replace("chunks=1_000,", f"chunks={8_000 // number},"))
    return [start([str(file)], cwd=folder)]


LAUNCH: dict[str, Callable[[Path, int, Path], Any]] = {
    "torch": torchrun,
    "JAX": jax_processes,
    "Dask": dask,
}


@pytest.mark.parametrize("library", NEEDS)
def test_a_program_of_the_page_goes_on_from_its_shards_elsewhere(
    library: str, tmp_path: Path
) -> None:
    """Half the way on four processes, the rest on two."""
    for name in NEEDS[library]:
        pytest.importorskip(name, reason=f"{name} is not installed: see the extra 'scale'")
    text, launch = program(library), LAUNCH[library]
    file = tmp_path / "example.py"
    for end, number in ((21, 4), (41, 2)):
        file.write_text(text.replace(", 41)", f", {end})"))
        printed = "\n".join(succeed(launch(file, number, tmp_path)))
        assert printed.count("all 60 steps have been made") == 1
        assert printed.count("minimize:") <= 1
