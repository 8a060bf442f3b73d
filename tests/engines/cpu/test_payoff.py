"""Small problems begin in tiles and are compiled when that pays: with the same bits, and seen."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from adam_any import Adam
from adam_any.engines.cpu import compiler, objects, payoff, tiles
from tests.helpers.bits import same
from tests.helpers.libraries import LIBRARIES, Lib, params

NUMBA = compiler.missing() is None
needs_numba = pytest.mark.skipif(not NUMBA, reason=str(compiler.missing()))


def kernel(opt: Adam) -> Any:
    """The class of the kernel that ran the last step."""
    return type(opt._contents._plans[0]._kernel)


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process that has not compiled anything, where it costs what one large step does."""
    monkeypatch.setattr(payoff, "_spent", {})
    monkeypatch.setattr(compiler, "_kernels", {})
    monkeypatch.setattr(payoff, "LOADING", 10 * (1000 + payoff.TILE))
    monkeypatch.setattr(payoff, "COMPILING", 10 * (1000 + payoff.TILE))
    monkeypatch.setattr(payoff, "AHEAD", 0)
    return monkeypatch


def data(seed: int, size: int = 1000) -> Any:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.promise("A program that is compiled in the middle of a run keeps its bits.")
@needs_numba
def test_it_is_compiled_in_the_middle_of_a_run_and_no_bit_shows_it(prices: Any) -> None:
    p, q = data(0), data(0)
    fast, slow = Adam(p, amsgrad=True), Adam(q, amsgrad=True, engine="eager")
    ran = []
    for t in range(15):
        fast.step(data(t)), slow.step(data(t))
        ran.append(kernel(fast))
        same(p, q)
    assert ran == [tiles.Kernel] * 9 + [compiler.Kernel] * 6
    assert fast.steps == slow.steps
    for name in ("m", "v", "vmax"):
        same(fast.state_dict()["state"][""][name], slow.state_dict()["state"][""][name])
    plans = fast._contents._plans
    fast.step(data(0))
    assert fast._contents._plans is plans  # it is decided for good


@needs_numba
def test_what_a_program_has_cost_is_counted_over_optimizers_and_new_plans(prices: Any) -> None:
    ran = []
    for _ in range(5):
        opt = Adam(data(0))
        opt.step(data(1))
        opt.params = data(2)  # which may make its plans anew
        opt.step(data(1))
        ran.append(kernel(opt))
    assert ran == [tiles.Kernel] * 4 + [compiler.Kernel]
    other = Adam(data(0), amsgrad=True)
    other.step(data(1))
    assert kernel(other) is tiles.Kernel


@needs_numba
def test_a_thousand_steps_to_come_are_expected(prices: Any) -> None:
    prices.setattr(payoff, "AHEAD", 1000)
    prices.setattr(payoff, "COMPILING", 1000 * (20_000 + 2 * payoff.TILE))
    prices.setattr(payoff, "LOADING", 1000 * (20_000 + 2 * payoff.TILE))
    for size, expected in ((10_000, tiles.Kernel), (20_000, compiler.Kernel)):
        opt = Adam(data(0, size))
        opt.step(data(1, size))
        assert kernel(opt) is expected


@needs_numba
def test_what_is_in_this_process_costs_nothing_and_what_is_on_disk_less(prices: Any) -> None:
    prices.setattr(payoff, "COMPILING", 1 << 60)
    opt = Adam(data(0))
    opt.step(data(0))
    kind = opt._contents._plans[0]._payoff._kind
    prices.setattr(compiler, "kept", lambda *_: False)
    assert payoff.price(kind) == payoff.COMPILING
    prices.setattr(compiler, "kept", lambda *_: True)
    assert payoff.price(kind) == payoff.LOADING
    compiler.Kernel(kind)
    assert payoff.price(kind) == 0


@needs_numba
def test_the_look_at_many_arrays_pays_sooner(prices: Any) -> None:
    prices.setattr(payoff, "COMPILING", 1 << 29)
    prices.setattr(payoff, "LOADING", 1 << 27)
    expected = {}
    for kept in (False, True):
        prices.setattr(compiler, "kept", lambda *_, kept=kept: kept)
        expected[kept] = [payoff.looks(number) for number in (1, 100, 10**6)]
    assert expected == {False: [1 << 18, (1 << 18) // 100, 1], True: [1 << 12, 40, 1]}
    compiler.function(objects.TEXT, objects.SIGNATURE)
    assert payoff.looks(1) == 1


def test_without_numba_it_stays_in_tiles(prices: Any) -> None:
    asked = []
    prices.setattr(compiler, "missing", lambda: asked.append(1) or "not here")
    opt = Adam(data(0))
    for t in range(30):
        opt.step(data(t))
    assert kernel(opt) is tiles.Kernel
    assert len(asked) == 1


@needs_numba
def test_what_numba_cannot_compile_goes_on_in_tiles_and_says_so(prices: Any) -> None:
    tried = []

    def failing(text: str, signature: str) -> None:
        tried.append(text)
        raise MemoryError("no room")

    prices.setattr(compiler, "_compile", failing)
    p, q = data(0), data(0)
    fast, slow = Adam(p), Adam(q, engine="eager")
    for t in range(9):
        fast.step(data(t)), slow.step(data(t))
    with pytest.warns(RuntimeWarning, match=r"stays in tiles: MemoryError\('no room'\)"):
        fast.step(data(9)), slow.step(data(9))
    Adam(data(0)).step(data(1))  # another one does not try again
    fast.step(data(10)), slow.step(data(10))
    same(p, q)
    assert len(tried) == 1


SMALL = """
import sys
import numpy as np
from adam_any import Adam
from adam_any.engines.cpu import payoff
p = np.zeros(3, np.float32)
opt = Adam(p, lr=1.0)
opt.step(np.ones(3, np.float32))
assert p.tolist() == [-1.0] * 3
assert "numba" not in sys.modules
payoff.AHEAD = payoff.LOADING = payoff.COMPILING = 0
opt.step(np.ones(3, np.float32))
print(type(opt._contents._plans[0]._kernel).__module__, opt.explain()[0].reason)
"""


def run(**variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SMALL],
        env=os.environ | variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.promise("The first step of a small problem imports no compiler.")
def test_the_first_step_of_a_few_elements_imports_no_compiler() -> None:
    said = run()
    if NUMBA:
        assert "tiles, compiled by Numba once that pays, for" in said


@needs_numba
def test_with_its_compiler_switched_off_tiles_take_over_and_say_why() -> None:
    said = run(NUMBA_DISABLE_JIT="1")
    assert "cpu.tiles one pass in cache-sized tiles; NUMBA_DISABLE_JIT is set" in said


@pytest.mark.parametrize(
    "lib", params(tuple(x for x in LIBRARIES if x.runs == "cpu")), indirect=True
)
def test_the_rows_of_the_fixture_run_what_they_say(lib: Lib) -> None:
    """Else the tests of every library would test tiles twice, and compiled code never."""
    opt = Adam(lib.array([1.0, 2.0], "float32"))
    opt.step(lib.array([1.0, 2.0], "float32"))
    assert kernel(opt) is (tiles.Kernel if lib.tiles or not NUMBA else compiler.Kernel)
