"""The mathematics: one rule or wrapper a file, and nothing else."""

from .accumulated import Accumulated
from .adam import Adam
from .averaged import Averaged
from .bounded import Bounded
from .cautious import Cautious
from .clipped import Clipped
from .l1 import L1
from .lookahead import Lookahead
from .masked import Masked
from .scaled import Scaled

__all__ = [
    "L1",
    "Accumulated",
    "Adam",
    "Averaged",
    "Bounded",
    "Cautious",
    "Clipped",
    "Lookahead",
    "Masked",
    "Scaled",
]
