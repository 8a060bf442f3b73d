"""Bridges to other libraries' optimizers and gradients."""

from .torch import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
