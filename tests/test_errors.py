"""What bad input gets: an error that names the leaf, and nothing changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adam_any import Adam, AdamW, Optimizer, rules
from tests.helpers.bits import refused
from tests.helpers.libraries import Lib

PARAMETERS: dict[str, Any] = {
    "integers": np.ones(2, int),
    "bools": np.ones(2, bool),
    "objects": np.ones(2, object),
    "strings": np.array(["a"]),
    "foreign byte order": np.ones(2, np.dtype(np.float32).newbyteorder()),
    "structured": np.ones(2, [("x", "f4")]),
    "masked": np.ma.ones(2),
    "no array": object(),
    "set": {1.0},
    "class": np.ndarray,
}
if np.dtype(np.longdouble).itemsize > 8:
    PARAMETERS |= {x: np.ones(2, x) for x in ("longdouble", "clongdouble")}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_matrices_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^'w': the parameter is a matrix, whose operators"):
        Adam({"w": np.matrix([1.0])})
    opt = Adam({"w": np.ones((1, 2))})
    with pytest.raises(TypeError, match=r"^'w': the gradient is a matrix"):
        opt.step({"w": np.matrix([1.0, 2.0])})


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_gradients_that_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"^'a.w': the parameter (has dtype|is an? |is of class )"):
        Adam({"a": {"w": PARAMETERS[name]}})
    opt = Adam({"a": np.ones(2), "w": np.ones(2)})
    opt.step({"a": np.ones(2), "w": np.ones(2)})
    with refused(opt, TypeError, match=r"^'w': the gradient (has dtype|is an? |is of class )"):
        opt.step({"a": np.ones(2), "w": PARAMETERS[name]})


def test_integer_and_mixed_complex_gradients_are_refused(lib: Lib) -> None:
    opt = Adam(
        {"a": lib.array([1.0]), "w": lib.array([1.0]), "z": lib.array([1.0], "complex64")},
        engine=lib.engine,
    )
    good = {"a": lib.array([1.0]), "w": lib.array([1.0]), "z": lib.array([1.0], "complex128")}
    opt.step(good)
    for name, dtype, message in (
        ("w", "int64", "'w': the gradient has dtype"),
        ("w", "bool", "'w': the gradient has dtype"),
        ("w", "complex64", "'w': the gradient is complex64, its parameter float64; pass real"),
        ("z", "float64", "'z': the gradient is float64, its parameter complex64; pass complex"),
    ):
        with refused(opt, TypeError, match=f"^{message}"):
            opt.step({**good, name: lib.array([1], dtype)})


@pytest.mark.promise("Integer parameters are refused, not truncated.", defect="D13")
@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_integer_parameters_are_refused(lib: Lib, dtype: str) -> None:
    """Their moments would stay 0."""
    with pytest.raises(TypeError, match="'w': the parameter has dtype"):
        Adam({"w": lib.array([1, 0], dtype)}, engine=lib.engine)


@pytest.mark.promise(
    "A gradient of another shape is refused; nothing is broadcast.",
    defect="D14",
    seen=["thinc#664", "differentiation#1"],
)
@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (1,), (), (3,), (5,)], ids=str)
def test_wrong_shapes_are_refused_and_nothing_is_broadcast(lib: Lib, shape: Any) -> None:
    """thinc read out of bounds, and a bias of (4,) grew to (4, 4)."""
    good = lib.array(np.ones(2))
    opt = Adam({"a": good, "w": lib.array(np.ones(4))}, engine=lib.engine)
    opt.step({"a": good, "w": lib.array(np.ones(4))})
    with refused(opt, ValueError, match="'w': the gradient has shape"):
        opt.step({"a": good, "w": lib.array(np.ones(shape))})


@pytest.mark.promise("A gradient of another library is refused.", defect="D14")
def test_a_gradient_of_another_library_is_refused(lib: Lib) -> None:
    opt = Adam({"a": lib.array([1.0]), "w": lib.array([1.0])}, engine=lib.engine)
    other: Any = 1.0 if lib.name == "numpy" else np.ones(1)
    with refused(opt, TypeError, match="'w': the gradient belongs to"):
        opt.step({"a": lib.array([1.0]), "w": other})


@pytest.mark.promise(
    "A schedule that returns a bad learning rate is refused, and changes nothing.", defect="D25"
)
@pytest.mark.parametrize(
    "value", ["no", None, -1.0, np.nan, np.inf, True, np.ones(2), 1j], ids=repr
)
def test_a_schedule_that_returns_nonsense_changes_nothing(lib: Lib, value: Any) -> None:
    opt = Adam(
        {"a": lib.array([1.0]), "w": lib.array([1.0])},
        lr=lambda count: 0.1 if count < 1 else value,
        engine=lib.engine,
    )
    grads = {"a": lib.array([1.0]), "w": lib.array([1.0])}
    opt.step(grads)
    with refused(opt, ValueError, match=r"^lr\(1\) is .*must be"):
        opt.step(grads)


@pytest.mark.promise("A schedule that raises changes nothing.")
def test_a_schedule_that_raises_changes_nothing(lib: Lib) -> None:
    def schedule(count: int) -> float:
        raise KeyError("schedule")

    opt = Adam(lib.array([1.0]), lr=schedule, engine=lib.engine)
    with refused(opt, KeyError, match="schedule"):
        opt.step(lib.array([1.0]))


def test_a_schedule_may_return_0d_arrays_and_numpy_scalars(lib: Lib) -> None:
    opt = Adam(lib.array([1.0]), lr=lambda count: np.array(0.1), engine=lib.engine)
    assert lib.numpy(opt.step(lib.array([1.0]))) == pytest.approx([0.9])
    opt.lr = lambda count: np.float32(0.125)
    assert lib.numpy(opt.step(lib.array([1.0]))) == pytest.approx([0.775])


def test_a_coefficient_that_overflows_changes_nothing(lib: Lib) -> None:
    opt = Adam(lib.array([1.0], "float32"), lr=lambda count: 1e38 * 10**count, engine=lib.engine)
    with refused(opt, ValueError, match=r"coefficient 'alpha' is .* finite float32"):
        opt.step(lib.array([1.0], "float32"))


@pytest.mark.promise(
    "A hyperparameter that the compute dtype cannot hold is refused.", defect="D25"
)
def test_hyperparameters_that_the_compute_dtype_cannot_hold_are_refused(lib: Lib) -> None:
    """An epsilon that underflows guards nothing."""
    for dtype in (d for d in lib.dtypes if d not in ("float64", "complex128")):
        tree = {"wide": lib.array([1.0]), "w": lib.array([1.0], dtype)}
        with pytest.raises(ValueError, match=r"'w': eps = 1e-46 is 0.0 in float32"):
            Adam(tree, eps=1e-46, engine=lib.engine)
        with pytest.raises(ValueError, match=r"'w': lr = 1e\+39 is inf in float32"):
            Adam(tree, lr=1e39, engine=lib.engine)
    Adam(lib.array([1.0]), eps=1e-46, engine=lib.engine)
    Adam(lib.array([1.0], "float32"), lr=0.0, betas=(0.0, 0.001), eps=0.0, engine=lib.engine)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_misspelt_keywords_and_attributes_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        kind(np.ones(1), learning_rate=0.1)
    opt = kind(np.ones(1))
    for name in ("eps", "betas", "learning_rate", "steps", "step"):
        with pytest.raises(AttributeError, match=f"'{name}'"):
            setattr(opt, name, 0.1)


@pytest.mark.parametrize("engine", ["cpu", "cuda", "fast", "", 1], ids=repr)
def test_only_the_reference_can_be_forced(engine: Any) -> None:
    with pytest.raises(ValueError, match=r"engine is .*must be None.*'eager'"):
        Adam(np.ones(1), engine=engine)


@pytest.mark.parametrize("rule", [None, 0.1, "adam", rules.Adam, {}], ids=repr)
def test_what_is_no_rule_is_refused(rule: Any) -> None:
    with pytest.raises(TypeError, match=r"rule is .*must be an instance of a frozen dataclass"):
        Optimizer(np.ones(1), rule)
