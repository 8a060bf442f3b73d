"""The mathematics: one rule or wrapper a file, and nothing else.

One is imported when it is first asked for: all of them would be a quarter of the time that
importing the package takes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .adam import Adam

if TYPE_CHECKING:
    from .accumulated import Accumulated
    from .adabelief import AdaBelief
    from .adadelta import Adadelta
    from .adagrad import Adagrad
    from .adamax import Adamax
    from .adan import Adan
    from .ademamix import AdEMAMix
    from .adopt import ADOPT
    from .averaged import Averaged
    from .bounded import Bounded
    from .cautious import Cautious
    from .clipped import Clipped
    from .l1 import L1
    from .laprop import LaProp
    from .lion import Lion
    from .lookahead import Lookahead
    from .masked import Masked
    from .nadam import NAdam
    from .radam import RAdam
    from .rmsprop import RMSprop
    from .rprop import Rprop
    from .scaled import Scaled
    from .schedulefree import ScheduleFree
    from .sgd import SGD
    from .yogi import Yogi

__all__ = [
    "ADOPT",
    "L1",
    "SGD",
    "Accumulated",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Adan",
    "Averaged",
    "Bounded",
    "Cautious",
    "Clipped",
    "LaProp",
    "Lion",
    "Lookahead",
    "Masked",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Scaled",
    "ScheduleFree",
    "Yogi",
]


def __getattr__(name: str) -> Any:
    """The rule of a name, from the file that is named after it."""
    if name not in __all__:
        raise AttributeError(f"adam_any.rules has no {name}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{name.lower()}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
