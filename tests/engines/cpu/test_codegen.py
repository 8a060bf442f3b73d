"""That the tests of the bits can fail: a change in a kernel is a change in a bit."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, rules
from adam_any.engines.cpu import codegen as source
from adam_any.engines.cpu import compiler as compiled
from adam_any.engines.cpu import tiles
from adam_any.engines.kernels.program import Kind, Program
from adam_any.engines.kernels.program import trace as program
from adam_any.engines.kernels.table import Table
from tests.helpers.bits import differ
from tests.helpers.libraries import Lib, named, params


def stepped(kernel: Any, made: Program) -> list[Any]:
    """p, m and v after one call of a kernel."""
    rng = np.random.default_rng(3)
    g, *state = (rng.standard_normal(99).astype(np.float32) for _ in range(4))
    state[2] = abs(state[2])
    table = Table([[x.ctypes.data for x in state]], [99], 40)
    table.gradients[0] = g.ctypes.data
    kernel.bind(table)(1, [0.3] * len(made.scalars))
    return state


FLOAT32 = ("float32", "float32", "float32")

SWAPS = {
    "add": "subtract",
    "subtract": "add",
    "multiply": "divide",
    "divide": "multiply",
    "sqrt": "abs",
}


@pytest.mark.slow
@pytest.mark.parametrize("kernel", params((named("numpy"), named("numpy-tiles"))), indirect=True)
def test_another_operation_gives_other_bits(kernel: Lib) -> None:
    """That test_dense can fail: each operation of the program matters to some bit."""
    made = program(rules.Adam())
    engine = tiles if kernel.tiles else compiled
    right = stepped(engine.Kernel(Kind(made, *FLOAT32)), made)
    for k, one in enumerate(made.instructions):
        other = one._replace(operation=SWAPS[one.operation])
        instructions = (*made.instructions[:k], other, *made.instructions[k + 1 :])
        changed = dataclasses.replace(made, instructions=instructions)
        wrong = stepped(engine.Kernel(Kind(changed, *FLOAT32)), made)
        assert any(differ(a, b) for a, b in zip(right, wrong, strict=True)), one


def test_a_change_in_the_generated_code_is_seen(
    numba: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One temporary that is contracted with the next is enough."""
    text = source.numba_source

    def contracted(*args: Any, **kwargs: Any) -> str:
        made = text(*args, **kwargs)
        assert made.count("t11 = c_alpha * t10") == 1
        return made.replace("t11 = c_alpha * t10", "t11 = real(float(c_alpha) * t2 / t9)")

    params, theirs = (list(np.random.default_rng(0).standard_normal((1, 999))) for _ in range(2))
    monkeypatch.setattr(compiled, "numba_source", contracted)
    Adam(params).step(params), Adam(theirs, engine="eager").step(theirs)
    assert differ(params[0], theirs[0])


@pytest.mark.parametrize(
    ("triple", "processor", "features", "able"),
    [
        ("x86_64-unknown-linux-gnu", "generic", "", False),
        ("x86_64-unknown-linux-gnu", "haswell", "+avx,+f16c,-sha", True),
        ("x86_64-pc-windows-msvc", "haswell", "+avx,-f16c", False),
        ("arm64-apple-darwin", "", "", True),
        ("riscv64-unknown-linux-gnu", "", "+d", False),
    ],
)
def test_float16_is_compiled_where_an_instruction_converts_it(
    numba: Any, triple: str, processor: str, features: str, able: bool
) -> None:
    """Elsewhere LLVM calls functions that may not be there, which ends the process."""
    from adam_any.engines.cpu import half_numba

    target = SimpleNamespace(magic_tuple=lambda: (triple, processor, features))
    with nullcontext() if able else pytest.raises(RuntimeError, match="no instruction converts"):
        half_numba._check(SimpleNamespace(codegen=lambda: target))
