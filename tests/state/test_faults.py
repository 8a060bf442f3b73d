"""Faults: killed while saving, a full disk, damaged files.

Each runs in a process of its own, `python -m tests.state.test_faults WHAT FOLDER COUNT`, so that a
crash or a limit on it is that process's alone. A shortened form runs by default; in full, with
hundreds of kills and ten thousands of files: `pytest tests/state/test_faults.py --full-faults`.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from adam_any import Adam
from tests.helpers import ROOT
from tests.helpers.bits import snapshot
from tests.helpers.files import seal

KILLS = {False: 25, True: 400}
FILES = {False: 2_000, True: 24_000}


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full-faults"))


def apart(what: str, folder: Path, count: int = 0) -> dict[str, Any]:
    """What the function of that name reports, from a process of its own."""
    command = [sys.executable, "-m", "tests.state.test_faults", what, str(folder), str(count)]
    # One thread, because forks of several may hang.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(f"{what}: {done.stdout}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


# Killed while saving -----------------------------------------------------------------------------


@pytest.mark.promise("A save that is killed leaves the old checkpoint or the new one.")
def test_a_killed_save_leaves_the_old_checkpoint_or_the_new_one(full: bool, tmp_path: Path) -> None:
    count = KILLS[full]
    report = apart("kills", tmp_path, count)
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
def test_a_full_disk_is_a_clear_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    report = apart("full_disk", tmp_path)
    assert report["refused"] == report["tried"] == 12
    assert "File too large" in report["message"] and "unchanged" in report["message"]


def full_disk(folder: Path, count: int) -> dict[str, Any]:
    """Save with a limit on the size of a file; Python ignores the signal that comes with it."""
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
def test_damaged_files_are_refused_and_change_nothing(full: bool, tmp_path: Path) -> None:
    count = FILES[full]
    report = apart("damage", tmp_path, count)
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

    def copies(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """A document and tensors to be changed."""
        return pickle.loads(pickle.dumps(self.document)), dict(self.tensors)


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


def raw(make: Callable[[random.Random, Sample], bytes]) -> Callable[..., None]:
    """A maker of bytes, as one of a file that differs from the good one."""

    def write(rng: random.Random, sample: Sample, path: Path) -> None:
        made = make(rng, sample)
        while made == sample.whole:
            made = make(rng, sample)
        path.write_bytes(made)

    write.__name__ = make.__name__
    return write


@raw
def truncated(rng: random.Random, sample: Sample) -> bytes:
    return sample.whole[: rng.randrange(len(sample.whole))]


@raw
def bits_flipped(rng: random.Random, sample: Sample) -> bytes:
    made = bytearray(sample.whole)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


@raw
def bytes_replaced(rng: random.Random, sample: Sample) -> bytes:
    at, n = rng.randrange(len(sample.whole)), rng.randint(1, 64)
    return (sample.whole[:at] + rng.randbytes(n) + sample.whole[at + n :])[: len(sample.whole)]


@raw
def bytes_inserted(rng: random.Random, sample: Sample) -> bytes:
    at = rng.randrange(len(sample.whole) + 1)
    return sample.whole[:at] + rng.randbytes(rng.randint(1, 64)) + sample.whole[at:]


@raw
def bytes_cut_out(rng: random.Random, sample: Sample) -> bytes:
    at = rng.randrange(len(sample.whole))
    return sample.whole[:at] + sample.whole[at + rng.randint(1, 64) :]


@raw
def blocks_swapped(rng: random.Random, sample: Sample) -> bytes:
    made, n = bytearray(sample.whole), rng.choice([1, 4, 8, 16])
    a, b = (rng.randrange(0, len(made) - n, n) for _ in range(2))
    made[a : a + n], made[b : b + n] = made[b : b + n], made[a : a + n]
    return bytes(made)


@raw
def length_invented(rng: random.Random, sample: Sample) -> bytes:
    size = len(sample.whole)
    numbers = [0, 1, 2, size - 8, size - 7, size, 10**8, 10**8 + 1, 2**31, 2**32, 2**53]
    numbers += [2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1, rng.randrange(2**64), rng.randrange(size)]
    return rng.choice(numbers).to_bytes(8, "little") + sample.whole[8:]


@raw
def noise(rng: random.Random, sample: Sample) -> bytes:
    text = rng.choice(
        ["{}", "[]", "null", '{"a":', "[" * 5000, '{"a":' * 5000, "1e999", '"\\ud800"']
    )
    padded = text.encode() + b" " * rng.randrange(8)
    return rng.choice(
        [
            rng.randbytes(rng.randrange(300)),
            len(padded).to_bytes(8, "little") + padded + sample.data,
            pickle.dumps(sample.document),
            b"PK\x03\x04" + rng.randbytes(100),
            b"\0" * rng.randrange(10_000),
        ]
    )


NAMES = ["../../etc/passwd", "/etc/passwd", "..", "", "a", "a/m/x", "a\0b", "\ud800", "x" * 10_000]
NAMES += ["__metadata__ ", "A/m", "%2e%2e%2f", "nul", "a/m\n"]
SIZES: list[Any] = [2**63, 2**63 - 1, 2**64 - 1, 2**64, 2**32, -1, 1.5, 1e300, None, "1", [], {}]
SIZES += [True, 10**30]
DTYPES = [
    "F16",
    "BF16",
    "F32",
    "F64",
    "I64",
    "U8",
    "BOOL",
    "C64",
    "F4",
    "F8_E4M3",
    "f32",
    "",
    "O",
    3,
]


@raw
def header_invented(rng: random.Random, sample: Sample) -> bytes:
    """One thing in the header is another, and the data are as they were."""
    header = pickle.loads(pickle.dumps(sample.header))
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry, size = header[name], rng.choice(SIZES)
    change = rng.randrange(10)
    if change == 0:
        header[rng.choice(NAMES)] = header.pop(name)
    elif change == 1:
        entry["dtype"] = rng.choice([x for x in DTYPES if x != entry["dtype"]])
    elif change == 2:
        entry["shape"] = rng.choice([[size], [0, size], [size, size], size, [1] * 1000, [[3, 2]]])
    elif change == 3:
        entry["data_offsets"] = rng.choice([[0, size], [size, size], [size, 0], size, [8, 0], [0]])
    elif change == 4:
        n = rng.choice([2**60, 2**61, 2**62, 2**63])  # so that the sizes agree, or overflow to 0
        entry.update(shape=[n], data_offsets=[0, n * 8 % 2**64])
    elif change == 5:
        del entry[rng.choice(list(entry))]
    elif change == 6:
        header["__metadata__"] = rng.choice([None, [], {}, "x", {"adam_any": {}}, {"adam_any": 3}])
    elif change == 7:
        key = rng.choice(list(header["__metadata__"]))
        header["__metadata__"][key] = rng.choice([None, 3, "", "x", "[" * 50_000, {}])
    elif change == 8:
        header[name] = rng.choice([None, [], 3, "x", {}])
    else:
        header[rng.choice(NAMES)] = dict(entry)
    if header == sample.header:
        return sample.whole  # an odd value where it is right
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + sample.data


ODD: list[Any] = [-1, -0.5, "x", {}, [], [0.9], float("nan"), float("inf"), 10**400, True, 1e-60]
#: Values that a sealed document may not have, by place.
PLACES: list[tuple[tuple[str, ...], list[Any]]] = [
    (("format",), [0, 2, None, "1", [], 2**63, float("nan")]),
    (("rule",), ["", "Adam", "adamw", None, 1, [], "../adam"]),
    (("options",), [None, [], {}, "x", 1]),
    (("options", "amsgrad"), [False, None, "true", 2, [True], {}]),
    (("options", "more"), [False, None]),
    (("hyperparameters",), [None, [], {}, 1]),
    *((("hyperparameters", name), ODD) for name in ("lr", "eps", "weight_decay")),
    (("hyperparameters", "betas"), [None, 0.9, "ab", [], [0.9], [0.9] * 3, [[], []], [0.9, 1.0]]),
    (("hyperparameters", "betas"), [[-0.1, 0.9], [0.9, float("nan")], [10**400, 0.9], [True, 0]]),
    (("hyperparameters", "more"), [1.0]),
    (("steps",), [None, [], {}, 3, {"a": 1}]),
    *(
        (("steps", name), [-1, 0.5, 2**63, 10**400, "3", None, [], True, math.inf])
        for name in "abcd"
    ),
    (("steps", "../x"), [1]),
    (("more",), [1, None, "x" * 50_000]),
]


def document_changed(rng: random.Random, sample: Sample, path: Path) -> None:
    """A document that does not fit, under a right checksum."""
    document, tensors = sample.copies()
    keys, values = rng.choice(PLACES)
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    if keys[-1] in inner and rng.random() < 0.1:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = rng.choice(values)
    seal(path, json.dumps(document), tensors)


def document_invented(rng: random.Random, sample: Sample, path: Path) -> None:
    """A document that is none, under a right checksum."""
    text = json.dumps(sample.document)
    cut = text[: rng.randrange(len(text))]
    odd = ["", "null", "[" * 50_000, '{"steps":' * 50_000, "9" * 5000, "[1e999]", '"\\ud800"', "\0"]
    seal(path, rng.choice([cut, rng.choice(odd)]), dict(sample.tensors))


def tensors_changed(rng: random.Random, sample: Sample, path: Path) -> None:
    """Other tensors than the leaves have, under a right checksum."""
    document, tensors = sample.copies()
    name = rng.choice(list(tensors))
    x = tensors[name]
    change = rng.randrange(5)
    if change == 0:
        del tensors[name]
    elif change == 1:
        tensors[rng.choice([name for name in NAMES if name != "\ud800"])] = x
    elif change == 2:
        tensors[name] = x.astype(rng.choice(["f2", "i4", "i8", "u1", "?", "c8"]))
    elif change == 3:
        tensors[name] = np.zeros((*x.shape, rng.choice([0, 1, 2])), x.dtype)
    else:
        tensors[name] = np.zeros(rng.choice([(7,), (1, 1, 1), (2, 3), (0,)]), x.dtype)
    seal(path, json.dumps(document), tensors)


MAKERS: list[Any] = [
    *(truncated, bits_flipped, bytes_replaced, bytes_inserted, bytes_cut_out, blocks_swapped),
    *(length_invented, noise, header_invented, header_invented, header_invented),
    *(document_changed, document_changed, document_invented, tensors_changed),
]


# Memory ------------------------------------------------------------------------------------------


@pytest.mark.promise(
    "A damaged file takes memory in proportion to its own size, whatever it claims."
)
def test_a_damaged_file_takes_memory_by_its_own_size(tmp_path: Path) -> None:
    report = apart("big_headers", tmp_path)
    assert report["grown per byte"] != {}
    for name, factor in report["grown per byte"].items():
        assert factor < 40, name


def big_headers(folder: Path, count: int) -> dict[str, Any]:
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


def main(what: str, folder: str, count: str) -> None:
    functions = {f.__name__: f for f in (kills, full_disk, damage, big_headers)}
    print(json.dumps(functions[what](Path(folder), int(count))))


if __name__ == "__main__":
    main(*sys.argv[1:])
