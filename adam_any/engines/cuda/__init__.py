"""The CUDA engine: one launch for all leaves of a device and dtype.

`engine` is the engine; `codegen` and `kernel.cu` make the text of a kernel, `compiler` its machine
code, and `device` launches it.
"""

from .engine import Plan, key, refusal, summary

__all__ = ["Plan", "key", "refusal", "summary"]
