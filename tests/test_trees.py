"""Containers: what a tree may be, and how gradients are matched with parameters."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_any import Adam
from tests.helpers.bits import refused


class Lens(NamedTuple):
    focus: Any
    tilt: Any


def one() -> np.ndarray[Any, Any]:
    return np.ones(2)


def test_paths_name_the_leaves() -> None:
    tree = {"lens": Lens(one(), [one(), None]), "layers": [{"w": one()}, (one(),)], 7: one()}
    opt = Adam(tree)
    paths = {"lens.focus", "lens.tilt.0", "layers.0.w", "layers.1.0", "7"}
    assert set(opt.steps) == paths
    assert {choice.path for choice in opt.explain()} == paths
    assert Adam(one()).steps == {"": 0}


def test_containers_come_back_as_they_were() -> None:
    tree = {
        "b": Lens(one(), 1.0),
        "a": collections.OrderedDict(z=one(), y=[]),
        "c": collections.defaultdict(list, k=one()),
        "d": collections.deque([one()]),
        "e": {},
    }
    out = Adam(tree).step(tree)
    assert out is not tree and list(out) == list(tree) and list(out["a"]) == ["z", "y"]
    for name, container in tree.items():
        assert type(out[name]) is type(container) and out[name] is not container
    assert out["b"].focus is tree["b"].focus


@pytest.mark.parametrize("empty", [{}, [], (), None, {"a": None, "b": []}], ids=repr)
def test_empty_trees_step(empty: Any) -> None:
    opt = Adam(empty)
    assert opt.step(empty) == empty and opt.steps == {}
    assert opt.params == empty and opt.state_dict()["state"] == {}


def test_two_leaves_with_one_path_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'a.b': two leaves have this path"):
        Adam({"a.b": one(), "a": {"b": one()}})
    with pytest.raises(ValueError, match="'1': two leaves have this path"):
        Adam({1: one(), "1": one()})


def nest(**changed: Any) -> Any:
    return {"a": [one(), (one(), Lens(one(), None))], "b": {"c": one()}, **changed}


WRONG = {
    "another kind of container": (nest(a={0: one()}), "'a': .*a dict .*a list"),
    "a tuple for a named one": (nest(a=[one(), (one(), (one(), None))]), "'a.1.1': .*Lens"),
    "a list for a leaf": (nest(b={"c": [one()]}), "'b.c': .*a list .*one leaf"),
    "a leaf for a list": (nest(a=one()), "'a': .*a ndarray .*a list"),
    "an array for None": (nest(a=[one(), (one(), Lens(one(), one()))]), "'a.1.1.tilt': .* is None"),
    "a key missing": ({"a": nest()["a"]}, r"^the .*missing \['b'\], not known \[\]"),
    "a key too many": (nest(d=one()), r"^the .*missing \[\], not known \['d'\]"),
    "one too few": (nest(a=[one()]), r"'a': .*missing \[1\]"),
    "one too many": (nest(a=[*nest()["a"], one()]), r"'a': .*not known \[2\]"),
    "a bare array": (one(), "^the .*a ndarray .*a dict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_structure_is_refused_at_every_step_and_changes_nothing(name: str) -> None:
    bad, message = WRONG[name]
    opt = Adam(nest())
    for _ in range(3):
        with refused(opt, ValueError, match=message):
            opt.step(bad)
        with refused(opt, ValueError, match=r"'.*': |^the new value"):
            opt.params = bad
        opt.step(nest())


def test_none_skips_a_leaf_or_a_subtree() -> None:
    opt = Adam(nest())
    for grads in (nest(), nest(a=None), nest(a=[None, (one(), Lens(None, None))]), nest()):
        opt.step(grads)
    assert opt.steps == {"a.0": 2, "a.1.0": 3, "a.1.1.focus": 2, "b.c": 4}


@pytest.mark.uses("operators")
def test_a_projection_through_params(lib: Any) -> None:
    opt = Adam({"w": lib.array([0.05, 1.0])}, lr=0.1, engine=lib.engine)
    for _ in range(3):
        w = opt.step({"w": lib.array([1.0, -1.0])})["w"]
        opt.params = {"w": abs(w)}
    assert lib.numpy(opt.params["w"])[0] >= 0
    assert opt.steps == {"w": 3}


def test_params_can_only_be_replaced_by_their_like(lib: Any) -> None:
    opt = Adam({"w": lib.array([1.0, 2.0], "float32"), "n": None}, engine=lib.engine)
    good = lib.array([1.0, 2.0], "float32")
    for bad, error, message in (
        ({"w": lib.array([1.0, 2.0]), "n": None}, TypeError, "'w': .*float64, but it was float32"),
        ({"w": lib.array([1.0], "float32"), "n": None}, ValueError, "'w': .*has shape"),
        ({"w": None, "n": None}, ValueError, "'w': None must stay None"),
        ({"w": good, "n": good}, ValueError, "'n': None must stay None"),
        ({"w": 1.0, "n": None}, TypeError, "'w': .*belongs to python"),
        (good, ValueError, "^the new value .*a dict"),
    ):
        with refused(opt, error, match=message):
            opt.params = bad


leaf = st.sampled_from([None, 0.5, np.float32(2.0), np.ones(3), np.ones((2, 0), np.float32)])
trees = st.recursive(
    leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.tuples(inner, inner).map(lambda pair: Lens(*pair))
    ),
    max_leaves=8,
)


@given(trees)
def test_any_tree_steps(tree: Any) -> None:
    params = optree.tree_map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, tree)
    out = Adam(params, lr=0.1).step(tree)
    assert optree.tree_structure(out, none_is_leaf=True) == optree.tree_structure(
        tree, none_is_leaf=True
    )
