"""The base of wrappers: what a wrapper does not define, it leaves to the rule that it holds.

A wrapper is a frozen dataclass with a field `rule`. Its own moments, named in `own`, come before
those of that rule, and `c.rule` has that rule's coefficients. The whole is traced into one program,
so composition costs no pass over memory.

What wrappers may ask of a rule, each of it optional:

- `rates`: the names of the coefficients that are proportional to the learning rate.
- `decays`, and `corrected(xp, c, *ones)`: the numbers `b` in its bias corrections `1 - b**t`, and
  its coefficients for other values of these.
- `step_size(xp, c, *moments)`: by what each element of a smoothed gradient is multiplied.
- `maximize`: whether it climbs.
- `sums`, `terms` and `scales`: what it needs to know of whole leaves (`sums`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .rule import Rule, innermost


class Wrapper:
    """A rule that holds a rule."""

    #: The rule that it holds.
    rule: Rule

    #: The names of its own moments.
    own: ClassVar[tuple[str, ...]] = ()

    @property
    def moments(self) -> tuple[str, ...]:
        """Its own moments, then those of the rule that it holds."""
        return (*self.own, *self.rule.moments)

    def coefficients(self, t: int) -> Mapping[str, Any]:
        """Its own coefficients; those of the rule that it holds are added by themselves."""
        return {}

    def begin(self, xp: Any, p: Any) -> tuple[Any, ...]:
        """Its own moments before the first step."""
        return tuple(xp.zeros_like(p, dtype=p.dtype) for _ in self.own)

    def start(self, xp: Any, p: Any) -> tuple[Any, ...]:
        """All moments before the first step."""
        return (*self.begin(xp, p), *started(self.rule, xp, p))

    def gradient(self, xp: Any, c: Any, p: Any, g: Any, *moments: Any) -> Any:
        """The gradient that the rule it holds gets."""
        return g

    @property
    def maximize(self) -> bool:
        """True where the rule that it holds climbs."""
        return climbs(self.rule)

    def step_size(self, xp: Any, c: Any, *moments: Any) -> Any:
        """The step size of each element, as the rule that it holds has it."""
        return step_size(self.rule)(xp, c.rule, *moments[len(self.own) :])

    @property
    def decays(self) -> tuple[Any, ...]:
        """The decay rates of the rule that it holds."""
        return decays(self.rule)

    def corrected(self, xp: Any, c: Any, *ones: Any) -> Any:
        """The coefficients with other bias corrections of the rule that it holds."""
        return Changed(c, rule=corrected(self.rule, xp, c.rule, *ones))


class Changed:
    """Coefficients with other values for some."""

    def __init__(self, c: Any, **values: Any) -> None:
        self._c = c
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._c, name)


class _Scaled:
    """Coefficients of which some are multiplied, when asked for."""

    def __init__(self, c: Any, names: tuple[str, ...], by: Any) -> None:
        self._c, self._names, self._by = c, names, by

    def __getattr__(self, name: str) -> Any:
        x = getattr(self._c, name)
        return self._by * x if name in self._names else x


def started(rule: Any, xp: Any, p: Any) -> tuple[Any, ...]:
    """The moments of a rule before the first step."""
    own = getattr(rule, "start", None)
    if own is None:
        return tuple(xp.zeros_like(p, dtype=p.dtype) for _ in rule.moments)
    found: tuple[Any, ...] = own(xp, p)
    return found


def climbs(rule: Any) -> bool:
    """Return whether a rule maximizes."""
    return bool(getattr(innermost(rule), "maximize", False))


def scaled(rule: Any, c: Any, by: Any) -> Any:
    """The coefficients of a rule for a learning rate that is multiplied, element by element."""
    if isinstance(rule, Wrapper):
        return Changed(c, rule=scaled(rule.rule, c.rule, by))
    return _Scaled(c, rule.rates, by)


def step_size(rule: Any) -> Any:
    """The function that gives a rule's step size of each element, or None."""
    inner = rule
    while isinstance(inner, Wrapper):
        if inner.step_size is None:
            return None
        inner = inner.rule
    return getattr(rule, "step_size", None) if hasattr(inner, "step_size") else None


def decays(rule: Any) -> tuple[Any, ...]:
    """The decay rates in the bias corrections of a rule."""
    found: tuple[Any, ...] = getattr(rule, "decays", ())
    return found


def corrected(rule: Any, xp: Any, c: Any, *ones: Any) -> Any:
    """The coefficients of a rule with these in place of its `1 - b**t`."""
    own = getattr(rule, "corrected", None)
    return c if own is None else own(xp, c, *ones)
