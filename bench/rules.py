"""Which rule, which learning rate: every rule on three problems, over a sweep of rates.

- The learning rate falls linearly to 0, but for Rprop and ScheduleFree, which see to that.
- Gradients are divided by the norm of the first, since some rules depend on their scale.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from adam_any import Optimizer, rules
from adam_any.demo import digits

from .harness import Tick

#: Two in a decade: 1, 3, 10, ...
RATES = tuple(float(f"{10 ** (k / 2):.0e}") for k in range(-9, 4))

#: How the rules are made, where the defaults would be another rule or need the number of steps.
OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "SGD": lambda steps: {"momentum": 0.9},
    "AdEMAMix": lambda steps: {"warmup": float(steps)},
    "Rprop": lambda steps: {"limits": (1e-6, 0.01)},
}
CONSTANT = ("Rprop", "ScheduleFree")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something to minimise: the value that a run reaches, and what is good enough."""

    key: str
    title: str
    steps: int
    goal: float
    run: Callable[[Run], float]


@dataclasses.dataclass(frozen=True)
class Run:
    """A rule with a learning rate, on a problem of so many steps."""

    name: str
    rate: float
    steps: int

    def optimizer(self, params: Any) -> Optimizer:
        """The rule over parameters."""

        def falling(count: int) -> float:
            return self.rate * (1 - count / self.steps)

        rule = getattr(rules, self.name)
        lr = self.rate if self.name in CONSTANT else falling
        return Optimizer(
            params, rule(lr=lr, **OPTIONS.get(self.name, lambda steps: {})(self.steps))
        )

    def result(self, opt: Optimizer) -> Any:
        """The parameters to use in the end: for ScheduleFree, the average."""
        if self.name != "ScheduleFree":
            return opt.params
        state, (beta, _) = opt.state_dict()["state"], opt.rule.betas
        return {k: (y - (1 - beta) * state[k]["z"]) / beta for k, y in opt.params.items()}

    def follow(self, start: Any, gradient: Callable[[Any], Any]) -> Any:
        """Where the gradients of one array lead."""
        opt, first = self.optimizer({"x": start}), np.linalg.norm(gradient(start))
        with np.errstate(all="ignore"):
            for _ in range(self.steps):
                opt.step({"x": gradient(opt.params["x"]) / first})
            return self.result(opt)["x"]


def rosenbrock(run: Run) -> float:
    """The value of Rosenbrock's function after a run from (-1.2, 1)."""

    def gradient(p: Any) -> Any:
        x, y = p
        return np.array([2 * (x - 1) - 400 * x * (y - x * x), 200 * (y - x * x)])

    x, y = run.follow(np.array([-1.2, 1.0]), gradient)
    return float((1 - x) ** 2 + 100 * (y - x * x) ** 2)


def quadratic(run: Run) -> float:
    """The value of a quadratic form relative to its first: curvatures 1 to 1000, in directions
    that are not those of the axes.
    """
    random = np.random.default_rng(0)
    turn, _ = np.linalg.qr(random.standard_normal((20, 20)))
    form = turn * np.logspace(0, 3, 20) @ turn.T
    start = turn @ np.ones(20)
    x = run.follow(start.copy(), lambda x: form @ x)
    with np.errstate(all="ignore"):
        return float(x @ form @ x / (start @ form @ start))


def handwritten(run: Run) -> float:
    """The share of test digits that are not recognised, after 30 epochs.

    Rprop is given all images at once: it has no use for gradients with noise.
    """
    data = _digits()
    random = np.random.default_rng(0)
    params = {
        key: np.asarray(x, np.float32)
        for key, x in {
            "hidden.w": random.standard_normal((64, 64)) * (2 / 64) ** 0.5,
            "hidden.b": np.zeros(64),
            "output.w": random.standard_normal((64, 10)) * (2 / 64) ** 0.5,
            "output.b": np.zeros(10),
        }.items()
    }
    opt, count = run.optimizer(params), len(data.train_x)
    size = count if run.name == "Rprop" else 64
    with np.errstate(all="ignore"):
        while True:
            order = random.permutation(count)
            for i in range(0, count - size + 1, size):
                chosen = order[i : i + size]
                x, y = data.train_x[chosen], data.train_y[chosen]
                if size < count:
                    x = x + digits.JITTER * random.standard_normal(x.shape, np.float32)
                _, grads = digits.loss_and_gradients(_nested(opt.params), x, y)
                opt.step({f"{a}.{b}": x for a, layer in grads.items() for b, x in layer.items()})
                if max(opt.steps.values()) == run.steps:
                    last = _nested(run.result(opt))
                    return 1 - digits.accuracy(last, data.test_x, data.test_y)


def _nested(flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    layers = ("hidden", "output")
    return {layer: {kind: flat[f"{layer}.{kind}"] for kind in "wb"} for layer in layers}


def _digits() -> Any:
    data = digits.load_digits()
    return type(data)(*(np.asarray(x, np.float32) for x in data))


PROBLEMS = (
    Problem("rosenbrock", "Rosenbrock", 20_000, 1e-4, rosenbrock),
    Problem("quadratic", "Quadratic", 10_000, 1e-6, quadratic),
    Problem("digits", "Digits", 660, 0.02, handwritten),
)

#: All but those that hold another one.
NAMES = sorted(
    (name for name in rules.__all__ if "rule" not in getattr(rules, name).__dataclass_fields__),
    key=str.lower,
)


def sweep(pairs: Iterable[tuple[Problem, str]], tick: Tick) -> dict[str, Any]:
    """The value that each rule reaches on each problem with each rate; None where it diverges."""
    values: dict[str, dict[str, list[float | None]]] = {}
    with import_module("threadpoolctl").threadpool_limits(1):  # the matrices are small
        for problem, name in pairs:
            tick(f"{problem.title}: {name}")
            reached = [problem.run(Run(name, rate, problem.steps)) for rate in RATES]
            finite = [x if np.isfinite(x) else None for x in reached]
            values.setdefault(problem.key, {})[name] = finite
    date = f"{datetime.date.today()}"
    return {"date": date, "rates": RATES, "values": values}


def save(swept: dict[str, Any], path: Path) -> None:
    """Write a sweep as JSON, a list a line."""
    text = json.dumps(swept, indent=1)
    text = re.sub(r"\[[^]]*\]", lambda found: " ".join(found[0].split()), text)
    path.write_text(text + "\n", "utf-8")


def table(swept: dict[str, Any]) -> str:
    """The table of the docs: for each rule and problem the rates that are good enough, the one in
    their middle, and what that reaches.
    """
    heads = [f"{p.title}, {p.steps:,} steps" for p in PROBLEMS]
    lines = [["rule", *heads], ["---"] * (1 + len(heads))]
    for name in swept["values"][PROBLEMS[0].key]:
        lines.append([name, *(_cell(swept, problem, name) for problem in PROBLEMS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(swept: dict[str, Any], problem: Problem, name: str) -> str:
    reached, rates = swept["values"][problem.key][name], swept["rates"]
    _, best = min((x, i) for i, x in enumerate(reached) if x is not None)
    good = [x is not None and x <= problem.goal for x in reached]
    first = best - len(list(takewhile(bool, reversed(good[:best]))))
    last = best + len(list(takewhile(bool, good[best + 1 :])))
    middle = (first + last) // 2
    x = reached[middle]
    value = f"{100 * (1 - x):.1f} %" if problem.key == "digits" else f"{x:.0e}"
    if not good[best]:
        within = "not good enough"
    else:
        within = f"{rates[first]:g} to {rates[last]:g}" if first < last else "no other"
    return f"**{rates[middle]:g}** ({within}): {value}"


def draw(swept: dict[str, Any], path: Path) -> None:
    """A map for each problem: rules, rates, and how far each came."""
    import matplotlib
    from matplotlib.figure import Figure

    names = list(swept["values"][PROBLEMS[0].key])
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(9, 0.22 * len(names) + 1.5), dpi=110, layout="constrained")
        columns = figure.subplots(1, len(PROBLEMS), sharey=True)
        for axes, problem in zip(columns, PROBLEMS, strict=True):
            rows = [swept["values"][problem.key][name] for name in names]
            reached = np.array(rows, float)
            low, high = problem.goal / 1e3, 1.0
            if problem.key == "digits":
                low, high = problem.goal / 2, 0.5
            shade = np.log(np.clip(np.nan_to_num(reached, nan=high), low, high))
            axes.imshow(shade, cmap="viridis_r", aspect="auto", vmin=np.log(low), vmax=np.log(high))
            for row, column in np.argwhere(reached <= problem.goal):
                axes.plot(column, row, "o", color="white", markersize=2.5)
            axes.set_title(f"{problem.title}, {problem.steps:,} steps")
            axes.set_xticks(range(len(swept["rates"])), [f"{x:g}" for x in swept["rates"]])
            axes.tick_params(axis="x", rotation=90, length=0)
            axes.tick_params(axis="y", length=0)
            axes.set_yticks(range(len(names)), names)
            axes.set_xlabel("learning rate")
        figure.savefig(path)
