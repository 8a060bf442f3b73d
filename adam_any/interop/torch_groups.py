"""The parameter groups in the state of a torch optimizer: what they say, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: torch's names of the options that must be equal.
OPTIONS = {
    "amsgrad": "amsgrad",
    "maximize": "maximize",
    "decoupled": "decoupled_weight_decay",
}

HYPERPARAMETERS = ("lr", "betas", "eps", "weight_decay")


def checked(state: Any) -> list[Mapping[str, Any]]:
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


def hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a group, as Python floats; torch allows tensors."""
    try:
        betas = tuple(float(beta) for beta in group["betas"])
        return {name: betas if name == "betas" else float(group[name]) for name in HYPERPARAMETERS}
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"a hyperparameter of torch's state is not a number: {error}") from None


def require_equal(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError unless all groups have the same numbers and options."""

    def settings(group: Mapping[str, Any]) -> dict[str, Any]:
        options = {theirs: group.get(theirs) for theirs in OPTIONS.values()}
        return {**hyperparameters(group), **options}

    for group in groups[1:]:
        for name, value in settings(group).items():
            first = settings(groups[0])[name]
            if value != first:
                raise ValueError(
                    f"{name} is {first!r} in one parameter group and {value!r} in another; use "
                    "several optimizers, one for each group"
                )


def require_options(
    mine: Mapping[str, Any], group: Mapping[str, Any], decoupled: bool | None
) -> None:
    """Raise ValueError unless what a group says of the options, as far as it matters, is `mine`."""
    said = group.get("decoupled_weight_decay", decoupled)
    if said is None and float(group["weight_decay"]):
        raise ValueError(
            f"torch's state has a weight_decay of {group['weight_decay']!r}, and does not say "
            "whether it is decoupled: pass decoupled=True if it is of torch.optim.AdamW, "
            "decoupled=False if it is of torch.optim.Adam"
        )
    if decoupled not in (None, said):
        raise ValueError(f"decoupled_weight_decay is {said!r} in torch's state; pass that")
    given = {
        "amsgrad": group["amsgrad"],
        "maximize": group.get("maximize", False),  # which the first versions had not
        "decoupled": mine["decoupled"] if said is None else said,
    }
    for name, theirs in OPTIONS.items():
        if given[name] != mine[name]:
            raise ValueError(
                f"{theirs} is {given[name]!r} in torch's state, but {name} is {mine[name]!r} "
                "here; make an optimizer with the same options"
            )
