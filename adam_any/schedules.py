"""Schedules: numbers that change with the count of the updates that a leaf has already had.

Any number of a rule may be one: `Adam(params, lr=schedules.cosine(1e-3, 0, 10_000))`.

- They are frozen dataclasses: they compare, hash and print as what they are, and a checkpoint holds
  them, by `to_plain` and `from_plain`. Any other callable of the count will do as well, optax's
  among them, but a checkpoint cannot hold it.
- Of an int they give a Python float, computed in float64. Of an array of counts, or of a tracer,
  they give an array, computed by its library (inside of `jax.jit`, say) in its default dtype.
- The formulas are optax's. In float64 they differ by an ulp of the largest value: here the first
  and the last value are exact. `docs/schedules.md` has optax's names and torch's beside them.
- Past its last step a schedule keeps its last value.
"""

# ruff: noqa: N801 (a schedule is written, printed and read like a call: linear(0.1, 0.0, 100))

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from array_api_compat import array_namespace

from .rule import Number
from .words import shown

__all__ = [
    "constant",
    "cosine",
    "exponential",
    "linear",
    "one_cycle",
    "piecewise",
    "restarts",
    "warmup",
]

#: Counts are int32 wherever they are traced, here as in optax.
MOST_STEPS = 2**31 - 1

Check = Callable[[Any], Any]


# What fields may be -------------------------------------------------------------------------------


def _number(value: Any) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            if math.isfinite(number := float(value)):
                return number
        except OverflowError:  # an int or a fraction that is too large for a float
            pass
    raise ValueError("a finite number")


def _above_zero(value: Any) -> float:
    try:
        if (number := _number(value)) > 0:
            return number
    except ValueError:
        pass
    raise ValueError("a finite number above 0")


def _share(value: Any) -> float:
    try:
        if 0 <= (number := _number(value)) < 1:
            return number
    except ValueError:
        pass
    raise ValueError("a number in [0, 1)")


def _steps(value: Any) -> int:
    if (
        isinstance(value, Integral)
        and not isinstance(value, bool)
        and 1 <= (n := int(value)) <= MOST_STEPS
    ):
        return n
    raise ValueError("an int, 1 or more, and below 2**31")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("True or False")


def _number_or_schedule(value: Any) -> Number:
    if callable(value) and not isinstance(value, type):
        return value  # type: ignore[no-any-return]
    try:
        return _number(value)
    except ValueError:
        raise ValueError("a finite number or a schedule") from None


def _tuple(each: Check, what: str, count: int | None = None) -> Check:
    """A check of a tuple, or a list, of several."""

    def check(values: Any) -> tuple[Any, ...]:
        try:
            if isinstance(values, tuple | list) and len(values) == (count or len(values)):
                return tuple(map(each, values))
        except ValueError:
            pass
        raise ValueError(what)

    return check


def _field(check: Check, **default: Any) -> Any:
    return field(metadata={"check": check}, **default)


class _Schedule:
    """The base of all schedules: their fields are checked when one is made."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            try:
                object.__setattr__(self, each.name, each.metadata["check"](value))
            except ValueError as error:
                raise self._mistake(each.name, str(error)) from None

    def _mistake(self, name: str, wanted: str) -> ValueError:
        have = shown(getattr(self, name))
        return ValueError(f"{type(self).__name__}: {name} is {have}; it must be {wanted}")


# The schedules ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class constant(_Schedule):
    """The same number at every count.

    Parameters
    ----------
    value : float
        The number.
    """

    value: float = _field(_number)

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""
        return self.value


@dataclass(frozen=True)
class linear(_Schedule):
    """From `start` to `end` in a straight line.

    Parameters
    ----------
    start, end : float
        The values at 0 and from `steps` on.
    steps : int
        The number of updates from the one to the other.

    Examples
    --------
    >>> rate = linear(1.0, 0.5, steps=10)
    >>> [rate(count) for count in (0, 5, 10, 1000)]
    [1.0, 0.75, 0.5, 0.5]
    """

    start: float = _field(_number)
    end: float = _field(_number)
    steps: int = _field(_steps)

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""
        return _linear(self.start, self.end, count, self.steps)


@dataclass(frozen=True)
class cosine(_Schedule):
    r"""From `start` to `end` along half a wave of the cosine [1]_.

    Parameters
    ----------
    start, end : float
        The values at 0 and from `steps` on.
    steps : int
        The number of updates from the one to the other.

    Notes
    -----
    .. math:: end + (start - end) \, (1 + \cos(\pi \, count / steps)) / 2

    optax says `end` as a share of `start`, ``alpha = end / start``.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: Stochastic gradient descent with warm restarts",
       ICLR 2017, equation 5.
    """

    start: float = _field(_number)
    end: float = _field(_number)
    steps: int = _field(_steps)

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""
        return _cosine(self.start, self.end, count, self.steps)


@dataclass(frozen=True)
class exponential(_Schedule):
    """Multiplied by `rate` in every `steps` updates.

    Parameters
    ----------
    start : float
        The value at 0.
    rate : float
        The factor, above 0.
    steps : int
        The number of updates in which the value is multiplied by `rate` once.
    staircase : bool
        Multiply at once after `steps` updates, instead of a little in each.

    Examples
    --------
    >>> halved = exponential(1.0, 0.5, steps=10, staircase=True)
    >>> [halved(count) for count in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """

    start: float = _field(_number)
    rate: float = _field(_above_zero)
    steps: int = _field(_steps, default=1)
    staircase: bool = _field(_flag, default=False)

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""
        times = count // self.steps if self.staircase else 1.0 * count / self.steps
        return self.start * _power(self.rate, times)


@dataclass(frozen=True)
class piecewise(_Schedule):
    """One value after another, or one schedule after another.

    Parameters
    ----------
    values : tuple of floats or schedules
        Each begins at its boundary, and a schedule counts from there; the first begins at 0.
    boundaries : tuple of ints
        The counts at which the second and further values begin, in rising order.

    Notes
    -----
    This is optax's `join_schedules`, and with numbers its `piecewise_constant_schedule`, which
    says each value as a multiple of the one before.

    Examples
    --------
    >>> rate = piecewise((0.1, linear(0.1, 0.0, 50)), boundaries=(100,))
    >>> [rate(count) for count in (0, 99, 100, 125, 150)]
    [0.1, 0.1, 0.1, 0.05, 0.0]
    """

    values: tuple[Number, ...] = _field(
        _tuple(_number_or_schedule, "a tuple of finite numbers and schedules")
    )
    boundaries: tuple[int, ...] = _field(
        _tuple(_steps, "a tuple of ints in rising order, 1 or more, and below 2**31")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise self._mistake("boundaries", "in rising order")
        if len(self.values) != len(self.boundaries) + 1:
            raise self._mistake("values", f"{len(self.boundaries) + 1}, one more than boundaries")

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""
        return _joined(count, self.values, self.boundaries)


@dataclass(frozen=True)
class warmup(_Schedule):
    """A straight line up to the first value of a schedule, and then that schedule.

    Parameters
    ----------
    before : float or schedule
        What the warm-up comes before. It begins when the warm-up is over, so all of it takes
        `steps` updates more than alone. A number is reached and kept.
    steps : int
        The number of updates of the warm-up.
    start : float
        The value at 0. Where it is 0, as in optax, the first update changes nothing.

    Notes
    -----
    With `cosine` this is optax's `warmup_cosine_decay_schedule`, whose `decay_steps` has the
    warm-up in it, and with a number its `warmup_constant_schedule`.

    Examples
    --------
    >>> rate = warmup(cosine(0.1, 0.0, steps=90), steps=10)
    >>> [rate(count) for count in (0, 5, 10, 100)]
    [0.0, 0.05, 0.1, 0.0]
    """

    before: Number = _field(_number_or_schedule)  # noqa: RUF009 (it is dataclasses.field)
    steps: int = _field(_steps)
    start: float = _field(_number, default=0.0)

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""

        def ramp(count: Any) -> Any:
            return _linear(self.start, _at(self.before, 0), count, self.steps)

        return _joined(count, (ramp, self.before), (self.steps,))


@dataclass(frozen=True)
class one_cycle(_Schedule):
    """Up to a peak and down to almost nothing, along two half waves of the cosine [1]_.

    Parameters
    ----------
    peak : float
        The largest value.
    steps : int
        The number of updates in all.
    rise : float
        The share of them before the peak, in [0, 1).
    divisors : tuple of two floats
        The first value is the peak divided by the first of them, and the last value is the first
        divided by the second.

    Notes
    -----
    This is optax's `cosine_onecycle_schedule`: the peak is at ``int(rise * steps)`` and the last
    value at `steps`. In torch's `OneCycleLR` each is one update earlier.

    References
    ----------
    .. [1] L. N. Smith and N. Topin, "Super-convergence: Very fast training of neural networks using
       large learning rates", 2018.
    """

    peak: float = _field(_number)
    steps: int = _field(_steps)
    rise: float = _field(_share, default=0.3)
    divisors: tuple[float, float] = _field(
        _tuple(_above_zero, "two finite numbers above 0", 2), default=(25.0, 1e4)
    )

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""
        top, (first, further) = int(self.rise * self.steps), self.divisors
        start, end = self.peak / first, self.peak / (first * further)

        def up(count: Any) -> Any:
            return _cosine(start, self.peak, count, top)

        def down(count: Any) -> Any:
            return _cosine(self.peak, end, count, self.steps - top)

        return _joined(count, (up, down), (top,)) if top else down(count)


@dataclass(frozen=True)
class restarts(_Schedule):
    """`cosine` again and again, each time longer [1]_.

    Parameters
    ----------
    start, end : float
        The value at the beginning of each cycle, and that to which it falls.
    steps : int
        The number of updates of the first cycle.
    growth : int
        How many times as long each cycle is as the one before.

    Notes
    -----
    The same as torch's `CosineAnnealingWarmRestarts`, and as optax's `sgdr_schedule` of cycles
    without warm-up. Cycles of other kinds can be put together by `piecewise`.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: Stochastic gradient descent with warm restarts",
       ICLR 2017.

    Examples
    --------
    >>> rate = restarts(1.0, 0.0, steps=2, growth=2)
    >>> [round(rate(count), 2) for count in range(8)]
    [1.0, 0.5, 1.0, 0.85, 0.5, 0.15, 1.0, 0.96]
    """

    start: float = _field(_number)
    end: float = _field(_number)
    steps: int = _field(_steps)
    growth: int = _field(_steps, default=1)

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""
        if self.growth == 1:
            return _cosine(self.start, self.end, count % self.steps, self.steps)
        begin, steps = 0, self.steps
        begun: Any = begin
        length: Any = steps
        while (begin := begin + steps) <= MOST_STEPS:  # at most 31 cycles
            steps *= self.growth
            over = count >= begin
            begun, length = _choose(over, begin, begun), _choose(over, steps, length)
        return _cosine(self.start, self.end, count - begun, length)


# Of an int, or of an array of counts --------------------------------------------------------------
# A count is multiplied by a float before it is divided: JAX would divide int32 in float32.


def _linear(start: Any, end: Any, count: Any, steps: int) -> Any:
    return _blend(start, end, 1.0 - 1.0 * _clipped(count, steps) / steps)


def _cosine(start: float, end: float, count: Any, steps: Any) -> Any:
    angle = math.pi * _clipped(count, steps) / steps
    cos = math.cos(angle) if isinstance(angle, float) else array_namespace(angle).cos(angle)
    return _blend(start, end, 0.5 * (1.0 + cos))


def _blend(start: Any, end: Any, share: Any) -> Any:
    """A share of `start` and the rest of `end`: exact at both."""
    return start * share + end * (1.0 - share)


def _power(base: float, times: Any) -> Any:
    if not isinstance(times, int | float):
        # The logarithm comes from the host: in float32 a power would lose what base has lost.
        return array_namespace(times).exp(times * math.log(base))
    try:
        return base**times
    except OverflowError:
        return math.inf  # the optimizer refuses it, and says at which count


def _joined(count: Any, parts: Sequence[Number], boundaries: Sequence[int]) -> Any:
    """The value of the part that is under way, which counts from its boundary."""
    if isinstance(count, int):
        now = bisect(boundaries, count)
        return _at(parts[now], count - boundaries[now - 1] if now else count)
    value = _at(parts[0], count)
    for part, begin in zip(parts[1:], boundaries, strict=True):
        since = _choose(count > begin, count - begin, 0)  # no part is asked about the time before
        value = _choose(count >= begin, _at(part, since), value)
    return value


def _at(part: Number, count: Any) -> Any:
    return part(count) if callable(part) else part


def _clipped(count: Any, steps: Any) -> Any:
    return _choose(count < steps, count, steps)


def _choose(condition: Any, one: Any, other: Any) -> Any:
    if isinstance(condition, bool):
        return one if condition else other
    return array_namespace(condition).where(condition, one, other)


# In a checkpoint ----------------------------------------------------------------------------------

KINDS: dict[str, type[_Schedule]] = {
    kind.__name__: kind
    for kind in (constant, linear, cosine, exponential, piecewise, warmup, one_cycle, restarts)
}

#: The name of the class in a plain schedule.
KIND = "schedule"


def to_plain(schedule: Any) -> dict[str, Any] | None:
    """Return a schedule as a dict of what JSON has.

    None for one that is not of this module, or has such a one in it.
    """
    if KINDS.get(type(schedule).__name__) is not type(schedule):
        return None
    plain: dict[str, Any] = {KIND: type(schedule).__name__}
    for each in fields(schedule):  # type: ignore[arg-type]
        value = getattr(schedule, each.name)
        several = value if isinstance(value, tuple) else (value,)
        written = [to_plain(x) if callable(x) else x for x in several]
        if None in written:
            return None
        plain[each.name] = written if isinstance(value, tuple) else written[0]
    return plain


def from_plain(plain: Any) -> Number:
    """Return the schedule that `to_plain` has written.

    Raises ValueError for anything else.
    """
    try:
        return _from_plain(plain)
    except RecursionError:
        raise ValueError("a schedule is nested too deep to be read") from None


def _from_plain(plain: Any) -> Number:
    kind = plain.get(KIND) if isinstance(plain, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"{shown(plain)} is not a schedule; it must be a dict as to_plain makes it"
        )
    names = [each.name for each in fields(KINDS[kind])]  # type: ignore[arg-type]
    if set(plain) != {KIND, *names}:
        raise ValueError(f"{kind}: the fields are {shown([*plain])}; they must be {names}")

    def read(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(_from_plain(x) if isinstance(x, dict) else x for x in value)
        return _from_plain(value) if isinstance(value, dict) else value

    made: Any = KINDS[kind](**{name: read(plain[name]) for name in names})
    return made  # type: ignore[no-any-return]
