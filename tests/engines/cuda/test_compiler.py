"""NVRTC compiles every text that the CUDA engine can generate; it needs no GPU.

Adam's options make 48 programs, and four dtypes of the parameter with four of the gradient 16
kernels of each. All 768 are compiled for both architectures, 48 in one go.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections import Counter
from pathlib import Path

import pytest

from adam_any import rules
from adam_any.engines.cuda import compiler as nvrtc
from adam_any.engines.cuda.codegen import (
    CAPACITIES,
    NAME,
    THREADS,
    cuda_source,
    fold_source,
    sum_source,
)
from adam_any.engines.kernels import operations, private_folder
from adam_any.engines.kernels.program import Kind, Program, Traced
from adam_any.engines.kernels.program import trace as program
from adam_any.rule import Operand
from adam_any.rules import Adam as Rule
from tests.helpers.family import FAMILY
from tests.helpers.rules import Custom, every_operation, lion

REALS = ("float16", "bfloat16", "float32", "float64")
ARCHITECTURES = (80, 90)


@pytest.fixture(autouse=True)
def compiler(request: pytest.FixtureRequest) -> None:
    if (reason := nvrtc.missing()) is not None:
        if "nvrtc" in request.config.getoption("--require-library"):
            pytest.fail(f"required: {reason}", pytrace=False)
        pytest.skip(f"nvrtc: {reason}: pip install -e '.[cuda13]'; it needs no GPU")


def programs() -> list[Program]:
    """All that Adam's options can make."""
    made: dict[Program, None] = {}
    for options in itertools.product(
        (False, True), (0.0, 0.1), (False, True), (False, True), ((0.9, 0.1), (0.1, 0.9)), (0, 1)
    ):
        maximize, decay, decoupled, amsgrad, (beta1, beta2), equal = options
        betas = (beta1, beta1 if equal else beta2)
        made[program(Rule(1e-3, betas, 1e-8, decay, decoupled, amsgrad, maximize))] = None
    return list(made)


def compiled(texts: list[str], architecture: int, *options: str) -> nvrtc.Code:
    """Several kernels in one compilation, each under a name of its own."""
    apart = [
        f"namespace number{i} {{\n{text.replace(NAME, f'{NAME}_{i}')}\n}}\n"
        for i, text in enumerate(texts)
    ]
    return nvrtc.compiled("".join(apart), architecture, "--ptxas-options=-v", *options)


def faults(code: nvrtc.Code, number: int) -> list[str]:
    """What is wrong with a compilation of so many kernels."""
    clean = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
    found = re.findall(r"\S*(?:fma|mad)\.\w*\.?f(?:16|32|64)|\S*\.(?:ftz|approx|full)\S*", code.ptx)
    if code.ptx.count(".entry") != number or code.log.count("spill stores") != number:
        found.append("a kernel is lacking")
    if code.log.count(clean) != number:
        found.append("a kernel spills, or has a stack")
    registers = [int(x) for x in re.findall(r"Used (\d+) registers", code.log)]
    if max(registers) * THREADS * 2 > 65536:
        found.append(f"{max(registers)} registers: less than two blocks on a multiprocessor")
    return found


def test_adam_makes_48_programs() -> None:
    assert len(programs()) == 48


PAIRS = list(itertools.product(REALS, REALS))


@pytest.mark.promise(
    "Every CUDA kernel compiles without spills; nothing is contracted, flushed or approximated."
)
@pytest.mark.parametrize(
    ("parameter", "gradient"),
    [
        pytest.param(*pair, marks=[] if pair == ("float16", "float32") else pytest.mark.slow)
        for pair in PAIRS
    ],
)
def test_every_kernel_compiles_without_spills_and_is_exact(parameter: str, gradient: str) -> None:
    compute = "float64" if parameter == "float64" else "float32"
    texts = [
        cuda_source(Kind(made, parameter, gradient, compute), CAPACITIES[-1]) for made in programs()
    ]
    assert len(set(texts)) == 48
    for architecture in ARCHITECTURES:
        code = compiled(texts, architecture)
        assert faults(code, 48) == []
        bits = compute.removeprefix("float")
        for operation in ("sqrt", "div", "add", "mul", "sub"):
            assert code.ptx.count(f"{operation}.rn.f{bits}") >= 48


@pytest.mark.parametrize(
    ("parameter", "gradient", "loads", "stores"),
    [
        ("float32", "float32", {"v4.f32": 4}, {"v4.f32": 3}),
        ("float64", "float64", {"v2.f64": 4}, {"v2.f64": 3}),
        ("float32", "float64", {"v4.f32": 3, "v2.f64": 2}, {"v4.f32": 3}),
        ("float16", "bfloat16", {"v4.f32": 2, "v4.u16": 2}, {"v4.f32": 2, "v4.u16": 1}),
    ],
)
def test_memory_is_moved_16_bytes_at_a_time(
    parameter: str, gradient: str, loads: dict[str, int], stores: dict[str, int]
) -> None:
    """8 of 16-bit numbers, of which there are as many as of the moments."""
    compute = "float64" if parameter == "float64" else "float32"
    ptx = compiled([cuda_source(Kind(program(Rule()), parameter, gradient, compute), 64)], 90).ptx
    for verb, wanted in (("ld", loads), ("st", stores)):
        assert Counter(re.findall(rf"{verb}\.global\.(v\d\.\w+)", ptx)) == wanted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("compute", ["float32", "float64"])
def test_other_rules_other_zeros_and_other_numbers_of_leaves(
    monkeypatch: pytest.MonkeyPatch, compute: str, architecture: int
) -> None:
    rules = [Custom(every_operation), Custom(lambda xp, c, p, g, m: (m, p)), lion()()]
    texts = [
        cuda_source(Kind(program(rule), compute, compute, compute), capacity)
        for rule, capacity in itertools.product([*rules, Rule(amsgrad=True)], CAPACITIES)
    ]
    for ties in operations.TIES:
        monkeypatch.setattr(operations, "ties", lambda ties=ties: ties)
        kind = Kind(program(Custom(every_operation)), compute, compute, compute)
        texts.append(cuda_source(kind, CAPACITIES[0]))
    assert faults(compiled(texts, architecture), len(texts)) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernels_of_sums_compile_without_spills_and_are_exact(architecture: int) -> None:
    by_leaf = rules.Clipped(Rule(weight_decay=0.1), leaf_norm=1.0)
    every = [
        rules.Clipped(Rule(), value=1.0, norm=1.0),
        by_leaf,
        rules.Scaled(by_leaf, 0.5),
        Rule(),
    ]
    texts = [fold_source()]
    for rule, finite in itertools.product(every, (False, True)):
        made = Traced(rule).summing(finite)
        assert isinstance(made, Program)
        if made.outputs:
            for parameter, gradient in (*PAIRS[:: len(REALS) + 1], ("float32", "float64")):
                compute = "float64" if parameter == "float64" else "float32"
                texts.append(sum_source(Kind(made, parameter, gradient, compute), CAPACITIES[-1]))
    code = compiled(texts, architecture)
    assert faults(code, len(texts)) == []
    assert code.ptx.count("add.rn.f64") >= len(texts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wrappers_and_array_fields_compile_without_spills(architecture: int) -> None:
    """Everything at once: the most arrays and the most scalars of a kernel."""
    by, value, lower, upper = map(Operand, ("by", "value", "lower", "upper"))
    inner = rules.Scaled(rules.Adam(amsgrad=True, weight_decay=0.1), by)
    inner = rules.Clipped(inner, value=value, norm=1.0)
    whole = rules.Averaged(rules.Bounded(rules.Cautious(inner), lower, upper), 0.9)
    texts = []
    for rule in (whole, rules.Bounded(rules.Adam(), lower, None, hold=True)):
        program = Traced(rule).program
        assert program.operands
        for dtype in REALS:
            compute = "float64" if dtype == "float64" else "float32"
            texts.append(cuda_source(Kind(program, dtype, dtype, compute), CAPACITIES[-1]))
    assert faults(compiled(texts, architecture), len(texts)) == []


def family() -> list[Program]:
    """Every rule with every option, and the wrappers that change what is computed."""
    made = [row.made(options) for row in FAMILY for options in row.cases]
    inner = Rule(amsgrad=True, weight_decay=0.1)
    for wrap in (rules.Masked, rules.Cautious, rules.Lookahead):
        made += [wrap(Rule()), rules.Bounded(wrap(Rule()), 0.0, 1.0)]
    made += [
        rules.Accumulated(inner, 2),
        rules.L1(inner, 0.1),
        rules.Bounded(inner, 0, 1, hold=True),
    ]
    return list(dict.fromkeys(Traced(rule).program for rule in made))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_rule_compiles_and_is_exact(dtype: str, architecture: int) -> None:
    texts = [cuda_source(Kind(x, dtype, dtype, dtype), CAPACITIES[0]) for x in family()]
    assert len(texts) > 90
    code = compiled(texts, architecture)
    found = faults(code, len(texts))
    if dtype == "float64":  # where there is one moment, one number waits in memory for a division
        assert set(re.findall(r"(\d+) bytes spill stores", code.log)) <= {"0", "8"}
        found = [fault for fault in found if fault != "a kernel spills, or has a stack"]
    assert found == []


OPTIONS = ["--fmad=true", "-ftz=true", "--prec-div=false", "--prec-sqrt=false"]


@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_not_exact_is_found(option: str) -> None:
    """That the tests above can fail; the last of two options holds."""
    text = cuda_source(Kind(program(Rule()), "float32", "float32", "float32"), 64)
    assert faults(compiled([text], 90), 1) == []
    assert faults(compiled([text], 90, option), 1) != []


def test_a_spill_is_found() -> None:
    text = cuda_source(Kind(program(Rule()), "float64", "float64", "float64"), 64)
    tight = text.replace("__launch_bounds__(256)", "__launch_bounds__(1024, 2)")
    assert faults(compiled([tight], 90), 1) == ["a kernel spills, or has a stack"]


def test_an_error_of_the_compiler_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)sm_90.*undeclared.*identifier|is undefined"):
        nvrtc.compiled("__global__ void f() { undeclared = 1; }", 90)


def test_a_device_gets_its_own_architecture_or_the_newest_before_it() -> None:
    assert nvrtc.architecture((9, 0)) == 90
    assert nvrtc.architecture((8, 0)) == 80
    assert nvrtc.architecture((8, 6)) in (80, 86)
    assert nvrtc.architecture((6, 1)) is None  # too old
    assert nvrtc.architecture((99, 0)) is None  # too new


def test_machine_code_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_folder, "folder", lambda: tmp_path)
    text = cuda_source(Kind(program(Rule()), "float32", "float32", "float32"), 64)
    code = nvrtc.cubin(text, 90)
    assert code[:4] == b"\x7fELF"
    (path,) = tmp_path.iterdir()
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    compiled = nvrtc.compiled
    monkeypatch.setattr(nvrtc, "compiled", None)  # the second time nothing is compiled
    assert nvrtc.cubin(text, 90) == code
    monkeypatch.setattr(nvrtc, "compiled", compiled)
    path.write_bytes(b"")  # an empty file is no machine code
    assert nvrtc.cubin(text, 90) == code
    nvrtc.cubin(text, 80), nvrtc.cubin(text + " ", 90)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(nvrtc, "version", lambda: (99, 0))
    nvrtc.cubin(text, 90)
    assert len(list(tmp_path.iterdir())) == 4
