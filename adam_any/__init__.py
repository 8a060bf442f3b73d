"""One Adam, written once against the array API, for the arrays of every library.

To read the package, begin with `rules` (the mathematics), then `engines.eager` (it run as it
stands), `optimizer` (the flow of a step), `detect`, `engines` (which one runs what), `program` (the
rule as a list of operations), `engines.plan` and `engines.cpu` (it run in one pass over memory),
and `engines.cuda` (in one launch).
"""

from .adam import Adam, AdamW
from .optimizer import Optimizer

__all__ = ["Adam", "AdamW", "Optimizer"]
__version__ = "0.1.0"
