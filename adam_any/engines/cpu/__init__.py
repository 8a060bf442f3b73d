"""The CPU engine: one pass over memory, all leaves in one call, on every core.

`engine` is the engine; `codegen` writes a program as Numba source and `compiler` compiles it, or
`tiles` runs it by NumPy; `workers` and `work_queue` share the work between threads.
"""

from .engine import Plan, refusal, summary

__all__ = ["Plan", "refusal", "summary"]
