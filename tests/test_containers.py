"""What may stand for what in a tree, which trees are refused, and what large and deep ones cost."""

from __future__ import annotations

import collections
import dataclasses
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from adam_any import Adam, functional
from tests.helpers.bits import snapshot
from tests.helpers.libraries import Lib


def one() -> Any:
    return np.ones(2)


# One container for another -----------------------------------------------------------------------

MIXED = {"a": [one(), (one(), {"x": one(), "y": one()})], "b": {"c": one()}}

ALIKE: dict[str, Any] = {
    "tuple for list": {**MIXED, "a": tuple(MIXED["a"])},
    "list for tuple": {**MIXED, "a": [one(), [one(), {"x": one(), "y": one()}]]},
    "OrderedDict": collections.OrderedDict(b={"c": one()}, a=MIXED["a"]),
    "defaultdict": collections.defaultdict(list, MIXED),
    "dict in another order": {"b": {"c": one()}, "a": MIXED["a"]},
    "a class of one's own": type("Named", (dict,), {})(MIXED),
    "inside": {**MIXED, "b": collections.OrderedDict(c=one())},
}


@pytest.mark.parametrize("grads", ALIKE.values(), ids=ALIKE)
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_gradients_in_containers_of_another_kind(grads: Any, kind: Any) -> None:
    params = kind({"a": [one(), (one(), {"x": one(), "y": one()})], "b": {"c": one()}})
    state = functional.init(params)
    new, after = functional.step(params, grads, state)
    opt = Adam(params, lr=0.1)
    for _ in range(3):
        out = opt.step(grads)
    assert type(out) is kind is type(new) is type(after.step)
    assert type(out["a"]) is list and type(out["a"][1]) is tuple
    assert set(opt.steps.values()) == {3}
    opt.params = grads
    assert type(opt.params) is kind


def test_each_gradient_goes_to_its_own_leaf() -> None:
    opt = Adam({"x": 1.0, "y": 1.0}, lr=0.1)
    out = opt.step(collections.OrderedDict(y=1.0, x=-1.0))
    assert (out["x"], out["y"]) == (pytest.approx(1.1), pytest.approx(0.9))


def test_a_missing_key_is_not_made() -> None:
    grads = collections.defaultdict(one, x=one())
    with pytest.raises(ValueError, match=r"missing \['y'\]"):
        Adam({"x": one(), "y": one()}).step(grads)
    assert list(grads) == ["x"]


# One number for another --------------------------------------------------------------------------

NUMBERS = [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array(2.0), np.array(2, "f4")]


@pytest.mark.parametrize(
    "g", NUMBERS, ids=lambda g: f"{type(g).__name__} {getattr(g, 'dtype', '')}"
)
def test_any_real_number_is_a_gradient_of_a_python_float(g: Any) -> None:
    opt, state = Adam([1.0], lr=0.1, nonfinite="raise"), functional.init([1.0])
    want = Adam([1.0], lr=0.1).step([2.0])
    assert opt.step([g]) == want == functional.step([1.0], [g], state, lr=0.1)[0]
    assert type(want[0]) is float


def test_a_0d_array_is_a_gradient_of_a_python_float(lib: Lib) -> None:
    if lib.device == "emulated":
        pytest.skip("a float of an emulated array needs a GPU")
    g = lib.array(2.0, "float32")
    opt = Adam({"p": 1.0}, lr=0.1)
    assert opt.step({"p": g})["p"] == pytest.approx(0.9)
    if lib.name == "torch":
        assert opt.step({"p": g.requires_grad_()})["p"] == pytest.approx(0.8)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("g", [2.0, 2, np.float64(2)], ids=repr)
def test_a_python_number_is_a_gradient_of_a_numpy_scalar(kind: Any, g: Any) -> None:
    opt, want = Adam({"p": kind(1)}, lr=0.1), Adam({"p": kind(1)}, lr=0.1).step({"p": kind(2)})
    out = opt.step({"p": g})
    assert out == want and type(out["p"]) is kind
    assert (
        functional.step({"p": kind(1)}, {"p": g}, functional.init({"p": kind(1)}), lr=0.1)[0] == out
    )


@pytest.mark.parametrize(
    ("p", "g", "error"),
    [
        (1.0, True, TypeError),
        (1.0, 1j, TypeError),
        (1.0, "1", TypeError),
        (1.0, np.array(True), TypeError),
        (1.0, np.array(1j), TypeError),
        (1.0, np.ones(1), TypeError),
        (1.0, 10**400, ValueError),
        (np.float32(1), 10**400, ValueError),
        (np.float32(1), True, TypeError),
        (np.complex64(1), 1.0, TypeError),
        (np.ones(()), 1.0, TypeError),
        (np.ones(1), 1.0, TypeError),
    ],
    ids=repr,
)
def test_what_is_not_one_real_number_is_still_refused(p: Any, g: Any, error: Any) -> None:
    opt = Adam({"p": p})
    before = snapshot(opt)
    with pytest.raises(error, match=r"^'p': the gradient "):
        opt.step({"p": g})
    assert snapshot(opt) == before


# JAX's containers --------------------------------------------------------------------------------


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax", reason="jax is not installed: pip install jax")


@pytest.fixture
def kinds(jax: Any) -> dict[str, Callable[..., Any]]:
    """Classes registered with JAX in each of its ways; new ones for each test."""
    tree_util = jax.tree_util

    @tree_util.register_dataclass
    @dataclasses.dataclass
    class Dense:
        w: Any
        b: Any
        size: int = dataclasses.field(default=2, metadata={"static": True})

    @tree_util.register_pytree_node_class
    class Plain:
        def __init__(self, w: Any, b: Any) -> None:
            self.w, self.b = w, b

        def tree_flatten(self) -> Any:
            return (self.w, self.b), "static"

        @classmethod
        def tree_unflatten(cls, static: Any, children: Any) -> Any:
            return cls(*children)

    @tree_util.register_pytree_with_keys_class
    class Keyed(Plain):
        def tree_flatten_with_keys(self) -> Any:
            keys = (tree_util.DictKey("w"), tree_util.GetAttrKey("b"))
            return tuple(zip(keys, (self.w, self.b), strict=True)), None

    return {"dataclass": Dense, "plain": Plain, "keyed": Keyed}


@pytest.mark.parametrize("name", ["dataclass", "plain", "keyed"])
def test_jax_containers_are_trees(jax: Any, kinds: Any, name: str) -> None:
    kind = kinds[name]

    def tree(x: float) -> Any:
        leaf = jax.numpy.full(2, x)
        return {"layers": [kind({"k": leaf}, kind(leaf, None)), (leaf, None)], "s": x}

    w, b = ("w", "b") if name != "plain" else ("0", "1")
    opt = Adam(tree(1.0), lr=0.1)
    for _ in range(3):
        out = opt.step(tree(0.5))
    assert list(opt.steps) == [f"layers.0.{w}.k", f"layers.0.{b}.{w}", "layers.1.0", "s"]
    first = out["layers"][0]
    assert type(first) is type(first.b) is kind and first.b.b is None
    assert first.b.w == pytest.approx(0.7) and getattr(first, "size", 2) == 2
    opt.step({"layers": [kind(None, kind(tree(1.0)["s"] * first.b.w, None)), None], "s": None})
    assert list(opt.steps.values()) == [3, 4, 3, 3]
    with pytest.raises(ValueError, match=rf"^'layers.0.{b}': the gradient has a list where"):
        opt.step({"layers": [kind({"k": first.b.w}, [first.b.w]), None], "s": None})


def test_jax_containers_are_trees_for_the_pure_functions(jax: Any, kinds: Any) -> None:
    kind = kinds["dataclass"]
    params = kind(jax.numpy.ones(3), [jax.numpy.zeros(2), None])

    def loss(params: Any) -> Any:
        return (params.w**2).sum() + params.b[0].sum()

    @jax.jit
    def train(params: Any, state: Any) -> Any:
        return functional.step(params, jax.grad(loss)(params), state, lr=0.1)

    state = functional.init(params)
    assert type(state.moments["m"]) is kind
    for _ in range(2):
        params, state = train(params, state)
    assert params.w == pytest.approx(0.8, rel=1e-3) and params.b[0] == pytest.approx(-0.2)
    assert int(state.step.w) == 2 and state.step.b[1] is None


def test_what_jax_does_not_know_is_refused(jax: Any) -> None:
    @dataclasses.dataclass
    class Unknown:
        w: Any

    with pytest.raises(TypeError, match=r"^'m': the parameter is an Unknown, not an array"):
        Adam({"m": Unknown(one())})


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Adam, functional.init])
@pytest.mark.parametrize(
    "groups",
    [
        lambda w: [{"params": [w], "lr": 0.1}],
        lambda w: [{"params": [w]}, {"params": [w], "lr": 0.1}],
        lambda w: ({"params": iter([w])},),
        lambda w: [{"params": {"w": w}, "lr": 0.1}],
        lambda w: [{"params": w}],
    ],
)
def test_parameter_groups_are_refused(make: Any, groups: Any) -> None:
    with pytest.raises(ValueError, match=r"torch's parameter groups; pass .* optimizer for each"):
        make(groups(one()))


def test_variables_of_several_models_are_a_tree() -> None:
    models = [{"params": {"w": one()}}, {"params": {"w": one()}, "batch_stats": {"m": one()}}]
    assert set(Adam(models).steps) == {"0.params.w", "1.params.w", "1.batch_stats.m"}


@pytest.mark.parametrize(
    "lazy", [lambda: (x for x in [one()]), lambda: iter([one()]), lambda: {"w": one()}.values()]
)
def test_a_generator_is_refused(lazy: Any) -> None:
    with pytest.raises(TypeError, match=r"^the parameter is an? \w+, not an array; pass list\("):
        Adam(lazy())
    with pytest.raises(TypeError, match=r"^'a': the parameter is an? .*pass list\("):
        functional.init({"a": lazy()})


def test_torch_modules_and_their_generators_are_told_what_to_do(torch_: Any) -> None:
    model = torch_.nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"is a Linear, .*pass dict\(model.named_parameters\(\)\)"):
        Adam(model)
    with pytest.raises(TypeError, match=r"is a generator, .*pass list\("):
        Adam(model.parameters())
    assert list(Adam(list(model.parameters())).steps) == ["0", "1"]


def test_a_tensor_that_is_no_leaf_of_autograd_is_refused(torch_: Any) -> None:
    base = torch_.ones(3, requires_grad=True)
    for computed in (2 * base, base[:2], base.double()):
        with pytest.raises(ValueError, match=r"^'w': the parameter is not a leaf .*detach\(\)"):
            Adam({"w": computed})
        state = functional.init({"w": computed})  # nothing is written, so nothing is lost
        functional.step({"w": computed}, {"w": computed.detach()}, state)
    for fine in (base, base.detach(), torch_.ones(2), 2 * torch_.ones(2)):
        Adam({"w": fine})


# No gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [one, lambda: {"a": one(), "n": None}, lambda: 1.0])
def test_none_for_the_whole_tree_is_refused(params: Any) -> None:
    opt = Adam(params())
    for _ in range(2):
        before = snapshot(opt)
        with pytest.raises(ValueError, match=r"^the gradient is None .* return it\?"):
            opt.step(None)
        assert snapshot(opt) == before
        opt.step(params())
    with pytest.raises(ValueError, match=r"^the gradient is None"):
        functional.step(params(), None, functional.init(params()))


@pytest.mark.parametrize("grads", [[None, None], [None, [None]]], ids=repr)
def test_none_for_every_leaf_warns_once(grads: Any) -> None:
    for _ in range(2):  # once for each optimizer
        opt = Adam([one(), [one()]])
        opt.step([None, [one()]])
        with pytest.warns(UserWarning, match="every gradient is None, so the step") as caught:
            opt.step(grads)
        assert caught[0].filename == __file__
        opt.step(grads)
        assert opt.steps == {"0": 0, "1.0": 1}
    with pytest.warns(UserWarning, match="every gradient is None") as caught:
        functional.step([one(), [one()]], grads, functional.init([one(), [one()]]))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("empty", [None, [], {"a": None}], ids=repr)
def test_a_tree_without_parameters_has_no_gradients(empty: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Adam(empty).step(empty) == empty


# Deep and large ----------------------------------------------------------------------------------


def nested(depth: int, leaf: Any) -> Any:
    for k in range(depth):
        leaf = [leaf] if k % 2 else {"k": leaf}
    return leaf


@pytest.mark.parametrize("depth", [400, 900])
def test_a_deep_tree_steps(depth: int) -> None:
    opt = Adam(nested(depth, one()), lr=0.1)
    for _ in range(3):
        opt.step(nested(depth, one()))
    assert list(opt.steps.values()) == [3]
    opt.params = nested(depth, one())
    opt.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="has a list where the parameters have one leaf"):
        opt.step(nested(depth, [one()]))
    with pytest.raises(ValueError, match="a float where the parameters have"):
        opt.step(nested(depth - 2, 1.0))
    params = nested(depth, one())
    functional.step(params, params, functional.init(params))


def test_what_is_too_deep_is_refused_at_construction() -> None:
    for make in (Adam, functional.init):
        with pytest.raises(ValueError, match="the parameters are nested more than 1000 deep"):
            make(nested(2000, one()))
    with pytest.raises(ValueError, match=r"^'0': the gradient has a .* one leaf"):
        Adam([one()]).step([nested(2000, one())])


class Key(str):
    """A key that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return str.__eq__(self, str(other))

    __hash__ = str.__hash__


@pytest.mark.parametrize("n", [500, 2000])
def test_a_subtree_that_is_skipped_takes_linear_work(n: int) -> None:
    keys = [Key(i) for i in range(n)]
    opt = Adam({"a": one(), "b": {key: 1.0 for key in keys}})
    grads = {"a": None, "b": {key: 1.0 for key in keys}}
    opt.step({"a": one(), "b": None})
    Key.compared = 0
    opt.step({"a": None, "b": {**grads["b"], keys[0]: None}})
    opt.step({"a": one(), "b": None})
    with pytest.raises(ValueError, match="missing"):
        opt.step({"a": one(), "b": dict.fromkeys(keys[: n // 2], 1.0)})
    assert Key.compared < 10 * n


def seconds(call: Callable[[], Any]) -> float:
    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return min(once() for _ in range(3))


def test_messages_about_large_trees_are_short_and_quick() -> None:
    def twice(n: int) -> None:
        leaves = {str(i): 1.0 for i in range(n)}
        with pytest.raises(ValueError, match="two leaves have this path"):
            Adam({**leaves, n: 1.0, str(n): 1.0})

    def missing(n: int) -> None:
        leaves = {str(i): 1.0 for i in range(n)}
        with pytest.raises(ValueError, match=r"missing \[.*, and [\d,]+ more\]") as error:
            Adam(leaves).step({})
        assert len(str(error.value)) < 300

    for message in (twice, missing):  # eight times as large: 64 times as long if it were quadratic
        small, large = (seconds(partial(message, n)) for n in (1000, 8000))
        assert large < 30 * small
