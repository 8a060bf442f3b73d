"""Containers: what a tree may be, and how gradients are matched with parameters."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_any import Adam
from tests.helpers.bits import snapshot


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
    assert list(out) == list(tree) and list(out["a"]) == ["z", "y"]
    for name, container in tree.items():
        assert type(out[name]) is type(container)
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


TREE = {"a": [one(), (one(),)], "b": Lens(one(), None)}

STRUCTURES = {
    "other container": ({"a": (one(), (one(),)), "b": TREE["b"]}, "'a': .*a tuple .*a list"),
    "dict kind": (collections.OrderedDict(TREE), "'': .*an OrderedDict .*a dict"),
    "tuple for namedtuple": ({**TREE, "b": (one(), None)}, "'b': .*a tuple .*a Lens"),
    "missing key": ({"a": TREE["a"]}, r"'': .*missing \['b'\], not known \[\]"),
    "extra key": ({**TREE, "c": one()}, r"'': .*missing \[\], not known \['c'\]"),
    "too short": ({**TREE, "a": [one()]}, r"'a': .*missing \[1\]"),
    "too long": ({**TREE, "a": [*TREE["a"], one()]}, r"'a': .*not known \[2\]"),
    "container for a leaf": ({**TREE, "a": [[one()], (one(),)]}, r"'a.0': .*a list .*one leaf"),
    "leaf for a container": ({**TREE, "a": one()}, "'a': .*a ndarray .*a list"),
    "array for None": ({**TREE, "b": Lens(one(), one())}, "'b.tilt': .*parameter that is None"),
    "bare array": (one(), "'': .*a ndarray .*a dict"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_wrong_structure_is_refused_and_changes_nothing(name: str) -> None:
    bad, message = STRUCTURES[name]
    opt = Adam({"a": [one(), (one(),)], "b": Lens(one(), None)})
    opt.step(TREE)
    before = snapshot(opt)
    with pytest.raises(ValueError, match=message):
        opt.step(bad)
    with pytest.raises(ValueError, match=r"'.*': "):
        opt.params = bad
    assert snapshot(opt) == before


def test_none_skips_a_subtree() -> None:
    opt = Adam({"a": [one(), (one(),)], "b": Lens(one(), None)})
    opt.step({"a": None, "b": Lens(one(), None)})
    opt.step({"a": [None, (one(),)], "b": None})
    opt.step(None)
    assert opt.steps == {"a.0": 0, "a.1.0": 1, "b.focus": 1}
    assert opt.params["a"][0].tolist() == [1, 1]


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
    before = snapshot(opt)
    good = lib.array([1.0, 2.0], "float32")
    for bad, error, message in (
        ({"w": lib.array([1.0, 2.0]), "n": None}, TypeError, "'w': .*float64, but it was float32"),
        ({"w": lib.array([1.0], "float32"), "n": None}, ValueError, "'w': .*has shape"),
        ({"w": None, "n": None}, ValueError, "'w': None must stay None"),
        ({"w": good, "n": good}, ValueError, "'n': None must stay None"),
        ({"w": 1.0, "n": None}, TypeError, "'w': .*belongs to python"),
        (good, ValueError, "'': .*a dict"),
    ):
        with pytest.raises(error, match=message):
            opt.params = bad
    assert snapshot(opt) == before


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


def copied(tree: Any) -> Any:
    import optree

    fresh = lambda x: x.copy() if isinstance(x, np.ndarray) else x  # noqa: E731
    return optree.tree_map(fresh, tree, none_is_leaf=True)


@given(trees)
def test_any_tree_steps(tree: Any) -> None:
    import optree

    out = Adam(copied(tree), lr=0.1).step(tree)
    structure = optree.tree_structure(tree, none_is_leaf=True)
    assert optree.tree_structure(out, none_is_leaf=True) == structure


def nest(**changed: Any) -> Any:
    return {"a": [one(), (one(), Lens(one(), one()))], "b": {"c": one()}, **changed}


WRONG: dict[str, Any] = {
    "another kind of mapping": collections.OrderedDict(nest()),
    "another kind inside": nest(b=collections.OrderedDict(c=one())),
    "a tuple for a list": nest(a=(one(), (one(), Lens(one(), one())))),
    "a list for a tuple": nest(a=[one(), [one(), Lens(one(), one())]]),
    "a tuple for a named one": nest(a=[one(), (one(), (one(), one()))]),
    "a list for a leaf": nest(b={"c": [one()]}),
    "a leaf for a list": nest(a=one()),
    "a key missing": {"a": nest()["a"]},
    "a key too many": nest(d=one()),
    "one too few": nest(a=[one()]),
    "one too many": nest(a=[*nest()["a"], one()]),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_later_step_refuses_what_the_first_does(wrong: Any) -> None:
    fresh, stepped = Adam(nest()), Adam(nest())
    for _ in range(2):
        stepped.step(nest())
    with pytest.raises(ValueError) as first:
        fresh.step(wrong)
    with pytest.raises(ValueError) as later:
        stepped.step(wrong)
    assert str(later.value) == str(first.value)
    assert set(stepped.steps.values()) == {2}


def test_a_later_step_takes_what_the_first_does() -> None:
    opt = Adam(nest())
    for grads in (nest(), nest(a=None), nest(a=[None, (one(), Lens(None, one()))]), nest()):
        opt.step(grads)
    assert list(opt.steps.values()) == [2, 3, 2, 3, 4]
