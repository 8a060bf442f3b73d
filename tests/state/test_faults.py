"""Faults: killed while saving, a full disk, damaged files.

Each is met in a process of its own, so that a crash or a limit on it is that process's alone. What
is marked slow does it hundreds of times more.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import pickle
import random
import signal
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file

from adam_any import Adam
from tests.helpers.bits import snapshot
from tests.helpers.files import seal
from tests.helpers.systems import needs_fork, needs_limits, needs_proc

#: Because forks of several threads may hang.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def apart(function: Any, *arguments: Any) -> dict[str, Any]:
    """What a function reports, from a process of its own."""
    with (
        mock.patch.dict(os.environ, ONE_THREAD),
        ProcessPoolExecutor(1, get_context("spawn")) as process,
    ):
        report: dict[str, Any] = process.submit(function, *arguments).result()
    print(report)
    return report


# Killed while saving -----------------------------------------------------------------------------


@pytest.mark.promise("A save that is killed leaves the old checkpoint or the new one.")
@needs_fork
@pytest.mark.parametrize("count", [10, pytest.param(400, marks=pytest.mark.slow)])
def test_a_killed_save_leaves_the_old_checkpoint_or_the_new_one(count: int, tmp_path: Path) -> None:
    report = apart(kills, tmp_path, count)
    assert report["neither"] == [] and report["while saving"] == count
    assert report["survived"] == report["killed"]
    assert report["left the old"] > 0


def kills(folder: Path, count: int) -> dict[str, Any]:
    """Fork, save one generation after another, kill at a random moment, and load; again and again,
    until `count` of the kills came in the middle of a save."""
    rng = random.Random(6)
    path, shared = folder / "state", np.frombuffer(mmap.mmap(-1, 16), np.int64)
    opt = generation(1)
    began = time.perf_counter()
    opt.save(path)
    usual = time.perf_counter() - began
    shared[:] = 1  # the generation whose saving has begun, and the one whose saving has ended
    seen = Counter({"killed": 0, "survived": 0, "while saving": 0, "left the old": 0})
    neither: list[str] = []
    while seen["while saving"] < count and not neither:
        process = os.fork()
        if process == 0:
            save_on(path, shared)
        time.sleep(rng.uniform(0, 4 * usual))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        began_, ended = map(int, shared)
        try:
            found = whole_generation(path)
            seen["survived"] += found in (began_, ended)
            seen["left the old"] += began_ > found
            shared[:] = found
        except Exception as error:
            neither.append(repr(error))
        seen["killed"] += 1
        seen["while saving"] += began_ > ended
    return {**seen, "neither": neither, "temporary files left": len(os.listdir(folder)) - 1}


def generation(number: int) -> Adam:
    """An optimizer every number of whose state is `number`."""
    opt = Adam([np.ones(200_000), *np.ones((40, 500), np.float32)], engine="eager")
    state = opt.state_dict()
    for entry in state["state"].values():
        entry.update(step=number, m=entry["m"] + number, v=entry["v"] + number)
    opt.load_state_dict(state)
    return opt


def save_on(path: Path, shared: Any) -> None:
    while True:
        opt = generation(int(shared[1]) + 1)
        shared[0] += 1
        opt.save(path)
        shared[1] += 1


def whole_generation(path: Path) -> int:
    """The number that the file holds, in every place."""
    opt = generation(0)
    opt.load(path)
    numbers = set(opt.steps.values())
    for entry in opt.state_dict()["state"].values():
        numbers |= {int(x) for name in "mv" for x in np.unique(entry[name])}
    (number,) = numbers
    return number


# A full disk -------------------------------------------------------------------------------------


@pytest.mark.promise("A full disk gives a clear error, and leaves the old checkpoint.")
@needs_limits
def test_a_full_disk_is_a_clear_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    report = apart(full_disk, tmp_path)
    assert report["refused"] == report["tried"] == 12
    assert "File too large" in report["message"] and "unchanged" in report["message"]


def full_disk(folder: Path) -> dict[str, Any]:
    """Save with a limit on the size of a file; Python ignores the signal that comes with it."""
    import resource

    path = folder / "state"
    opt = generation(1)
    opt.save(path)
    old, size = path.read_bytes(), path.stat().st_size
    opt = generation(2)
    before = snapshot(opt)
    report: dict[str, Any] = {"tried": 0, "refused": 0}
    for limit in (0, 1, 7, 8, 100, 4096, 8192, 65_536, 10**6, size // 2, size - 4096, size - 1):
        report["tried"] += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            opt.save(path)
        except OSError as error:
            report["message"] = str(error)
            report["refused"] += error.filename == str(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert path.read_bytes() == old and os.listdir(folder) == ["state"]
        assert snapshot(opt) == before
    opt.save(path)
    assert whole_generation(path) == 2
    return report


# Damaged files -----------------------------------------------------------------------------------


@pytest.mark.promise("A damaged file is refused, and changes nothing.")
@needs_limits
@needs_proc
@pytest.mark.parametrize("count", [1000, pytest.param(24_000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_and_change_nothing(count: int, tmp_path: Path) -> None:
    report = apart(damage, tmp_path, count)
    assert report["problems"] == []
    assert report["refused"] == count
    assert report["grown by MB"] < 32


class Sample:
    """A good file, taken apart."""

    def __init__(self, path: Path) -> None:
        self.whole = path.read_bytes()
        begin = 8 + int.from_bytes(self.whole[:8], "little")
        self.header = json.loads(self.whole[8:begin])
        self.document = json.loads(self.header["__metadata__"]["adam_any"])
        self.data = self.whole[begin:]
        self.tensors = load_file(path)


def small() -> Adam:
    params = {
        "a": np.ones((3, 2)),
        "b": np.float32(1),
        "c": np.ones((0, 2)),
        "d": np.full(4, 1j, np.complex64),
    }
    opt = Adam(params, lr=0.1, amsgrad=True, engine="eager")
    opt.step({"a": np.ones((3, 2)), "b": np.float32(2), "c": None, "d": params["d"] + 1})
    return opt


def damage(folder: Path, count: int) -> dict[str, Any]:
    """Load damaged files, with little memory to spare."""
    import resource

    rng = random.Random(7)
    opt, path = small(), folder / "state"
    opt.save(path)
    opt.load(path)
    sample = Sample(path)
    before, options = snapshot(opt), repr(opt)
    limit = memory("VmSize") + 256 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resident = memory("VmHWM")
    kinds: Counter[str] = Counter()
    problems: list[str] = []
    for i in range(count):
        make = MAKERS[i % len(MAKERS)]
        make(rng, sample, path)
        try:
            opt.load(path)
            problems.append(f"{make.__name__}: loaded {path.read_bytes()[:2000]!r}")
        except ValueError:
            kinds[make.__name__] += 1
        except BaseException as error:
            problems.append(f"{make.__name__}: {error!r} {path.read_bytes()[:2000]!r}")
        if snapshot(opt) != before or repr(opt) != options:
            problems.append(f"{make.__name__}: changed something")
            break
    path.write_bytes(sample.whole)
    opt.load(path)  # what is not damaged can be loaded, still
    grown = (memory("VmHWM") - resident) / 2**20
    report = {"refused": sum(kinds.values()), "grown by MB": grown, "kinds": kinds}
    return {**report, "problems": problems[:5]}


def memory(what: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


# Each maker below writes a file that differs from the good one.


def bytes_changed(rng: random.Random, sample: Sample, path: Path) -> None:
    made = bytearray(sample.whole)
    while made == sample.whole:
        a, b, n = *(rng.randrange(len(made) - 64) for _ in range(2)), rng.choice([1, 4, 16, 64])
        change = rng.randrange(6)
        if change == 0:
            del made[a:]
        elif change == 1:
            made[a] ^= 1 << rng.randrange(8)
        elif change == 2:
            made[a : a + n] = rng.randbytes(n)
        elif change == 3:
            made[a:a] = rng.randbytes(n)
        elif change == 4:
            del made[a : a + n]
        else:
            made[a : a + n], made[b : b + n] = made[b : b + n], made[a : a + n]
    path.write_bytes(made)


def length_invented(rng: random.Random, sample: Sample, path: Path) -> None:
    size = len(sample.whole)
    numbers = [0, 1, 2, size - 8, size - 7, size, 10**8, 10**8 + 1, 2**31, 2**32, 2**53]
    numbers += [2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1, rng.randrange(2**64)]
    path.write_bytes(rng.choice(numbers).to_bytes(8, "little") + sample.whole[8:])


def noise(rng: random.Random, sample: Sample, path: Path) -> None:
    odd = ["{}", "[]", "null", '{"a":', "[" * 5000, '{"a":' * 5000, "1e999", '"\\ud800"']
    text = rng.choice(odd).encode() + b" " * rng.randrange(8)
    made = [
        rng.randbytes(rng.randrange(300)),
        len(text).to_bytes(8, "little") + text + sample.data,
        pickle.dumps(sample.document),
        b"PK\x03\x04" + rng.randbytes(100),
        b"\0" * rng.randrange(10_000),
    ]
    path.write_bytes(rng.choice(made))


#: What is right in no place of a header or a document.
ODD: list[Any] = [-1, 10**400, math.nan, math.inf, True, "", "x", "I64", "../x", "x" * 10_000]
ODD += ["\ud800", "[" * 50_000, [], [[]], [0.9] * 3, {}, {"a": 1}]


def changed(rng: random.Random, tree: Any) -> Any:
    """JSON in which one value is odd, is lacking, has another name, or stands there twice."""
    made, places = pickle.loads(pickle.dumps(tree)), []

    def visit(inner: Any) -> None:
        for key in list(inner) if isinstance(inner, dict) else range(len(inner)):
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                visit(inner[key])

    visit(made)
    inner, key = rng.choice(places)
    value, change = inner[key], rng.randrange(4)
    if change == 0:
        inner[key] = rng.choice([odd for odd in ODD if odd != value])
    elif isinstance(inner, list):
        inner[key:key] = [value]
    else:
        # What is beside these has no meaning to anybody, and is no damage.
        if change != 1 or not inner.keys().isdisjoint({"data_offsets", "sha256"}):
            del inner[key]
        if change != 2:
            inner[rng.choice(["", "e", "../x", "a\0b", "A/m", "x" * 10_000])] = value
    return made if made != tree else changed(rng, tree)


def header_changed(rng: random.Random, sample: Sample, path: Path) -> None:
    text = json.dumps(changed(rng, sample.header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + sample.data)


def document_changed(rng: random.Random, sample: Sample, path: Path) -> None:
    """Under a right checksum."""
    seal(path, json.dumps(changed(rng, sample.document)), dict(sample.tensors))


def document_invented(rng: random.Random, sample: Sample, path: Path) -> None:
    """A document that is none, under a right checksum."""
    text = json.dumps(sample.document)
    odd = ["", "null", "[" * 50_000, '{"steps":' * 50_000, "9" * 5000, "[1e999]", "\0"]
    seal(path, rng.choice([text[: rng.randrange(len(text))], *odd]), dict(sample.tensors))


MAKERS = [bytes_changed, length_invented, noise, header_changed, document_changed]
MAKERS += [bytes_changed, document_invented, header_changed, document_changed]


# Memory ------------------------------------------------------------------------------------------


@pytest.mark.promise(
    "A damaged file takes memory in proportion to its own size, whatever it claims."
)
@needs_proc
def test_a_damaged_file_takes_memory_by_its_own_size(tmp_path: Path) -> None:
    report = apart(big_headers, tmp_path)
    assert report["grown per byte"] != {}
    for name, factor in report["grown per byte"].items():
        assert factor < 40, name


def big_headers(folder: Path) -> dict[str, Any]:
    """How far memory grows, in sizes of the file, for headers of 8 MB that a parser may expand."""
    opt, path = small(), folder / "state"
    opt.save(path)
    opt.load(path)
    sample, grown = Sample(path), {}
    entry = '"%d":{"dtype":"F64","shape":[0],"data_offsets":[0,0]}'
    texts = {
        "many tensors": "{" + ",".join(entry % i for i in range(150_000)) + "}",
        "a long shape": '{"a":{"dtype":"U8","shape":['
        + "1," * 4_000_000
        + '1],"data_offsets":[0,1]}}',
        "a long name": '{"' + "x" * 8_000_000 + '":' + entry[5:] + "}",
        "many lists": '{"__metadata__":' + "[" * 8_000_000,
    }
    for name, text in texts.items():
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + sample.data)
        grown[name] = growth(opt, path)
    for name, document in {
        "a document of lists": "[" + "[]," * 2_500_000 + "[]]",
        "a document of numbers": "[" + "1.5," * 2_000_000 + "1]",
        "a document of names": json.dumps({str(i): 0 for i in range(600_000)}),
        "a document of steps": json.dumps(
            {**sample.document, "steps": dict.fromkeys(map(str, range(600_000)), 1)}
        ),
    }.items():
        seal(path, document, dict(sample.tensors))
        grown[name] = growth(opt, path)
    return {"grown per byte": grown}


def growth(opt: Adam, path: Path) -> float:
    """The memory that a refusal takes at its peak, in sizes of the file."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    with pytest.raises(ValueError):
        opt.load(path)
    return (memory("VmHWM") - before) / path.stat().st_size
