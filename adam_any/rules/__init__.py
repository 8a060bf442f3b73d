"""The mathematics: one rule a file, and nothing else."""

from .adabelief import AdaBelief
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam
from .adamax import Adamax
from .adan import Adan
from .ademamix import AdEMAMix
from .adopt import ADOPT
from .laprop import LaProp
from .lion import Lion
from .nadam import NAdam
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .schedule_free import ScheduleFree
from .sgd import SGD
from .yogi import Yogi

__all__ = [
    "ADOPT",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Adan",
    "LaProp",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFree",
    "Yogi",
]
