"""docs/SCALING.md: its programs run on clusters, and go on from their shards on other ones."""

from __future__ import annotations

import re
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


#: What makes a NumPy array of one that is spread.
HOST = {
    "torch": "lambda x: x.detach().full_tensor().numpy()",
    "JAX": "lambda x: __import__('jax.experimental.multihost_utils').experimental."
    "multihost_utils.process_allgather(x, tiled=True)",
    "Dask": "lambda x: x.compute()",
}


def reporting(library: str, text: str) -> str:
    """The program, which prints at its end a checksum of all parameters and moments."""
    last = {"torch": "dist.destroy_process_group()", "JAX": "", "Dask": "    print(result.message)"}
    indent = "    " if library == "Dask" else ""
    report = "\n".join(
        indent + line
        for line in (
            "import hashlib",
            f"host, checksum = {HOST[library]}, hashlib.sha256()",
            "for one in (opt, result.optimizer):",
            "    for name, entry in one.state_dict()['state'].items():",
            "        for x in (one.params[name], entry['m'], entry['v']):",
            "            checksum.update(host(x).tobytes())",
            "print('bits:', checksum.hexdigest())",
        )
    )
    before, found, after = text.rpartition(last[library]) if last[library] else (text, "", "")
    return f"{before}\n{report}\n{found}{after}"


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
    """To the end on two processes; half the way on two, and the rest on four: the same bits."""
    for name in NEEDS[library]:
        pytest.importorskip(name, reason=f"{name} is not installed: see the extra 'scale'")
    text, launch = program(library), LAUNCH[library]
    seen = {}
    for name, runs in (("whole", [(41, 2)]), ("halves", [(21, 4), (41, 2)])):
        folder = tmp_path / name
        folder.mkdir()
        for end, number in runs:
            file = folder / "example.py"
            file.write_text(reporting(library, text).replace(", 41)", f", {end})"))
            printed = "\n".join(succeed(launch(file, number, folder)))
        assert printed.count("all 60 steps have been made") == 1
        seen[name] = re.findall(r"bits: (\w+)", printed)
    assert seen["whole"] and set(seen["whole"]) == set(seen["halves"])
