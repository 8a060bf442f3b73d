"""Bridges to other libraries' optimizers and gradients."""

from .optax import optax_transformation
from .torch import from_torch, to_torch

__all__ = ["from_torch", "optax_transformation", "to_torch"]
