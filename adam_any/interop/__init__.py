"""Bridges to other libraries' optimizers and gradients; each is imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autodiff import value_and_grad
    from .optax import optax_transformation
    from .scipy import scipy_method
    from .torch import from_torch, to_torch
    from .torch_face import torch_optimizer

__all__ = [
    "from_torch",
    "optax_transformation",
    "scipy_method",
    "to_torch",
    "torch_optimizer",
    "value_and_grad",
]

_HOMES = {
    "from_torch": "torch",
    "optax_transformation": "optax",
    "scipy_method": "scipy",
    "to_torch": "torch",
    "torch_optimizer": "torch_face",
    "value_and_grad": "autodiff",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
