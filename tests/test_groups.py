"""Rules by path, and fields that are arrays or trees: which leaf gets what, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adam_any import Adam, Optimizer, functional, groups, rules
from tests.helpers.bits import refused, snapshot
from tests.helpers.libraries import Lib

PARAMS = {"object": (3,), "probe": {"re": (2,), "im": (2,)}, "shift": (1,)}
RULES = {
    "object": rules.Bounded(rules.Adam(1e-2), -0.5, 0.5),
    "probe.*": rules.Lion(1e-3),
    "*": rules.Adam(1e-3),
}


def tree(lib: Lib, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def made(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: made(y) for key, y in x.items()}
        return lib.array(rng.standard_normal(x), "float32")

    return made(PARAMS)


def leaves(lib: Lib, x: Any) -> list[Any]:
    nested = [x["object"], x["probe"]["im"], x["probe"]["re"], x["shift"]]
    return [lib.numpy(leaf).tolist() for leaf in nested]


@pytest.mark.promise("Each leaf steps as it would alone with the rule that its path gives it.")
def test_each_leaf_steps_as_it_would_alone(lib: Lib) -> None:
    opt = Optimizer(tree(lib, 0), RULES, engine=lib.engine)
    parts = tree(lib, 0)
    alone = [
        Optimizer({"object": parts["object"]}, RULES["object"], engine=lib.engine),
        Optimizer(parts["probe"], RULES["probe.*"], engine=lib.engine),
        Optimizer({"shift": parts["shift"]}, RULES["*"], engine=lib.engine),
    ]
    for seed in (1, 2):
        grads = tree(lib, seed)
        whole = opt.step(grads)
        new = [
            alone[0].step({"object": grads["object"]})["object"],
            alone[1].step(grads["probe"]),
            alone[2].step({"shift": grads["shift"]})["shift"],
        ]
    assert leaves(lib, whole) == leaves(lib, {"object": new[0], "probe": new[1], "shift": new[2]})


def test_an_exact_path_wins_and_the_star_yields() -> None:
    params = {"a": np.ones(1), "ab": np.ones(1), "c": np.ones(1)}
    opt = Optimizer(params, {"*": rules.Adam(), "a*": rules.Lion(), "a": None})
    shown = {choice.path: choice.rule for choice in opt.explain()}
    assert shown == {"a": "None", "ab": "Lion", "c": "Adam"}


@pytest.mark.promise("A leaf whose rule is None is frozen, whatever its gradient.")
def test_none_freezes(lib: Lib) -> None:
    params = {"x": lib.array([1.0]), "y": lib.array([1.0])}
    opt = Optimizer(params, {"x": rules.Adam(0.1), "y": None}, engine=lib.engine)
    opt.step({"x": lib.array([1.0]), "y": lib.array([np.nan])})
    opt.step({"x": lib.array([1.0]), "y": None})
    assert lib.numpy(opt.params["y"]).tolist() == [1.0] and opt.steps == {"x": 2, "y": 0}
    assert [choice.engine for choice in opt.explain()][1] == "none"
    assert opt.moment("m")["y"] is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "the mapping of rules is empty"),
        ({"object": rules.Adam()}, "'probe.im': no rule matches it; the keys are"),
        ({"*": rules.Adam(), "pr*": None, "*be.*": None}, "'probe.im': the rules .* match it"),
        ({"*": rules.Adam(), "prob": None}, "keys that match no parameter: .*'prob'"),
        ({"*": rules.Adam(-1.0)}, r"rule '\*': lr is -1.0"),
        ({1: rules.Adam()}, "a key of the rules is 1"),
        ({"*": 0.1}, r"rule '\*': rule is 0.1; it must be an instance of a frozen dataclass"),
    ],
)
def test_what_does_not_match_is_refused(spec: Any, message: str) -> None:
    params = {"object": np.ones(3), "probe": {"re": np.ones(2), "im": np.ones(2)}}
    for make in (lambda: Optimizer(params, spec), lambda: functional.init(params, spec)):
        with pytest.raises((ValueError, TypeError), match=message):
            make()


def test_leaves_of_one_program_share_a_plan() -> None:
    params = [np.ones(3), np.ones(4), np.ones(5)]
    opt = Optimizer(params, {"0": rules.Adam(0.1), "1": rules.Adam(0.2), "2": rules.Lion()})
    opt.step([np.ones(3), np.ones(4), np.ones(5)])
    assert [len(plan.leaves) for plan in opt._contents.current_plans(None)] == [2, 1]
    assert [x[0] for x in params] == pytest.approx([0.9, 0.8, 1 - 1e-4])


# Setting what can be set --------------------------------------------------------------------------


def test_the_rate_is_read_and_set_through_wrappers_and_groups() -> None:
    opt = Optimizer(np.ones(2), rules.Averaged(rules.Bounded(rules.Adam(0.1), 0, 1)))
    opt.lr = 0.5
    assert opt.lr == 0.5 == opt.rule.rule.rule.lr
    several = Optimizer([np.ones(1), np.ones(1)], {"0": rules.Adam(0.1), "1": rules.Lion(0.2)})
    assert several.lr == {"0": 0.1, "1": 0.2}
    several.lr = {"1": 0.4}
    assert several.lr == {"0": 0.1, "1": 0.4}
    several.lr = 0.3
    assert several.lr == 0.3
    with refused(several, ValueError, "keys .*'2'.*, which have no rule"):
        several.lr = {"2": 0.1}


def test_a_rule_is_set_in_the_middle_of_a_run(lib: Lib) -> None:
    def made(scale: float) -> Any:
        return rules.Scaled(rules.Adam(0.1, eps=0.0), lib.array([scale, 1.0]))

    opt = Optimizer(lib.array([0.0, 0.0]), made(2.0), engine=lib.engine)
    opt.step(lib.array([1.0, 1.0]))
    opt.rule = made(0.5)
    opt.step(lib.array([1.0, 1.0]))
    assert lib.numpy(opt.params) == pytest.approx([-0.25, -0.2]) and opt.steps == {"": 2}
    with refused(opt, ValueError, "the new rule is Adam.*only numbers, schedules and arrays"):
        opt.rule = rules.Adam()
    with refused(opt, (ValueError, TypeError), "by of Scaled"):
        opt.rule = rules.Scaled(rules.Adam(0.1), lib.array([1.0, 2.0, 3.0]))


def test_a_reset_begins_anew(lib: Lib) -> None:
    params = {"x": lib.array([1.0]), "y": lib.array([1.0])}
    opt = Optimizer(params, rules.Lookahead(rules.Adam(0.1)), engine=lib.engine)
    for _ in range(2):
        opt.step({"x": lib.array([1.0]), "y": lib.array([1.0])})
    now = lib.numpy(opt.params["x"]).tolist()
    opt.reset("x")
    assert opt.steps == {"x": 0, "y": 2}
    assert lib.numpy(opt.moment("m")["x"]).tolist() == [0.0]
    assert lib.numpy(opt.moment("slow")["x"]).tolist() == now
    with refused(opt, ValueError, "'z' matches no parameter"):
        opt.reset("z")
    with pytest.raises(KeyError, match="no rule has the moment 'n'"):
        opt.moment("n")


def test_a_moment_of_complex_numbers_is_complex(lib: Lib) -> None:
    if "complex64" not in lib.dtypes or lib.device == "emulated":
        pytest.skip(f"{lib} has no complex numbers here")
    opt = Optimizer(lib.array([1 + 2j], "complex64"), rules.Averaged(rules.Adam(0.0)))
    opt.step(lib.array([1 + 1j], "complex64"))
    assert lib.numpy(opt.moment("average")).tolist() == [1 + 2j]


# Array fields -------------------------------------------------------------------------------------


def test_a_tree_gives_each_leaf_its_own() -> None:
    params = {"w": np.zeros((2, 2)), "b": np.zeros(2)}
    lower = {"w": np.array([[-0.5, 0.0], [0.5, -0.75]]), "b": -0.25}
    opt = Optimizer(params, rules.Bounded(rules.Adam(1.0), lower, {"w": None, "b": None}))
    opt.step({"w": np.ones((2, 2)), "b": np.ones(2)})
    assert params["w"].tolist() == [[-0.5, 0.0], [0.5, -0.75]]
    assert params["b"].tolist() == [-0.25, -0.25]


def test_a_tree_may_be_that_of_its_group() -> None:
    params = {"a": np.zeros(1), "probe": {"re": np.zeros(1), "im": np.zeros(1)}}
    lower = {"re": -0.1, "im": np.array([-0.2])}
    bounded = rules.Bounded(rules.Adam(1.0), lower)
    opt = Optimizer(params, {"probe.*": bounded, "*": rules.Adam(1.0)})
    opt.step({"a": np.ones(1), "probe": {"re": np.ones(1), "im": np.ones(1)}})
    assert (params["a"][0], params["probe"]["re"][0]) == pytest.approx((-1.0, -0.1))
    assert params["probe"]["im"].tolist() == [-0.2]


def test_a_real_field_serves_both_parts_of_a_complex_leaf(lib: Lib) -> None:
    if "complex128" not in lib.dtypes or lib.device == "emulated":
        pytest.skip(f"{lib} has no complex numbers here")
    rule = rules.Scaled(rules.Adam(1.0, eps=0.0), lib.array([0.5, 2.0]))
    opt = Optimizer(lib.array([0j, 0j], "complex128"), rule, engine=lib.engine)
    opt.step(lib.array([1 + 1j, 1 - 1j], "complex128"))
    assert lib.numpy(opt.params) == pytest.approx(np.array([-0.5 - 0.5j, -2 + 2j]))


WRONG = {
    "shape": (lambda lib: lib.array([0.0] * 3), "lower of Bounded has shape .*its parameter"),
    "NaN": (lambda lib: lib.array([np.nan, 0.0]), "lower of Bounded has a NaN"),
    "above": (lambda lib: lib.array([0.0, 2.0]), "lower of Bounded is above upper somewhere"),
    "library": (lambda lib: [1, "x"], "lower has no entry for it"),
    "another tree": (lambda lib: {"v": 0.0}, "lower has no entry for it"),
}


@pytest.mark.promise("An array field that does not fit is refused, and named with its leaf.")
@pytest.mark.parametrize("name", WRONG)
def test_an_array_that_does_not_fit_is_refused(lib: Lib, name: str) -> None:
    make, message = WRONG[name]
    rule = rules.Bounded(rules.Adam(), make(lib), 1.0)
    with pytest.raises((ValueError, TypeError), match=f"'w'.*{message}"):
        Optimizer({"w": lib.array([0.0, 0.0])}, rule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rules.Bounded(rules.Adam(), 1.0, 0.0), "lower is 1, above upper, which is 0"),
        (lambda: rules.Bounded(rules.Adam(), float("nan")), "lower is nan; it must be a finite"),
        (lambda: rules.Clipped(rules.Adam(), norm=0.0), "norm is 0.0; .* above 0"),
        (lambda: rules.Clipped(rules.Adam(), leaf_norm=-1.0), "leaf_norm is -1.0"),
        (lambda: rules.Clipped(rules.Adam(), value=-1.0), "value is -1.0"),
        (lambda: rules.Averaged(rules.Adam(), 1.0), r"decay is 1.0; .* in \[0, 1\)"),
        (lambda: rules.Averaged(None), "the wrapper Averaged holds None; it must hold a rule"),
        (lambda: rules.Lookahead(rules.Adam(), 0), "steps is 0; .* whole number, 1 or more"),
        (lambda: rules.Lookahead(rules.Adam(), 2.5), "steps is 2.5; .* whole number"),
        (lambda: rules.Lookahead(rules.Adam(), 5, 1.5), "blend is 1.5; .* from 0 to 1"),
        (lambda: rules.Scaled(rules.Adam(), -1.0), "by is -1.0; .* 0 or more"),
        (lambda: rules.L1(rules.Lion(), 1.0), "L1 needs the step size of each element"),
        (lambda: rules.L1(rules.Masked(rules.Adam()), 1.0), "L1 needs the step size"),
        (lambda: rules.Masked(rules.NAdam()), "Masked cannot count for each element with NAdam"),
        (
            lambda: rules.Clipped(rules.Clipped(rules.Adam(), norm=1.0), norm=2.0),
            "Clipped and Clipped, one in the other, both need sums",
        ),
        (lambda: rules.Averaged(rules.Averaged(rules.Adam())), "moments .* distinct names"),
    ],
)
def test_nonsense_is_refused_by_name(make: Any, message: str) -> None:
    for face in (lambda: Optimizer(np.ones(2), make()), lambda: functional.init(1.0, make())):
        with pytest.raises((ValueError, TypeError), match=message):
            face()


def test_an_array_in_memory_that_a_step_writes_is_refused() -> None:
    p = np.zeros(4)
    with pytest.raises(ValueError, match="lower shares memory with a parameter"):
        Optimizer(p[:2], rules.Bounded(rules.Adam(), p[:2]))


def test_an_array_is_read_where_it_is_and_never_written(lib: Lib) -> None:
    if not lib.in_place or lib.name == "array_api_strict" or lib.device == "emulated":
        pytest.skip(f"{lib} does not lend its memory")
    lower = lib.array([0.0, 0.0], "float32")
    rule = rules.Bounded(rules.Adam(1.0), lower)
    opt = Optimizer(lib.array([0.0, 0.0], "float32"), rule, engine=lib.engine)
    g = lib.array([1.0, 1.0], "float32")
    opt.step(g)
    lower[...] = -0.5 + 0 * lower
    opt.step(g)
    assert lib.numpy(opt.params).tolist() == [-0.5, -0.5] == lib.numpy(lower).tolist()


def test_the_key_of_one_rule_is_not_in_the_way() -> None:
    assert groups.by_key(rules.Adam()) == {"*": rules.Adam()}
    assert repr(Adam(1.0)).startswith("<Adam(lr=0.001")
    opt = Optimizer({"a": 1.0}, {"a": rules.Adam()})
    assert "rules={'a': Adam(" in repr(opt) and snapshot(opt)
