"""The GPU benchmark without a GPU: everything but the device, on a stand-in on the host.

Numbers are invented, or say nothing; no test depends on how long anything takes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import __main__ as command
from bench import cuda, gpu, results
from bench.competitors import OPTAX, OURS, TORCH
from bench.harness import MissingError, Runner, wall
from bench.on_device import COPY, CUPY, Copy, Rotation, everyone
from bench.results import DEVICE_TIME, END_TO_END, HOST_TIME, Comparison, Report, Row
from bench.workloads import ON_GPU, Workload

from .test_bench import TREE, Fake, agree, same, stepped


class Host:
    """The host as a device: NumPy for CuPy, and the wall clock for events."""

    xp: Any = np
    cache = 0
    free = 1 << 40
    array = host = staticmethod(np.array)
    fuse = staticmethod(same)
    seconds = staticmethod(wall)

    def runs_jax(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def available(self) -> int:
        return self.free

    def describe(self) -> dict[str, Any]:
        return {"device": "a stand-in on the host"}


def on_a_gpu() -> cuda.Cuda:
    try:
        return cuda.Cuda()
    except MissingError as error:
        pytest.skip(str(error))


ADAM = [name for name in everyone(Host()) if name != COPY]


@pytest.mark.parametrize("name", ADAM)
def test_all_are_the_same_adam(name: str) -> None:
    agree(stepped(everyone(Host())[name].make))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ADAM)
def test_all_are_the_same_adam_on_a_gpu(name: str) -> None:
    device = on_a_gpu()
    agree(stepped(everyone(device)[name].make, device.array, device.host))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same workloads by name, with hardly anything in them."""
    for key, workload in ON_GPU.items():
        tiny = Workload(key, workload.title, TREE.shapes, workload.zeros)
        monkeypatch.setitem(ON_GPU, key, tiny)


@pytest.mark.cuda
@pytest.mark.usefixtures("small")
def test_a_whole_run_on_a_gpu() -> None:
    pytest.importorskip("rich")
    on_a_gpu()
    assert command.main(["gpu", "--quick", "--rounds", "1"]) == 0


def test_jax_takes_part_where_it_computes_on_the_device() -> None:
    pytest.importorskip("optax")
    device = Host()
    device.runs_jax = lambda: False
    with pytest.raises(MissingError, match="JAX finds no CUDA device"):
        everyone(device)[OPTAX].make([], [])


@pytest.mark.parametrize("largest, passes", [(1 << 20, 1), (1000, 4)])
def test_a_copy_moves_the_bytes_of_a_step(
    largest: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copy, "LARGEST", largest)
    runner = Copy([np.zeros(n, np.float32) for n in (200, 40)], [], xp=np)
    assert runner.passes == passes
    moved = 2 * runner.source.nbytes * runner.passes
    assert 0 <= 28 * 240 - moved < 8 * runner.passes
    runner.run(1)
    np.testing.assert_array_equal(runner.target, runner.source)


def test_each_step_is_on_the_next_set_of_arrays() -> None:
    log: list[tuple[str, int]] = []
    fakes = [Fake(name, 0.0, log) for name in "abc"]
    rotation = Rotation(fakes)
    rotation.run(4)
    rotation.run(1)
    rotation.close()
    assert log == [(name, 1) for name in "abcab"]
    assert all(fake.closed for fake in fakes)


@pytest.mark.parametrize(
    "elements, sets", [(1_000_000, 13), (100_000_000, 1), (12_500_000, 1), (12_499_999, 2)]
)
def test_all_sets_together_are_larger_than_several_caches(
    elements: int, sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(gpu, "_given", lambda device, workload, seed: made.append(seed) or ([], []))
    device = Host()
    device.cache = 50_000_000
    next(gpu.comparisons(device, Workload("", "", ((elements,),)), 1, 0.0, same))
    assert made == list(range(sets))


class Clock(Runner):
    """A clock that a launch moves by 1, and the work that was launched by 10 more."""

    now = pending = 0.0

    def __call__(self) -> float:
        return self.now

    def step(self) -> None:
        self.now += 1
        self.pending += 10

    def synchronize(self) -> None:
        self.now, self.pending = self.now + self.pending, 0.0


def test_host_time_is_that_of_the_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(gpu, "perf_counter", clock)
    assert gpu.on_host(clock, clock, 5) == 5
    clock.synchronize()
    assert gpu.to_the_end(clock, clock, 5) == 55


@pytest.mark.usefixtures("small")
def test_a_run_measures_everyone_by_every_clock(tmp_path: Path) -> None:
    parts = ("1x1M", "1x100M-zeros")
    report = gpu.run(Host(), parts, rounds=2, turn=1e-4, tick=same)
    assert [(c.key, c.measure) for c in report.comparisons] == [
        (part, measure) for part in parts for measure in (DEVICE_TIME, HOST_TIME, END_TO_END)
    ]
    for comparison in report.comparisons:
        assert [row.name for row in comparison.rows] == list(everyone(Host()))
        assert comparison.median(OURS) is not None and comparison.median(COPY) is not None
        if comparison.measure == DEVICE_TIME:  # XLA's work is not on the stream of the events
            assert comparison.median(OPTAX) is None
    report.save(tmp_path / "gpu.json")
    assert results.load(tmp_path / "gpu.json") == report


@pytest.mark.usefixtures("small")
def test_zero_gradients_leave_all_moments_zero() -> None:
    params, grads = gpu._given(Host(), ON_GPU["1x100M-zeros"], 0)
    assert not any(g.any() for g in grads) and all(p.all() for p in params)
    assert [g.shape for g in grads] == [p.shape for p in params]


@pytest.mark.usefixtures("small")
def test_who_finds_no_room_is_left_out_and_named() -> None:
    device = Host()
    device.free = 20 * TREE.elements  # for p, g, and some who need little
    found = next(gpu.comparisons(device, ON_GPU["1x1M"], 1, 1e-4, same))
    missing = {row.name: row.missing for row in found.rows if row.missing}
    assert {COPY, CUPY} <= set(missing) and OURS not in missing
    assert missing[CUPY].startswith("needs ") and missing[CUPY].endswith(" GB are free")

    device.free = 0
    (nobody,) = gpu.comparisons(device, ON_GPU["1x1M"], 1, 1e-4, same)
    assert all(row.missing for row in nobody.rows)


@pytest.mark.usefixtures("small")
def test_the_command_prints_tables_and_writes_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(cuda, "Cuda", Host)
    monkeypatch.setenv("COLUMNS", "200")
    picture = tmp_path / "gpu.png"
    arguments = ["gpu", "--quick", "--rounds", "1", "--only", "1x1M", "--plot", str(picture)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    for part in (f"| {TORCH}", f"| {COPY}", *(DEVICE_TIME, HOST_TIME, END_TO_END), "a stand-in"):
        assert part in printed
    assert "What is to be reached" in printed and f"{CUPY} / {OURS}" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_target_is_reached_at_its_bound() -> None:
    report = pytest.importorskip("bench.report", reason="it needs rich")

    def answers(key: str, measure: str, **seconds: float) -> list[str]:
        rows = [Row(name, [value]) for name, value in seconds.items()]
        comparison = Comparison(key, key, 1, 1, rows, measure)
        return [line[-1] for line in report.reached(Report("gpu", "", {}, {}, {}, [comparison]))]

    for key, measure, name, least in report.RATIOS:
        assert answers(key, measure, **{OURS: 1.0, name: least}) == ["yes"]
        assert answers(key, measure, **{OURS: 1.0, name: 0.99 * least}) == ["no"]
        assert answers(key, measure, **{name: 1.0}) == []
    for key, measure, most in report.SECONDS:
        assert answers(key, measure, **{OURS: most}) == ["yes"]
        assert answers(key, measure, **{OURS: 1.01 * most}) == ["no"]


@pytest.mark.parametrize("smi", ["there", "without a device", "not there"])
def test_a_device_says_what_it_is(smi: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = object.__new__(cuda.Cuda)
    device._device = SimpleNamespace(
        pci_bus_id="0000:01:00.0", compute_capability="90", mem_info=(1, 8_000_000_000)
    )
    device._properties = {"name": b"A device", "l2CacheSize": 50_000_000}
    runtime = SimpleNamespace(runtimeGetVersion=lambda: 13020, driverGetVersion=lambda: 13000)
    device.xp = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))

    def said(command: list[str], **how: Any) -> SimpleNamespace:
        if smi == "not there":
            raise FileNotFoundError
        text = ", ".join(f"{name}!" for name in cuda.ASKED) if smi == "there" else "No devices"
        return SimpleNamespace(stdout=text + "\n")

    monkeypatch.setattr(subprocess, "run", said)
    found = device.describe()
    assert found["device"] == "A device" and found["memory"] == "8 GB" and found["cache"] == "50 MB"
    assert found.get("clocks.sm") == ("clocks.sm!" if smi == "there" else None)
