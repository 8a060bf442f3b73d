"""Every rule: its paper, its peers, and all that Adam can do."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adam_any import Optimizer, functional, groups, rules
from adam_any.engines.cpu import payoff
from adam_any.rule import hyperparameters, replaced
from tests.helpers.dense import KERNELS, compare, dtypes, run
from tests.helpers.family import FAMILY, Row, falling, shown
from tests.helpers.libraries import EPS, Lib, params, tolerance
from tests.helpers.optimizers import samples

CASES = [
    pytest.param(row, options, id=f"{row.name}-{shown(options)}")
    for row in FAMILY
    for options in row.cases
]
#: How far a coefficient may be off where it is computed in float32, under a trace.
TRACED = 5e-7

every_row = pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.name)


def wild(steps: int, shape: Any = (24,), seed: int = 0) -> tuple[Any, list[Any]]:
    """A start, and gradients over twelve orders of magnitude, a tenth of them zeros."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-6, 6, (steps, *shape))
    grads = rng.normal(size=(steps, *shape)) * sizes * (rng.random((steps, *shape)) > 0.1)
    return rng.normal(size=shape), list(grads)


def package_path(row: Row, start: Any, grads: Any, options: dict[str, Any]) -> Any:
    """The parameter before the first step and after each."""
    opt = Optimizer(start.copy(), row.made(options), engine="eager")
    return np.array([start, *(opt.step(g).copy() for g in grads)])


def test_every_rule_has_its_row_and_every_option_its_case() -> None:
    fields = {
        name: {field.name for field in dataclasses.fields(getattr(rules, name))}
        for name in rules.__all__
    }
    tried = {row.name: {"lr"}.union(*row.options) for row in FAMILY}
    assert tried == {name: has for name, has in fields.items() if "rule" not in has}  # no wrappers


def test_a_rule_is_imported_when_it_is_asked_for() -> None:
    program = "import sys, adam_any; print([x for x in sys.modules if '.rules.' in x])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    files = {f"'adam_any.rules.{name.lower()}'" for name in rules.__all__}
    assert {x for x in files if x in run.stdout} == {"'adam_any.rules.adam'"}
    with pytest.raises(AttributeError, match=r"adam_any\.rules has no Muon; it has ADOPT, L1, SGD"):
        _ = rules.Muon


@pytest.mark.promise("The numbers of every rule are those of its paper, computed in long double.")
@pytest.mark.parametrize(("row", "options"), CASES)
def test_agrees_with_its_paper(row: Row, options: dict[str, Any]) -> None:
    start, grads = wild(200)
    got = package_path(row, start, grads, options)
    want = row.path(start, grads, options)
    assert np.all(np.isfinite(want)) and not np.array_equal(want[0], want[-1])
    assert np.all(np.abs(got - want) <= tolerance("float64", want, row.lr))


# Peers --------------------------------------------------------------------------------------------


def peer_path(request: Any, row: Row, start: Any, grads: Any, options: dict[str, Any]) -> Any:
    """The parameter of torch's or optax's optimizer before the first step and after each."""
    assert row.peer is not None
    library, make = row.peer
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    if library == "torch":
        # It keeps scalars, such as NAdam's product, in its default dtype.
        request.addfinalizer(partial(module.set_default_dtype, module.get_default_dtype()))
        module.set_default_dtype(module.float64)
        p = module.tensor(start)
        optimizer = make([p], **options)
        path = [start]
        for g in grads:
            p.grad = module.tensor(g)
            optimizer.step()
            path.append(p.numpy().copy())
        return np.array(path)
    jax = importlib.import_module("jax")
    with jax.enable_x64(True):
        optimizer, p = make(**options), jax.numpy.asarray(start)
        update = jax.jit(optimizer.update)
        state, path = optimizer.init(p), [start]
        for g in grads:
            change, state = update(g, state, p)
            p = p + change
            path.append(np.asarray(p))
    return np.array(path)


def gap(a: Any, b: Any) -> float:
    """The largest difference of two paths, relative to the size and the steps of the second."""
    size = np.maximum(np.abs(b).max(axis=0), np.abs(np.diff(b, axis=0)).max(axis=0))
    return float(np.max(np.abs(a - b) / size))


@pytest.mark.promise(
    "Every rule agrees with `torch.optim`'s or optax's to 1e-12, or the difference is named."
)
@pytest.mark.parametrize(
    "row", [row for row in FAMILY if row.peer is not None], ids=lambda row: row.name
)
def test_agrees_with_its_peer(request: Any, row: Row) -> None:
    start, grads = wild(200, seed=1)
    for options in ({}, *row.options):
        if options.keys() <= {*row.shared}:
            theirs = peer_path(request, row, start, grads, row.given(options))
            ours = package_path(row, start, grads, options)
            if not row.theirs:
                assert gap(ours, theirs) <= 1e-12, options
                continue
            # Its formula is another one: that, and nothing else, is the difference.
            assert gap(row.path(start, grads, {**options, **row.theirs}), theirs) <= 1e-12
            assert gap(ours, theirs) > 0.1


def test_a_variance_that_rounding_makes_negative_is_0() -> None:
    """torch takes its root, which is NaN; with constant gradients, after some hundred steps."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    g = np.linspace(0.05, 0.2, 100, dtype="float32")
    tensor = torch.ones(100)
    theirs = torch.optim.RMSprop([tensor], alpha=0.9, centered=True)
    ours = Optimizer(np.ones(100, "float32"), rules.RMSprop(rho=0.9, centered=True))
    for _ in range(500):
        tensor.grad = torch.tensor(g)
        theirs.step(), ours.step(g)
    assert torch.isnan(tensor).any() and np.isfinite(ours.params).all()


def test_rprop_multiplies_signs_and_not_gradients() -> None:
    """Their product underflows in torch, so there no step ever grows."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.ones(1)
    theirs = torch.optim.Rprop([tensor], lr=0.1)
    ours = Optimizer(np.ones(1, "float32"), rules.Rprop(lr=0.1))
    for _ in range(3):
        tensor.grad = torch.full((1,), 1e-30)
        theirs.step(), ours.step(np.full(1, 1e-30, "float32"))
    assert tensor.item() == pytest.approx(1 - 0.3)
    assert ours.params == pytest.approx(1 - 0.1 * (1 + 1.2 + 1.44))


def test_rprop_of_optax_is_a_call_late() -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    row = next(row for row in FAMILY if row.name == "Rprop")
    grads = [np.array([g]) for g in (1.0, 1.0, 2.0, 1.0)]  # as long as no sign turns
    late = dataclasses.replace(row, peer=("optax", lambda lr: optax.rprop(lr)))
    theirs = peer_path(None, late, np.ones(1), grads, {"lr": 0.1})
    ours = package_path(row, np.ones(1), grads, {"lr": 0.1})
    assert theirs[1] == 1 and theirs[2:] == pytest.approx(ours[1:-1])


# What Adam can do ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "options"), CASES)
def test_rates_are_the_coefficients_proportional_to_the_learning_rate(
    row: Row, options: dict[str, Any]
) -> None:
    rule = dataclasses.replace(row.made(options), lr=row.lr)
    rates = [name for name in ("lr", "lr_max") if hasattr(rule, name)]
    twice = dataclasses.replace(rule, **{name: 2 * getattr(rule, name) for name in rates})
    for t in (1, 2, 10):
        one, two = rule.coefficients(t), twice.coefficients(t)
        assert set(row.rule.rates) <= one.keys() == two.keys()
        for name, value in one.items():
            assert two[name] == (2 * value if name in row.rule.rates else value), name


@every_row
def test_numbers_out_of_range_are_refused(row: Row) -> None:
    for name, value in hyperparameters(row.rule()).items():
        for bad in (-1.0, np.nan, np.inf):
            given = (bad, *value[1:]) if isinstance(value, tuple) else bad
            with pytest.raises(ValueError, match=f"^{name} is .*must be"):
                Optimizer(np.ones(2), row.rule(**{name: given}))


def stepped(lib: Lib, row: Row, options: dict[str, Any], dtype: str, steps: int) -> None:
    """Fail unless a few steps on arrays of a library are the oracle's."""
    rng = np.random.default_rng(1)
    complex_ = dtype.startswith("complex")
    kind = complex if complex_ else float
    values = rng.normal(size=(steps + 1, 2, 3, 1 + complex_)).view(kind)[..., 0]
    held = [lib.numpy(lib.array(x, dtype)) for x in values]
    opt = Optimizer({"w": lib.array(values[0], dtype)}, row.made(options), engine=lib.engine)
    for g in values[1:]:
        w = opt.step({"w": lib.array(g, dtype)})["w"]
    lib.check(w, dtype, (2, 3))
    for part in (np.real, np.imag)[: 1 + complex_]:
        path = row.path(part(held[0]), [part(g) for g in held[1:]], options)
        error = np.abs(part(lib.numpy(w)) - path[-1])
        assert np.all(error <= tolerance(dtype, path, row.lr)), (options, dtype)


@every_row
def test_every_library_steps_it(lib: Lib, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """One dtype each, another for every rule, and few are compiled; the slow test has all."""
    number = FAMILY.index(row)
    if number % 4:
        monkeypatch.setattr(payoff, "LOADING", np.inf)
        monkeypatch.setattr(payoff, "COMPILING", np.inf)
    stepped(lib, row, row.cases[-1], lib.dtypes[number % len(lib.dtypes)], 3)


@pytest.mark.slow
@every_row
def test_every_library_steps_it_with_every_option_in_every_dtype(lib: Lib, row: Row) -> None:
    for options in row.cases:
        for dtype in lib.dtypes:
            stepped(lib, row, options, dtype, 3 if lib.slow else 20)


def same_bits(kernel: Lib, row: Row, options: dict[str, Any], dtype: str) -> None:
    def make(params: Any, **engine: Any) -> Optimizer:
        return Optimizer(params, row.made(options), **engine)

    compare(kernel, *run(kernel, [(1001,), (33,)], dtype, make))


@pytest.mark.parametrize("kernel", params(tuple(k for k in KERNELS if k.tiles)), indirect=True)
@every_row
def test_the_bits_are_those_of_the_reference(kernel: Lib, row: Row) -> None:
    """In tiles; the slow test compiles."""
    same_bits(kernel, row, row.cases[-1], "float32")


@pytest.mark.slow
@pytest.mark.promise("Every rule has the bits of the reference in dense memory.")
@every_row
def test_the_bits_are_those_of_the_reference_with_every_option(kernel: Lib, row: Row) -> None:
    for options in row.cases:
        for dtype in dtypes(kernel):
            same_bits(kernel, row, options, dtype)


@pytest.mark.promise("A run of every rule goes on where it was saved, with the same bits.")
@every_row
def test_a_run_goes_on_where_it_was_saved(row: Row, tmp_path: Path) -> None:
    """By a file, by a state and by a copy, with the bits of a run that was not interrupted."""
    start, grads = wild(6)
    options = {k: v for k, v in row.cases[-1].items() if not callable(v)}
    whole = package_path(row, start, grads, options)
    opt = Optimizer(start.copy(), row.made(options), engine="eager")
    for g in grads[:3]:
        opt.step(g)
    opt.save(tmp_path / "run")
    fresh = [Optimizer(np.ones(24), row.made({**options, "lr": 0.7})) for _ in range(2)]
    fresh[0].load(tmp_path / "run")
    fresh[1].load_state_dict(opt.state_dict())
    fresh[1].params = opt.params
    for other in (*fresh, copy.deepcopy(opt)):
        for g in grads[3:]:
            p = other.step(g)
        assert np.array_equal(p, whole[-1])


@every_row
def test_the_functions_are_the_class(jax: Any, row: Row) -> None:
    """With the bits of the reference from NumPy; in the compute dtype under jit and scan."""
    options = {**row.cases[-1], "lr": falling}
    rule = row.made(options)
    start, grads = (np.asarray(x, "float32") for x in samples((4,), 5))
    opt = Optimizer(start.copy(), rule, engine="eager")
    p, state = start, functional.init(start, rule)
    for g in grads:
        p, state = functional.step(p, g, state, rule)
        assert np.array_equal(p, opt.step(g))

    def body(carry: Any, g: Any) -> Any:
        return functional.step(carry[0], g, carry[1], rule), None

    x = jax.numpy.asarray(start)
    (x, state), _ = jax.jit(lambda x: jax.lax.scan(body, (x, functional.init(x, rule)), grads))(x)
    assert int(state.step) == 5 and x.dtype == "float32"
    path = row.path(start, grads, options)
    size = tolerance("float32", path, row.lr) / 4 / EPS["float32"]
    assert np.all(np.abs(x - path[-1]) <= size * (4 * EPS["float32"] + TRACED))


@every_row
def test_coefficients_can_be_traced(jax: Any, row: Row) -> None:
    """The count, and every number that a schedule gives."""

    def traced(x: Any) -> Any:
        return tuple(map(traced, x)) if isinstance(x, tuple) else lambda count: x + 0 * count

    counts = np.array([0, 1, 2, 9, 40, 1000], "int32")
    for options in row.cases:
        plain = row.made(options)
        numbers = {k: v if callable(v) else traced(v) for k, v in hyperparameters(plain).items()}
        # 1 - beta, of a beta that is rounded to float32, loses this many digits.
        betas = np.array([*getattr(plain, "betas", ()), getattr(plain, "rho", 0.0)])
        loss = 1 / (1 - betas.max())
        for rule, factor in ((plain, 1), (replaced(plain, numbers), loss)):
            kind = groups.kind_of(rule)

            def found_at(count: Any, kind: Any = kind) -> dict[str, Any]:
                return vars(functional.coefficients_of(kind, count, "float32"))

            got = jax.vmap(found_at)(counts)
            for i, count in enumerate(counts.tolist()):
                want = found_at(count)
                assert got.keys() == want.keys()
                for name, value in want.items():
                    found = float(np.broadcast_to(got[name], counts.shape)[i])
                    assert abs(found - value) <= factor * TRACED * abs(value), (
                        options,
                        name,
                        count,
                    )
