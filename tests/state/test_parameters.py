"""Parameters in a file: what is restored, where, and what happens if that fails."""

from __future__ import annotations

import dataclasses
import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from adam_any import Adam, Optimizer
from tests.helpers.bits import snapshot
from tests.helpers.files import seal
from tests.helpers.libraries import Lib, named, ready, require
from tests.helpers.optimizers import example
from tests.test_interrupts import interrupt_at

#: Numbers of which a conversion, or arithmetic, would change the bits.
ODD = [np.nan, np.inf, -np.inf, -0.0, 1e-40, 6e-8, 1 / 3, 65504.0]


def odd(lib: Lib, dtype: str) -> Any:
    if not dtype.startswith("complex"):
        return lib.array(np.reshape(ODD, (2, 4)), dtype)
    z = np.empty((2, 4), dtype)
    z.real, z.imag = np.reshape(ODD, (2, 4)), np.reshape(ODD[::-1], (2, 4))
    return lib.array(z, dtype)


def test_a_load_restores_the_parameters_in_the_same_objects(lib: Lib, tmp_path: Path) -> None:
    opt, grads = example(lib)
    opt.save(tmp_path / "f")
    saved, kept = snapshot(opt), opt.params
    opt.step(grads)
    after = snapshot(opt)
    assert after != saved
    opt.load(tmp_path / "f")
    assert snapshot(opt) == saved
    if lib.in_place:
        assert all(a is b for a, b in zip(opt.params["all"], kept["all"], strict=True))
        assert opt.params["0d"] is kept["0d"]
    assert type(opt.params["float"]) is float
    opt.step(grads)
    assert snapshot(opt) == after


def test_a_load_may_leave_the_parameters(lib: Lib, tmp_path: Path) -> None:
    opt, grads = example(lib)
    opt.save(tmp_path / "f")
    saved = snapshot(opt)
    opt.step(grads)
    stepped = snapshot(opt)
    opt.load(tmp_path / "f", params=False)
    for key, value in snapshot(opt).items():
        assert value == (stepped if key.startswith("params") else saved)[key]


@pytest.mark.parametrize("other", ["numpy", "torch", "jax"])
def test_the_bits_of_parameters_cross_libraries(
    lib: Lib, other: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each dtype that both have: loaded there and saved again, the file is the same."""
    there = named(other)
    require(request.config, there)
    with ready(there):
        dtypes = [d for d in lib.dtypes if d in there.dtypes]
        here = Adam([odd(lib, d) for d in dtypes], engine=lib.engine)
        here.save(tmp_path / "here")
        opt = Adam([there.array(np.ones((2, 4)), d) for d in dtypes], engine=there.engine)
        opt.load(tmp_path / "here")
        opt.save(tmp_path / "there")
        assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
        back = Adam([lib.array(np.ones((2, 4)), d) for d in dtypes], engine=lib.engine)
        back.load(tmp_path / "there")
        assert snapshot(back) == snapshot(here)


def test_parameters_have_their_own_precision_in_the_file(torch_: Any, tmp_path: Path) -> None:
    dtypes = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    opt = Adam({d: torch_.ones(3, dtype=getattr(torch_, d)) for d in dtypes})
    opt.save(tmp_path / "f")
    with safe_open(tmp_path / "f", framework="pt") as file:
        found = {d: file.get_tensor(f"{d}/param") for d in dtypes}
    for d in dtypes[:4]:
        assert str(found[d].dtype) == f"torch.{d}" and found[d].tolist() == [1, 1, 1]
    for d, real in (("complex64", "float32"), ("complex128", "float64")):
        assert str(found[d].dtype) == f"torch.{real}" and found[d].tolist() == [[1, 0]] * 3


def test_what_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    locked = np.arange(3.0)
    locked.flags.writeable = False
    opt = Adam({"locked": locked, "scalar": np.float32(2), "float": 0.5})
    opt.save(tmp_path / "f")
    opt.step({"locked": np.ones(3), "scalar": np.float32(1), "float": 1.0})
    opt.load(tmp_path / "f")
    new = opt.params
    assert new["locked"] is not locked and new["locked"].tolist() == [0, 1, 2]
    assert type(new["scalar"]) is np.float32 and new["scalar"] == 2
    assert type(new["float"]) is float and new["float"] == 0.5


def test_strided_parameters_are_written_where_they_are(tmp_path: Path) -> None:
    base = np.arange(24.0).reshape(4, 6)
    opt = Adam([base[::2, ::3], base[1::2].T])
    opt.save(tmp_path / "f")
    want = base.copy()
    base[...] = -1
    opt.load(tmp_path / "f")
    assert base[::2, ::3].tolist() == want[::2, ::3].tolist()
    assert base[1::2].tolist() == want[1::2].tolist()
    assert np.all(base[::2, 1] == -1)


def older(path: Path) -> None:
    """Make it a file of format 1, as it would have been."""
    with safe_open(path, framework="np") as file:
        document = json.loads(file.metadata()["adam_any"])
    document["format"] = 1
    del document["params"]
    tensors = {k: x for k, x in load_file(path).items() if not k.endswith("/param")}
    seal(path, json.dumps(document), tensors)


def test_the_older_format_is_read_and_never_taken_for_more(tmp_path: Path) -> None:
    opt = Adam({"w": np.ones(3)}, lr=0.1)
    opt.step({"w": np.arange(3.0)})
    opt.save(tmp_path / "f")
    before = snapshot(opt)
    older(tmp_path / "f")
    other = Adam({"w": opt.params["w"].copy()})
    fresh = snapshot(other)
    with pytest.raises(ValueError, match=r"format 1, which has no parameters.*params=False"):
        other.load(tmp_path / "f")
    assert snapshot(other) == fresh
    other.load(tmp_path / "f", params=False)
    assert snapshot(other) == before and other.lr == 0.1
    state = opt.state_dict()
    del state["params"]
    other.load_state_dict({**state, "format": 1})
    assert snapshot(other) == before


def test_a_parameter_of_another_kind_is_refused_unless_it_is_left_out(tmp_path: Path) -> None:
    """The moments of half precision are those of float32."""
    Adam([np.ones(3, "f4")]).save(tmp_path / "f")
    half = Adam([np.zeros(3, "f2")])
    with pytest.raises(ValueError, match=r"'0': param is F32 .* F16 of \(3,\), or pass params=Fal"):
        half.load(tmp_path / "f")
    assert half.params[0].tolist() == [0, 0, 0]
    half.load(tmp_path / "f", params=False)


def test_the_checksum_covers_the_parameters_that_are_left_out(tmp_path: Path) -> None:
    opt = Adam([np.ones(3)])
    opt.save(tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    at = whole.index(np.ones(3).tobytes())
    damaged = bytearray(whole)
    damaged[at] ^= 1
    (tmp_path / "f").write_bytes(damaged)
    for params in (True, False):
        with pytest.raises(ValueError, match="checksum"):
            opt.load(tmp_path / "f", params=params)


@pytest.mark.parametrize("change", ["half", "short", "freed"])
def test_a_parameter_that_has_changed_under_its_name_is_named(
    torch_: Any, change: str, tmp_path: Path
) -> None:
    p = torch_.nn.Parameter(torch_.ones(4))
    opt = Adam({"w": p})
    opt.save(tmp_path / "f")  # which does not forbid to resize the storage
    old = (tmp_path / "f").read_bytes()
    if change == "half":
        p.data = p.data.half()
    elif change == "short":
        p.data = p.data[:2]
    else:
        p.data.untyped_storage().resize_(0)
    for use in (opt.save, opt.load):
        with pytest.raises((TypeError, ValueError), match=r"'w': the (parameter|storage)"):
            use(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == old


def test_a_rule_cannot_take_the_parameters_name(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Rule:
        lr: float = 0.1
        moments = ("param",)

        def coefficients(self, t: int) -> dict[str, float]:
            return {"lr": self.lr}

        def update(self, xp: Any, c: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
            return p - c.lr * g, m

    with pytest.raises(ValueError, match="the same name"):
        Optimizer([np.ones(2)], Rule()).save(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


# Interrupted on the way out of a `with`, it leaves the file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_load_interrupted_at_any_line_is_whole_or_none(tmp_path: Path) -> None:
    def tree(x: float) -> dict[str, Any]:
        return {"a": np.full(2, x), "b": np.full(3, x, "f4"), "f": x}

    opt = Adam(tree(1.0), lr=0.5)
    opt.step(tree(2.0))
    opt.save(tmp_path / "f")

    def seen(opt: Adam) -> Any:
        return snapshot(opt), opt.lr

    whole, hits = Adam(tree(3.0)), set()
    before = seen(whole)
    whole.load(tmp_path / "f")
    for line in count(1):
        opt = Adam(tree(3.0))
        if not interrupt_at(line, lambda opt=opt: opt.load(tmp_path / "f")):
            break
        now = seen(opt)
        assert now in (before, seen(whole)), line
        hits.add(now == before)
        opt.step(tree(1.0))
    assert hits == {True, False} and line > 100
