"""A rule as a class of torch.optim, so that a torch program can take one from here.

torch owns the parameters, their gradients and the groups; this package steps each group in place.
The state of a parameter holds the moments themselves, under torch's names where it has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import rule as rules
from ..optimizer import Optimizer
from ..rule import held, innermost
from ..words import few
from .torch import MOMENTS

#: torch's ways to run a step; here there is one.
FLAGS = ("foreach", "capturable", "differentiable", "fused")

#: What torch's classes call otherwise than the rules here.
NAMES = {
    "decoupled_weight_decay": "decoupled",
    "initial_accumulator_value": "initial",
    "step_sizes": "limits",
}


def torch_optimizer(rule: Any = None) -> Any:
    """Return a class of `torch.optim.Optimizer` that steps by a rule.

    Parameters
    ----------
    rule : rule, optional
        A rule, or a wrapper of one, without arrays; `rules.Adam()` unless given.

    Returns
    -------
    type
        It is made as torch's classes are: of parameters, named parameters or groups, and of the
        rule's numbers by name, or by torch's name of them. Groups, closures, hooks, `state_dict`,
        schedulers and `GradScaler` are torch's own. Numbers in a group may be tensors of one
        element, which are read at each step. torch's flags `foreach`, `fused`, `capturable` and
        `differentiable` are refused where they are True.

    Raises
    ------
    TypeError, ValueError
        As `Optimizer`, when the class is instantiated or in the first step.

    Examples
    --------
    >>> import torch
    >>> from adam_any import interop, rules
    >>> model = torch.nn.Linear(2, 1)
    >>> opt = interop.torch_optimizer(rules.Adam(amsgrad=True))(model.parameters(), lr=0.05)
    >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    """
    import torch

    from ..rules import Adam

    base = rules.validated(Adam() if rule is None else rule)
    names = rules.fields(innermost(base))

    class Face(torch.optim.Optimizer):
        """A rule of adam_any."""

        def __init__(self, params: Any, **given: Any) -> None:
            for flag in FLAGS:
                if given.pop(flag, None):
                    raise ValueError(f"{flag}=True is torch's way to run a step; leave it out")
            given = _ours(given, names)
            unknown = [name for name in given if name not in names]
            if unknown:
                raise TypeError(
                    f"{few(unknown)} are not among the numbers and options of the rule: "
                    f"{few(list(names))}"
                )
            self._mine: dict[int, Optimizer] = {}
            defaults = {**names, **given}
            rules.validated(_with(base, defaults))
            super().__init__(params, defaults)

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            group = _ours(param_group, names)
            rules.validated(_with(base, {**self.defaults, **_known(group, names)}))
            super().add_param_group(group)

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            self._mine = {}  # made anew, of what the state is now

        def __getstate__(self) -> dict[str, Any]:
            return {**super().__getstate__()}

        def __reduce__(self) -> Any:
            return _rebuilt, (base,), self.__getstate__()

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            """Update the parameters once; the closure, if there is one, computes the gradients."""
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for index, group in enumerate(self.param_groups):
                if any(p.grad is not None for p in group["params"]):
                    self._step(index, group)
            return loss

        def _step(self, index: int, group: dict[str, Any]) -> None:
            params = group["params"]
            now = _with(base, _known(group, names))
            opt = self._mine.get(index)
            if opt is None:
                opt = Optimizer(list(params), now)
                opt._contents = opt._contents.with_state(
                    (leaf, *_loaded(leaf, now, self.state.get(params[leaf.index]) or {}))
                    for leaf in opt._contents.leaves
                )
                self._mine[index] = opt
            elif opt.rule != now:
                opt.rule = now
            opt.step([p.grad for p in params])
            for leaf in opt._settled().leaves:
                p = params[leaf.index]
                if p.grad is not None:
                    self.state[p] = _shown(leaf, now)

    Face.__name__ = Face.__qualname__ = type(innermost(base)).__name__
    return Face


def _rebuilt(rule: Any) -> Any:
    cls = torch_optimizer(rule)
    return cls.__new__(cls)


def _ours(given: dict[str, Any], names: Any) -> dict[str, Any]:
    """Arguments by the rule's own names."""
    return {NAMES[x] if NAMES.get(x) in names else x: value for x, value in given.items()}


def _known(group: Any, names: Any) -> dict[str, Any]:
    return {name: group[name] for name in names if name in group}


def _with(rule: Any, values: dict[str, Any]) -> Any:
    """The rule with a group's numbers in the innermost one."""
    inner = held(rule)
    if inner is not None:
        return rules.replaced(rule, {"rule": _with(inner, values)})
    return rules.replaced(rule, {name: _plain(x) for name, x in values.items()})


def _plain(x: Any) -> Any:
    if isinstance(x, tuple | list):
        return tuple(map(_plain, x))
    return x.item() if getattr(x, "shape", None) in ((), (1,)) else x  # the rest is refused


def _shown(leaf: Any, rule: Any) -> dict[str, Any]:
    """The state of a leaf as torch shows it: the moments themselves, not copies."""
    import torch

    library, moments = leaf.library, {}
    for name, x in zip(rule.moments, leaf.moments, strict=True):
        x = library.paired(x) if leaf.dtype.complex else x
        moments[MOMENTS.get(name, name)] = library.whole(leaf.array, x)
    return {"step": torch.tensor(float(leaf.steps)), **moments}


def _loaded(leaf: Any, rule: Any, state: dict[str, Any]) -> tuple[int, tuple[Any, ...]]:
    """Count and moments of a leaf, from what torch has."""
    if not state:
        return leaf.steps, leaf.moments
    found = []
    for name, like in zip(rule.moments, leaf.moments, strict=True):
        x = state[MOMENTS.get(name, name)]
        found.append(like.copy_(leaf.library.reals(leaf.library.beside(leaf.array, x))))
    return int(state["step"]), tuple(found)
