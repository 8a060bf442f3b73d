"""torch's DTensors, on four processes: each steps its part."""

from __future__ import annotations

import pytest

from .processes import ended, ranks

pytest.importorskip(
    "torch.distributed.tensor", reason="torch has no DTensor here: pip install 'torch>=2.6'"
)
pytestmark = pytest.mark.cluster

JOBS = "tests.cluster.dtensor_jobs"
TESTS = ("steps", "gradients", "together", "states", "pure", "fields", "runs", "fsdp")


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """What four processes say that do all jobs, one after another: starting them takes longest."""
    return ended(ranks(JOBS, 4, *TESTS))


@pytest.mark.parametrize("job", TESTS)
def test_on_four_processes(job: str, printed: list[str]) -> None:
    for rank, text in enumerate(printed):
        assert f"done: {job}" in text, f"process {rank}: {text}"


def test_the_first_process_shows_progress(printed: list[str]) -> None:
    assert ["minimize: step" in text for text in printed] == [True, False, False, False]
