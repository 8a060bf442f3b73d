"""From and to torch.optim: a run that began there goes on here, and the other way round.

- Plain dicts go in and come out, as `state_dict()` of torch.optim.Adam and AdamW makes them and
  `load_state_dict()` takes them. No file is read, so nothing is unpickled.
- Parameters are matched by name, or by position where there are no names and the parameters here
  have positions, as those in a list do and those in a dict do not; shapes must be equal.
- What changes the meaning of the moments (amsgrad, maximize, decoupled) must be equal; what does
  not (lr, betas, eps, weight_decay) is taken over; how torch runs it (foreach, capturable, fused,
  differentiable) is not our affair.
- Moments have the compute dtype here and the parameter's dtype there. Complex ones are complex
  there, and pairs of reals here.
- torch is imported by `to_torch` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..adam import Adam
from ..check import shape_of
from ..coefficients import at
from ..detect import backend, load
from ..dtypes import is_complex
from ..leaf import Leaf
from ..state import state_dict
from ..state.messages import acceptable, same_names
from ..words import few, named
from .torch_groups import (
    HYPERPARAMETERS,
    OPTIONS,
    checked,
    hyperparameters,
    require_equal,
    require_options,
)

#: torch's names of the moments.
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}


def from_torch(
    opt: Adam,
    state: Mapping[str, Any],
    *,
    names: Iterable[str] | None = None,
    decoupled: bool | None = None,
) -> None:
    """Set moments, step counts and hyperparameters to those of a torch optimizer's state dict.

    Parameters
    ----------
    opt : Adam
        The optimizer to set. Its parameters stay; give it those of the torch run.
    state : dict
        What `state_dict()` of a torch.optim.Adam or AdamW returned. Several parameter groups are
        taken as one if their hyperparameters are equal.
    names : iterable of str, optional
        The path here of each parameter there, in its order, such as
        ``[name for name, _ in model.named_parameters()]``. Without them the state's own
        `param_names` are used, and without these the position, unless there is a dict among the
        containers here, whose keys are sorted.
    decoupled : bool, optional
        Whether the weight decay there is AdamW's (True) or Adam's (False). It must be given where
        there is decay and the state does not say it, as those of older versions do not.

    Raises
    ------
    ValueError
        Where the state does not fit; nothing has changed then.

    Notes
    -----
    A parameter that torch has not updated yet starts at zero. Moments of another precision, such as
    the bfloat16 ones of bfloat16 parameters, are converted to the compute dtype. A callable lr
    stays. Everything is copied.
    """
    leaves = _leaves(opt)
    head = state_dict.head(opt.rule, params=False)
    groups = checked(state)
    require_equal(groups)
    head["hyperparameters"] |= hyperparameters(groups[0])
    require_options(head["options"], groups[0], decoupled)
    paths, entries = _paths(opt, groups, names), state["state"]
    homeless = [key for key in entries if key not in paths]
    if homeless:
        raise ValueError(
            f"torch's state has moments of {few(homeless)}, which are no parameters of its "
            "groups; take them out of its 'state' if they are not needed"
        )
    found = {path: _entry(opt, leaves[path], entries.get(key)) for key, path in paths.items()}
    opt.load_state_dict({**head, "state": found})


def to_torch(
    opt: Adam, like: Mapping[str, Any] | None = None, *, names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return the state as a dict that `load_state_dict()` of torch.optim.Adam or AdamW takes.

    Parameters
    ----------
    opt : Adam
        The optimizer.
    like : dict, optional
        What `state_dict()` of the torch optimizer that will load it returns. Its groups and all in
        them that is not ours are kept: foreach, capturable, fused, differentiable, and what a
        scheduler put there. Without it torch sets these to its defaults, since its
        `load_state_dict` replaces whole groups, and must have one group.
    names : iterable of str, optional
        The path here of each parameter there, in its order, such as
        ``[name for name, _ in model.named_parameters()]``; they become its `param_names`. Without
        them those of `like` are used, and without these the position, unless there is a dict among
        the containers here, whose keys are sorted: torch itself looks at the position alone, and
        would give one parameter the moments of another.

    Returns
    -------
    dict
        Tensors are copies, on the parameter's device for torch parameters and on the CPU for
        others, in the compute dtype; torch rounds them to the parameter's dtype when it loads them.
        A callable lr is written as its value at the largest step count.

    Raises
    ------
    ValueError
        Where `names` or `like` do not fit.
    RuntimeError
        After an interrupted step.
    """
    import torch

    leaves = _leaves(opt)
    opt._whole()
    groups = [{"params": list(range(len(leaves)))}] if like is None else checked(like)
    paths = _paths(opt, groups, names)
    rule = at(opt.rule)(max(opt.steps.values(), default=0))
    settings = {
        **{name: getattr(rule, name) for name in HYPERPARAMETERS},
        **{theirs: getattr(opt.rule, name) for name, theirs in OPTIONS.items()},
    }
    state = {}
    for key, path in paths.items():
        leaf = leaves[path]
        if leaf.steps:  # torch has no state for what it has not updated
            # As torch counts, in float32, while that is exact.
            dtype = torch.float32 if leaf.steps <= 2**24 else torch.float64
            moments = zip(opt.rule.moments, leaf.moments, strict=True)
            state[key] = {
                "step": torch.tensor(float(leaf.steps), dtype=dtype),
                **{MOMENTS[name]: _tensor(leaf, moment) for name, moment in moments},
            }
    return {
        "state": state,
        "param_groups": [
            {**group, **settings, "param_names": [paths[key] for key in group["params"]]}
            for group in groups
        ],
    }


def _leaves(opt: Adam) -> dict[str, Leaf]:
    if not isinstance(opt, Adam):
        raise TypeError(f"opt is {opt!r}; torch's Adam needs an adam_any.Adam or AdamW")
    return {leaf.path: leaf for leaf in opt._contents.leaves}


def _paths(
    opt: Adam, groups: Sequence[Mapping[str, Any]], names: Iterable[str] | None
) -> dict[Any, str]:
    """The path here of each of torch's parameters, by its key there."""
    keys, leaves = [key for group in groups for key in group["params"]], list(opt.steps)
    if names is None and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    if names is None and len(leaves) > 1 and not opt._tree.ordered:
        raise ValueError(
            "torch's parameters have positions and no names, and those here are in a dict, whose "
            "keys are sorted: pass names=[name for name, _ in model.named_parameters()], or "
            "names=list(opt.steps) if torch has them in that order"
        )
    paths = leaves if names is None else list(names)
    if len(paths) != len(keys) or len(keys) != len(leaves):
        raise ValueError(
            f"torch's state has {len(keys)} parameters and {len(paths)} names, this optimizer "
            f"{len(leaves)} leaves; there must be as many"
        )
    where = "the names of torch's parameters (names=list(opt.steps) matches by position)"
    same_names(where, dict.fromkeys(paths), leaves)
    return dict(zip(keys, paths, strict=True))


def _entry(opt: Adam, leaf: Leaf, entry: Any) -> dict[str, Any]:
    """The state of one leaf, in this package's form."""
    moments = opt.rule.moments
    if entry is None:
        compute = leaf.backend.compute
        return {"step": 0, **{name: leaf.library.zeros(leaf.array, compute) for name in moments}}
    same_names(
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
    acceptable(leaf.path, library, x, name)
    xp = library.namespace(x)
    return library.whole(x, xp.astype(library.reals(x), getattr(xp, leaf.backend.compute)))


def _tensor(leaf: Leaf, moment: Any) -> Any:
    """A moment as a tensor of its own."""
    import torch

    if leaf.backend.library in ("torch", "dtensor"):
        x = leaf.library.copy(moment)
    else:
        x = torch.tensor(leaf.library.to_host(moment))
    x = torch.view_as_complex(x.contiguous()) if leaf.dtype.complex else x
    return leaf.library.whole(leaf.array, x)
