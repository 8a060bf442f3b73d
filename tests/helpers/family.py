"""The rules, one row each: options to try, the oracle, and how to ask a peer for the same.

A new rule is a file in `adam_any/rules`, an oracle, and a row here; every test of the family then
runs over it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adam_any import rules

from . import oracle, oracles

L2 = {"weight_decay": 0.1}
UP = {"maximize": True}


def falling(count: Any) -> Any:
    return 0.05 / (1 + count)


#: An option that the learning rate has in every rule.
SCHEDULE = {"lr": falling}


@dataclass(frozen=True)
class Row:
    """One rule."""

    rule: Any
    oracle: Callable[..., Any]
    #: Options to try besides the defaults and a schedule; together they have every field.
    options: tuple[dict[str, Any], ...]
    #: "torch" or "optax", and its optimizer with the same options.
    peer: tuple[str, Callable[..., Any]] | None = None
    #: Options of the oracle that give the peer's formula, where it is not the paper's.
    theirs: Mapping[str, Any] = field(default_factory=dict)
    #: Options in which the peer is compared.
    shared: tuple[str, ...] = ()
    lr: float = 0.05

    @property
    def name(self) -> str:
        return str(self.rule.__name__)

    @property
    def cases(self) -> tuple[dict[str, Any], ...]:
        """Each way to make the rule; all at once is the last."""
        everything = {k: v for options in self.options for k, v in options.items()}
        return {}, SCHEDULE, *self.options, everything

    def made(self, options: Mapping[str, Any]) -> Any:
        return self.rule(**{"lr": self.lr, **options})

    def path(self, start: Any, grads: Any, options: Mapping[str, Any]) -> Any:
        """The oracle's parameter before the first step and after each."""
        return oracles.run(self.oracle, start, grads, **{**self._fixed(), **options})

    def given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The learning rate and all that a peer has, too."""
        rule = self.made(options)
        return {name: getattr(rule, name) for name in ("lr", *self.shared)}

    def _fixed(self) -> dict[str, Any]:
        """The learning rate, and a decay that is decoupled without an option to say so."""
        always = isinstance(vars(self.rule).get("decoupled"), bool)
        return {"lr": self.lr, "decoupled": always and self.rule.decoupled}


class AdamRow(Row):
    """Adam, whose oracle other tests have too."""

    def path(self, start: Any, grads: Any, options: Mapping[str, Any]) -> Any:
        states = oracle.run(start, grads, **{"lr": self.lr, **options})
        return np.array([state.p for state in states])


def torch(name: str, **names: str) -> tuple[str, Callable[..., Any]]:
    """An optimizer of torch.optim; `names` are its names of options that have others here."""

    def make(params: Any, **options: Any) -> Any:
        optimizer = getattr(importlib.import_module("torch.optim"), name)
        return optimizer(params, **{names.get(k, k): v for k, v in options.items()})

    return "torch", make


def optax(name: str, **fixed: Any) -> tuple[str, Callable[..., Any]]:
    """A transformation of optax; betas are b1, b2 and so on there."""

    def make(lr: float, betas: tuple[float, ...], **options: Any) -> Any:
        module = importlib.import_module("optax")
        function = getattr(module, name, None) or getattr(module.contrib, name)
        numbered = {f"b{i}": beta for i, beta in enumerate(betas, start=1)}
        return function(lr, **numbered, **options, **fixed)

    return "optax", make


def _yogi(lr: float, betas: tuple[float, ...], eps: float) -> Any:
    """optax.yogi, but for its first moment, which starts at 1e-6 there."""
    import optax
    from jax import tree

    given = optax.scale_by_yogi(*betas, eps)

    def init(params: Any) -> Any:
        state = given.init(params)
        return state._replace(mu=tree.map(lambda x: 0 * x, state.mu))

    return optax.chain(optax.GradientTransformation(init, given.update), optax.scale(-lr))


FAMILY = (
    AdamRow(
        *(rules.Adam, oracle.step),
        (
            {"betas": (0.4, 0.3)},
            {"betas": (0.0, 0.9), "eps": 0.1},
            {"amsgrad": True},
            {"eps_hat": True},
            L2,
            {**L2, "decoupled": True},
            {**L2, "decoupled": True, "lr_max": 0.2},
            UP,
        ),
        torch("Adam", decoupled="decoupled_weight_decay"),
        shared=("betas", "eps", "amsgrad", "weight_decay", "maximize"),
    ),
    Row(
        *(rules.AdaBelief, oracles.adabelief),
        ({"betas": (0.4, 0.3)}, {"eps": 1e-3}, L2, {**L2, "decoupled": True}, UP),
        optax("adabelief"),
        shared=("betas",),
    ),
    Row(
        *(rules.Adadelta, oracles.adadelta),
        ({"rho": 0.4}, {"eps": 1e-3}, L2, UP),
        torch("Adadelta"),
        shared=("rho", "eps", "weight_decay", "maximize"),
    ),
    Row(
        *(rules.Adagrad, oracles.adagrad),
        ({"lr_decay": 0.1}, {"initial": 0.1}, {"eps": 1e-3}, L2, UP),
        torch("Adagrad", initial="initial_accumulator_value"),
        shared=("lr_decay", "initial", "eps", "weight_decay", "maximize"),
    ),
    Row(
        *(rules.Adamax, oracles.adamax),
        ({"betas": (0.4, 0.3)}, {"eps": 1e-3}, L2, UP),
        torch("Adamax"),
        shared=("betas", "eps", "weight_decay", "maximize"),
    ),
    Row(
        *(rules.Adan, oracles.adan),
        ({"betas": (0.4, 0.3, 0.2)}, {"eps": 1e-3}, L2, UP),
        optax("adan", eps_root=0.0),
        theirs={"as_optax": True},
        shared=("betas", "eps", "weight_decay"),
    ),
    Row(
        *(rules.AdEMAMix, oracles.ademamix),
        ({"betas": (0.4, 0.3, 0.7)}, {"alpha": 2.0}, {"warmup": 30.0}, {"eps": 1e-3}, L2, UP),
        optax("ademamix"),
        shared=("betas", "alpha", "eps", "weight_decay"),
    ),
    Row(
        *(rules.ADOPT, oracles.adopt),
        ({"betas": (0.4, 0.3)}, {"eps": 1e-3}, L2, {**L2, "decoupled": True}, UP),
        optax("adopt"),
        shared=("betas", "eps"),
    ),
    Row(
        *(rules.LaProp, oracles.laprop),
        ({"betas": (0.4, 0.3)}, {"eps": 1e-3}, L2, UP),
    ),
    Row(
        *(rules.Lion, oracles.lion),
        ({"betas": (0.4, 0.3)}, L2, UP),
        optax("lion"),
        shared=("betas", "weight_decay"),
    ),
    Row(
        *(rules.NAdam, oracles.nadam),
        (
            {"betas": (0.4, 0.3)},
            {"eps": 1e-3},
            {"momentum_decay": 0.0},
            {"momentum_decay": 0.5},
            L2,
            {**L2, "decoupled": True},
            UP,
        ),
        torch("NAdam", decoupled="decoupled_weight_decay"),
        shared=("betas", "eps", "momentum_decay", "weight_decay", "decoupled", "maximize"),
    ),
    Row(
        *(rules.RAdam, oracles.radam),
        ({"betas": (0.4, 0.3)}, {"eps": 1e-3}, L2, {**L2, "decoupled": True}, UP),
        torch("RAdam", decoupled="decoupled_weight_decay"),
        shared=("betas", "eps", "weight_decay", "decoupled", "maximize"),
    ),
    Row(
        *(rules.RMSprop, oracles.rmsprop),
        (
            {"rho": 0.4},
            {"eps": 1e-3},
            {"momentum": 0.9},
            {"centered": True},
            {"centered": True, "momentum": 0.9},
            L2,
            UP,
        ),
        torch("RMSprop", rho="alpha"),
        shared=("rho", "eps", "momentum", "centered", "weight_decay", "maximize"),
    ),
    Row(
        *(rules.Rprop, oracles.rprop),
        ({"etas": (0.4, 1.5)}, {"limits": (1e-3, 2.0)}, UP),
        torch("Rprop", limits="step_sizes"),
        shared=("etas", "limits", "maximize"),
    ),
    Row(
        *(rules.ScheduleFree, oracles.schedule_free),
        ({"betas": (0.4, 0.3)}, {"eps": 1e-3}, {"warmup": 30.0}, L2, UP),
        optax("schedule_free_adamw"),
        shared=("betas", "eps", "weight_decay"),
    ),
    Row(
        *(rules.SGD, oracles.sgd),
        (
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.3},
            {"momentum": 0.9, "nesterov": True},
            L2,
            UP,
        ),
        torch("SGD"),
        shared=("momentum", "dampening", "nesterov", "weight_decay", "maximize"),
    ),
    Row(
        *(rules.Yogi, oracles.yogi),
        (
            {"betas": (0.4, 0.3)},
            {"eps": 0.1},
            {"initial": 0.1},
            {"corrected": True},
            L2,
            UP,
        ),
        ("optax", _yogi),
        theirs={"corrected": True},
        shared=("betas", "eps"),
    ),
)


def shown(options: Mapping[str, Any]) -> str:
    """The options as the name of a test."""
    names = (k if callable(v) else f"{k}={v}" for k, v in options.items())
    return ", ".join(names) or "defaults"
