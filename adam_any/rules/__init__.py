"""The mathematics: one rule a file, and nothing else."""

from .adam import Adam

__all__ = ["Adam"]
