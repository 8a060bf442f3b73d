"""The first contact with a GPU: few numbers, and whether they have the bits of NumPy's.

Each function is a step of `everything`. Arrays go to the device and back by `device` alone, so a
stand-in on the host tests the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import print_exc
from typing import Any

import numpy as np
import optree

from adam_any import Adam, Optimizer, rules

from .harness import MissingError, needed, reason

DTYPES = ("float32", "float64", "float16", "complex64", "complex128", "bfloat16")
STEPS = 200

Move = Callable[[Any], Any]


def one(device: Any, findings: Any, seconds: float) -> None:
    """Three steps of one element of each dtype, against the reference on NumPy."""
    for dtype in DTYPES:
        _tried(findings, dtype, partial(_one, device, findings, dtype))


def _one(device: Any, findings: Any, dtype: str) -> None:
    half = dtype == "bfloat16"  # NumPy has none, so it is rounded between steps of float32
    kind = np.dtype(needed("ml_dtypes").bfloat16 if half else dtype)
    imaginary = 0.3j if dtype.startswith("complex") else 0.0
    host, g = np.array([1.1 + imaginary], kind), np.array([-0.3 + imaginary], kind)
    there = device.array(host)
    fast = Adam(there, lr=0.1)
    engine = fast.explain()[0].engine
    findings.add(f"{dtype}: engine", engine, "ok" if engine == "cuda" else "wrong")
    wide = np.float32 if half else kind
    p = host.astype(wide)
    slow = Adam(p, lr=0.1, engine="eager")
    for _ in range(3):
        fast.step(device.array(g)), slow.step(g.astype(wide))
        p[...] = p.astype(kind)
    findings.check(f"{dtype}: one element, 3 steps", _differing(device.host(there), p), 1)


def digits(device: Any, findings: Any, seconds: float, steps: int = STEPS) -> None:
    """The digits on NumPy and on the device, from NumPy's gradients; and a run that moves from the
    one to the other and back, through a file.
    """
    from adam_any.demo.digits import BATCH, HIDDEN, load_digits, loss_and_gradients

    needed("sklearn", "scikit-learn")
    data = load_digits()
    rng = np.random.default_rng(0)

    def layer(*shape: int) -> dict[str, Any]:
        w = rng.standard_normal(shape, np.float32) * np.float32((2 / shape[0]) ** 0.5)
        return {"w": w, "b": np.zeros(shape[1], np.float32)}

    params = {"hidden": layer(64, HIDDEN), "output": layer(HIDDEN, 10)}

    def copied(to: Move) -> Any:
        return optree.tree_map(lambda x: to(x.copy()), params)

    def start(to: Move) -> Any:
        return Adam(copied(to), lr=0.01)

    here, there = np.array, device.array
    slow, fast, moving, to = start(here), start(there), start(here), here
    with TemporaryDirectory() as folder:
        for t in range(steps):
            if t in (steps // 3, 2 * steps // 3):
                moving.save(Path(folder, "run"))
                to = there if to is here else here
                moving = start(to)
                moving.load(Path(folder, "run"))
            chosen = rng.choice(len(data.train_x), BATCH, replace=False)
            x, y = (a[chosen].astype(np.float32) for a in (data.train_x, data.train_y))
            loss, grads = loss_and_gradients(slow.params, x, y)
            slow.step(grads)
            for opt, move in ((fast, there), (moving, to)):
                opt.step(optree.tree_map(lambda g, move=move: move(np.ascontiguousarray(g)), grads))
    findings.add("NumPy: loss of the last batch", f"{float(loss):.3f}")
    for name, opt in (("on the device", fast), ("moved there and back", moving)):
        differ, number = 0, 0
        for mine, reference in zip(_all(opt), _all(slow), strict=True):
            mine = mine if isinstance(mine, np.ndarray) else device.host(mine)
            differ, number = differ + _differing(mine, reference), number + reference.size
        findings.check(f"{steps} steps {name}, parameters and moments", differ, number)


def odd(device: Any, findings: Any, seconds: float, leaves: int = 4001) -> None:
    """What is at the edges of chunks, packs and tables: for a tool that watches every access."""
    device.allocate_apart()
    rng = np.random.default_rng(0)
    ends = (*range(9), 31, 33, 255, 257, 1023, 1025, 2047, 2049, 16383, 16385, 50_003)

    def normal(sizes: Any, dtype: str) -> list[Any]:
        return [rng.standard_normal(n).astype(dtype) for n in sizes]

    def case(what: str, sizes: Any, dtype: str, gradient: str, make: Any) -> None:
        params, grads = normal(sizes, dtype), [normal(sizes, gradient) for _ in range(2)]
        there = [device.array(p) for p in params]
        fast = Optimizer(there, make([device.array(np.full_like(p, 0.5)) for p in params]))
        slow = Optimizer(params, make([np.full_like(p, 0.5) for p in params]), engine="eager")
        for g in grads:
            fast.step([device.array(x) for x in g]), slow.step(g)
        differ = sum(_differing(device.host(x), y) for x, y in zip(there, params, strict=True))
        findings.check(f"{what}, {dtype}", differ, sum(sizes))

    def view(at: int) -> None:
        whole = device.array(normal([4099], "float32")[0])
        host = device.host(whole)
        Adam(whole[at:]).step(device.array(np.ones(4099 - at, np.float32)))
        Adam(host[at:], engine="eager").step(np.ones(4099 - at, np.float32))
        findings.check(f"a view from {at} on", _differing(device.host(whole), host), 4099)

    for given in _cases(ends, leaves):
        _tried(findings, f"{given[0]}, {given[2]}", partial(case, *given))
    for at in range(1, 4):  # no multiple of 16 bytes
        _tried(findings, f"a view from {at} on", partial(view, at))


def _tried(findings: Any, what: str, part: Callable[[], None]) -> None:
    """Try a part of a step: if it raises, that is found, and the others are tried nevertheless."""
    try:
        part()
    except MissingError as error:
        findings.add(what, str(error))
    except Exception as error:
        print_exc()
        findings.add(what, reason(error), "wrong")


def _cases(ends: tuple[int, ...], leaves: int) -> Iterator[tuple[str, Any, str, str, Any]]:
    """Each a name, the sizes of leaves, the dtypes of parameters and gradients, and a rule made
    from an array for each leaf.
    """
    for dtype in ("float32", "float64", "float16", "complex64"):
        yield "odd sizes", ends, dtype, dtype, lambda arrays: rules.Adam(amsgrad=True)
    yield "gradients of float64", ends, "float32", "float64", lambda arrays: rules.Adam()
    yield (
        f"{leaves} leaves",
        [n % 7 for n in range(leaves)],
        *("float32",) * 2,
        lambda _: rules.Adam(),
    )
    for dtype in ("float32", "float64"):
        yield "a norm", ends, dtype, dtype, lambda _: rules.Clipped(rules.Adam(), norm=1.0)
        yield "bounds", ends, dtype, dtype, lambda arrays: rules.Bounded(rules.Adam(), None, arrays)


def _all(opt: Any) -> list[Any]:
    """Parameters and moments."""
    trees = (opt.params, opt.moment("m"), opt.moment("v"))
    return [x for tree in trees for x in optree.tree_leaves(tree)]


def _differing(a: Any, b: Any) -> int:
    """How many numbers differ in a bit."""
    b = b.astype(a.dtype)  # exact where the dtypes differ
    size = a.size, a.itemsize
    bytes_ = [np.frombuffer(x.tobytes(), np.uint8).reshape(size) for x in (a, b)]
    return int(np.count_nonzero((bytes_[0] != bytes_[1]).any(axis=1)))
