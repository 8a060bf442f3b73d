"""One Adam, written once against the array API, for the arrays of every library.

To read the package, begin with `rules.adam` (the mathematics) and `rule` (what a rule is), then
`wrapper` and `rules.bounded` (a rule that holds a rule), `engines.eager` (applies the rule
directly), `optimizer` and `contents` (the flow of a step), `short_way` (the flow of a step like the
one before it), `groups` and `operands` (which rule and which arrays belong to a leaf), `detect` and
`libraries` (what an array is), and `engines` (the choice for each leaf). From a rule to one pass
over memory: `engines.kernels.program`, then `table`; on a CPU `engines.cpu.codegen` and `engine`,
on a GPU `engines.cuda.codegen` and `engine`. Sums over leaves are in `sums`, a whole run in `run`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import rules
from .adam import Adam, AdamW
from .optimizer import Optimizer

if TYPE_CHECKING:
    from .run import Stop, minimize

__all__ = [
    "Adam",
    "AdamW",
    "Optimizer",
    "Stop",
    "functional",
    "interop",
    "minimize",
    "rules",
    "run",
    "schedules",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Stop", "minimize"):  # with all that a run needs
        return getattr(import_module(".run", __name__), name)
    if name in __all__:  # a module that is imported when it is first used
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
