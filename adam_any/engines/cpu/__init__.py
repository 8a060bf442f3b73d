"""The CPU engine: one pass over memory, all leaves in one call, on every core.

`engine` is the engine; `tiles` runs a program by NumPy, until `payoff` says that compiling pays;
then `codegen` writes it as Numba source, `compiler` compiles it, and `machine_code` keeps the
result; `workers` and `work_queue` share the work between threads; `half_numpy` and `half_numba`
convert half precision.
"""

from .engine import Plan, key, refusal, summary

__all__ = ["Plan", "key", "refusal", "summary"]
