"""From and to torch.optim: a run that began there goes on here, and the other way round.

- Plain dicts go in and come out, as `state_dict()` of torch.optim.Adam and AdamW makes them and
  `load_state_dict()` takes them. No file is read, so nothing is unpickled.
- Parameters are matched by name, or by position where there are no names; shapes must be equal.
- What changes the meaning of the moments (amsgrad, maximize, decoupled) must be equal; what does
  not (lr, betas, eps, weight_decay) is taken over; how torch runs it (foreach, capturable, fused,
  differentiable) is ignored.
- Moments have the compute dtype here and the parameter's dtype there. Complex ones are complex
  there, and pairs of reals here.
- torch is imported by `to_torch` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import rule as rules
from ..adam import Adam
from ..check import shape_of
from ..detect import backend, load
from ..dtypes import is_complex
from ..leaf import Leaf
from ..state import state_dict
from ..words import named

#: torch's names of the moments.
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}

#: torch's names of the options that must be equal. Older versions do not save the last.
OPTIONS = {
    "amsgrad": "amsgrad",
    "maximize": "maximize",
    "decoupled": "decoupled_weight_decay",
}

HYPERPARAMETERS = ("lr", "betas", "eps", "weight_decay")

#: Choices of how torch runs a step, which do not change its result.
FLAGS = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}


def from_torch(opt: Adam, state: Mapping[str, Any], *, names: Iterable[str] | None = None) -> None:
    """Set moments, step counts and hyperparameters to those of a torch optimizer's state dict.

    opt : the optimizer to set. Its parameters are not touched; give it those of the torch run.
    state : what `state_dict()` of a torch.optim.Adam or AdamW returned. Several parameter groups
        are taken as one if their hyperparameters are equal.
    names : the path here of each parameter there, in its order, such as
        `[name for name, _ in model.named_parameters()]`. Without them the state's own
        `param_names` are used, and without these the position: the order of `opt.steps`, in which
        the keys of a dict are sorted.

    A parameter that torch has not updated yet starts at zero. Moments of another precision, such as
    the bfloat16 ones of bfloat16 parameters, are converted to the compute dtype. A callable lr
    stays. Everything is copied, and nothing has changed when an error is raised.

    Raises ValueError where the state does not fit.
    """
    leaves = _leaves(opt)
    head = state_dict.head(opt.rule)
    groups = _groups(state)
    _require_equal(groups)
    for name, theirs in OPTIONS.items():
        if groups[0].get(theirs, head["options"][name]) != head["options"][name]:
            raise ValueError(
                f"{theirs} is {groups[0][theirs]!r} in torch's state, but {name} is "
                f"{head['options'][name]!r} here; make an optimizer with the same options"
            )
    head["hyperparameters"] = _hyperparameters(groups[0])
    keys = [key for group in groups for key in group["params"]]
    entries = state["state"]
    found = {
        path: _entry(opt, leaves[path], entries.get(key))
        for key, path in zip(keys, _paths(groups, keys, leaves, names), strict=True)
    }
    opt.load_state_dict({**head, "state": found})


def to_torch(opt: Adam) -> dict[str, Any]:
    """The state as a dict that `load_state_dict()` of torch.optim.Adam or AdamW takes.

    Parameters are numbered in the order of `opt.steps`, which are their `param_names`; the torch
    optimizer must be made with its parameters in that order. Tensors are copies, on the parameter's
    device for torch parameters and on the CPU for others, in the compute dtype; torch rounds them
    to the parameter's dtype when it loads them. A callable lr is written as its value at the
    largest step count.

    Raises RuntimeError after an interrupted step.
    """
    import torch

    leaves = list(_leaves(opt).values())
    opt._whole()
    rule = rules.at(opt.rule)(max(opt.steps.values(), default=0))
    settings = {name: getattr(rule, name) for name in HYPERPARAMETERS}
    group = {
        **settings,
        **{theirs: getattr(opt.rule, name) for name, theirs in OPTIONS.items()},
        **FLAGS,
        "params": list(range(len(leaves))),
        "param_names": [leaf.path for leaf in leaves],
    }
    state = {}
    for key, leaf in enumerate(leaves):
        if leaf.steps:  # torch has no state for what it has not updated
            # As torch counts, in float32, while that is exact.
            dtype = torch.float32 if leaf.steps <= 2**24 else torch.float64
            moments = zip(opt.rule.moments, leaf.moments, strict=True)
            state[key] = {
                "step": torch.tensor(float(leaf.steps), dtype=dtype),
                **{MOMENTS[name]: _tensor(leaf, moment) for name, moment in moments},
            }
    return {"state": state, "param_groups": [group]}


def _leaves(opt: Adam) -> dict[str, Leaf]:
    if not isinstance(opt, Adam):
        raise TypeError(f"opt is {opt!r}; torch's Adam needs an adam_any.Adam or AdamW")
    return {leaf.path: leaf for leaf in opt._contents.leaves}


def _groups(state: Any) -> list[Mapping[str, Any]]:
    """The parameter groups of a state dict, if it is one."""
    if not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        raise ValueError(
            "not a torch.optim state_dict; pass what state_dict() of the torch optimizer returned"
        )
    groups = state.get("param_groups")
    needed = {"params", "amsgrad", *HYPERPARAMETERS}
    if not isinstance(groups, Sequence) or not groups:
        raise ValueError("torch's state has no param_groups")
    for group in groups:
        if not isinstance(group, Mapping) or not needed <= group.keys():
            raise ValueError(
                f"a parameter group of torch's state lacks one of {sorted(needed)}; "
                "it must be that of torch.optim.Adam or AdamW"
            )
    return list(groups)


def _hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a group, as Python floats; torch allows tensors."""
    try:
        betas = tuple(float(beta) for beta in group["betas"])
        return {name: betas if name == "betas" else float(group[name]) for name in HYPERPARAMETERS}
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"a hyperparameter of torch's state is not a number: {error}") from None


def _require_equal(groups: Sequence[Mapping[str, Any]]) -> None:
    def settings(group: Mapping[str, Any]) -> dict[str, Any]:
        options = {theirs: group.get(theirs) for theirs in OPTIONS.values()}
        return {**_hyperparameters(group), **options}

    for group in groups[1:]:
        for name, value in settings(group).items():
            first = settings(groups[0])[name]
            if value != first:
                raise ValueError(
                    f"{name} is {first!r} in one parameter group and {value!r} in another; use "
                    "several optimizers, one for each group"
                )


def _paths(
    groups: Sequence[Mapping[str, Any]],
    keys: Sequence[Any],
    leaves: Mapping[str, Leaf],
    names: Iterable[str] | None,
) -> list[str]:
    """The path here of each of torch's parameters."""
    if names is None and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    paths = list(leaves) if names is None else list(names)
    if len(paths) != len(keys) or len(keys) != len(leaves):
        raise ValueError(
            f"torch's state has {len(keys)} parameters and {len(paths)} names, this optimizer "
            f"{len(leaves)} leaves; there must be as many"
        )
    where = "the names of torch's parameters (names=list(opt.steps) matches by position)"
    state_dict.same_names(where, dict.fromkeys(paths), list(leaves))
    return paths


def _entry(opt: Adam, leaf: Leaf, entry: Any) -> dict[str, Any]:
    """The state of one leaf, in this package's form."""
    moments = opt.rule.moments
    if entry is None:
        compute = leaf.backend.compute
        return {"step": 0, **{name: leaf.library.zeros(leaf.array, compute) for name in moments}}
    state_dict.same_names(
        f"torch's state of {named(leaf.path)}",
        entry,
        ["step", *(MOMENTS[name] for name in moments)],
    )
    converted = {name: _moment(leaf, MOMENTS[name], entry[MOMENTS[name]]) for name in moments}
    return {"step": entry["step"], **converted}


def _moment(leaf: Leaf, name: str, x: Any) -> Any:
    """A moment of torch's as real numbers of the compute dtype, in its own library."""
    facts = backend(x)
    floating = facts is not None and facts.dtype.startswith(("float", "bfloat", "complex"))
    if facts is None or not floating or is_complex(x) != leaf.dtype.complex:
        have = type(x).__name__ if facts is None else facts.dtype
        kind = "complex" if leaf.dtype.complex else "real floating-point"
        raise ValueError(f"{named(leaf.path)}: {name} is {have}; it must be {kind} numbers")
    if shape_of(x) != leaf.shape:
        raise ValueError(
            f"{named(leaf.path)}: {name} has shape {shape_of(x)}, its parameter here {leaf.shape}; "
            "the order may differ: pass names"
        )
    library = load(facts.library)
    xp = library.namespace(x)
    return xp.astype(library.reals(x), getattr(xp, leaf.backend.compute))


def _tensor(leaf: Leaf, moment: Any) -> Any:
    """A moment as a tensor of its own."""
    import torch

    if leaf.backend.library == "torch":
        x = leaf.library.copy(moment)
    else:
        x = torch.tensor(leaf.library.to_host(moment))
    return torch.view_as_complex(x.contiguous()) if leaf.dtype.complex else x
