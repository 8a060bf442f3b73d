"""A library that nobody has heard of, and what makes it one of the package's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, detect, functional
from adam_any.libraries import Library


def namespace(kind: Any) -> SimpleNamespace:
    """What of the array API a rule needs."""
    return SimpleNamespace(
        __name__="toy",
        float32=np.dtype("float32"),
        float64=np.dtype("float64"),
        complex128=np.dtype("complex128"),
        sqrt=lambda x: kind(np.sqrt(x.values)),
        astype=lambda x, dtype: kind(x.values.astype(dtype)),
        zeros_like=lambda x, dtype: kind(np.zeros_like(x.values, dtype)),
        asarray=lambda x, copy: kind(x.values.copy()),
    )


class Array:
    """An array that hides a NumPy one, and knows nothing of the array API."""

    device = "toy box"

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.dtype, self.shape = self.values.dtype, self.values.shape

    def __add__(self, other: Any) -> Array:
        return type(self)(self.values + getattr(other, "values", other))

    def __sub__(self, other: Any) -> Array:
        return type(self)(self.values - getattr(other, "values", other))

    def __mul__(self, other: Any) -> Array:
        return type(self)(self.values * getattr(other, "values", other))

    def __truediv__(self, other: Any) -> Array:
        return type(self)(self.values / getattr(other, "values", other))

    __radd__, __rmul__ = __add__, __mul__


class Toy(Library):
    """What would be the file libraries/toy.py."""

    def device(self, x: Any) -> Any:
        return x.device

    def namespace(self, x: Any) -> Any:
        return namespace(Array)

    def to_host(self, x: Any) -> Any:
        return x.values

    def from_host(self, host: Any, like: Any) -> Any:
        return Array(host.copy())


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    arrays, library = ModuleType("toy"), ModuleType("adam_any.libraries.toy")
    arrays.Array, library.LIBRARY = Array, Toy("toy")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy", arrays)
    monkeypatch.setitem(sys.modules, "adam_any.libraries.toy", library)
    monkeypatch.setitem(detect.CLASSES, "toy", ("toy", ("Array",)))  # the line in the table
    caches = detect.load, detect._name
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.promise("Adding a library is one file, and one line in the detector's table.")
@pytest.mark.usefixtures("toy")
def test_a_new_library_steps_is_explained_and_saved(tmp_path: Any) -> None:
    start, g = np.array([1.0, -2.0], "float32"), np.array([0.5, -3.0], "float32")
    opt, twin = Adam({"w": Array(start)}, lr=0.1), Adam({"w": start.copy()}, lr=0.1, engine="eager")
    for _ in range(3):
        params, want = opt.step({"w": Array(g)}), twin.step({"w": g})
    assert params["w"].values.tobytes() == want["w"].tobytes()
    assert opt.explain()[0][1:6] == ("toy", "toy box", "float32", "Adam", "eager")
    opt.save(tmp_path / "state")
    twin.load(tmp_path / "state")
    assert twin.step({"w": g})["w"].tobytes() == opt.step({"w": Array(g)})["w"].values.tobytes()
    with pytest.raises(TypeError, match="'w': the gradient belongs to numpy, its parameter to toy"):
        opt.step({"w": g})
    state = functional.init(Array(start))
    assert functional.step(Array(start), Array(g), state)[1].step == 1


class Standard(Array):
    """An array of a library that follows the standard, and is on no list."""

    def __array_namespace__(self, api_version: Any = None) -> Any:
        return namespace(Standard)


def test_an_unlisted_library_is_served_through_the_array_api() -> None:
    start = Standard(np.ones(2))
    opt = Adam({"w": start}, lr=0.1)
    out = opt.step({"w": Standard(np.ones(2))})["w"]
    assert out is not start and start.values.tolist() == [1.0, 1.0]
    assert out.values == pytest.approx([0.9, 0.9])
    assert opt.explain()[0].library == __name__.partition(".")[0]
