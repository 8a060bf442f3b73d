"""The scalars of a step as one function of the count, traced from the rule once.

A step of a few elements takes 2 us, and `Rule.coefficients` longer: a dozen calls, a dict, and
arithmetic on numbers that never change. So it is run once on symbols, which write down what is done
with the count: a few lines of Python, with the same operations in the same order and so the same
bits. The rule remains the only statement of its formulas.

What a rule makes of sums over its leaves, a norm for example, is written down from symbols of the
sums. A rule that does what symbols cannot, such as an `if` on the count, has no such function; its
coefficients are then computed as at every other step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from .coefficients import by_path, evaluate, held_count, nested
from .dtypes import DTYPES
from .engines.protocol import Takes
from .rule import Rule, declares_number, held, items, range_of, replaced
from .sums import Terms

#: Gives the scalars of leaves that have had so many updates, not yet rounded; from their sums, leaf
#: by leaf, where the rule asks for some. It raises what a schedule raises, or ArithmeticError or
#: ValueError: also for one that may be too large to round.
Scalars = Callable[[int, Sequence[float]], Sequence[float]]

#: The functions of the array API that `rules._scalars` calls with what is not a float.
_FUNCTIONS = {
    "sqrt": "sqrt({})",
    "expm1": "expm1({})",
    "log": "log({} or 5e-324)",
    "where": "({1} if {0} else {2})",
}


class _NotExpressibleError(Exception):
    """A rule does what cannot be written down as a line."""


class _Tape:
    """The lines written down so far: also the array API of its symbols."""

    __name__ = "adam_any.scalars"  # array_api_compat asks for it

    def __init__(self) -> None:
        #: Expressions, and the names of their values.
        self.lines: dict[str, str] = {}
        self.names: dict[str, Any] = {
            name: getattr(math, name) for name in ("sqrt", "expm1", "log", "fsum")
        }

    def __getattr__(self, name: str) -> Callable[..., _Number]:
        if name not in _FUNCTIONS:
            raise AttributeError(name)
        return partial(self.apply, _FUNCTIONS[name])

    def apply(self, text: str, *operands: Any) -> _Number:
        """The symbol of an expression."""
        expression = text.format(*map(self.operand, operands))
        return _Number(self, self.lines.setdefault(expression, f"x{len(self.lines)}"))

    def fsum(self, parts: Sequence[Any]) -> _Number:
        """The symbol of an exact sum."""
        return self.apply(f"fsum(({'{}, ' * len(parts)}))", *parts)

    def call(self, function: Callable[[Any], Any], x: Any) -> _Number:
        """The symbol of what a function of a number returns."""
        known = {f: name for name, f in self.names.items()}
        name = known.get(function) or f"f{len(self.names)}"
        self.names[name] = function
        return self.apply(f"{name}({{}})", x)

    def operand(self, x: Any) -> str:
        """A number as text, which is exact: `repr` of a float gives that float."""
        if isinstance(x, _Number):
            return x.name
        if type(x) not in (float, int, bool) or not math.isfinite(x):
            raise _NotExpressibleError
        return f"({x!r})"

    def function(self, results: Sequence[Any], limit: float) -> Scalars:
        """The function of the count `n` and the sums `s` that gives these numbers.

        They are to be smaller than a limit.
        """
        values = [self.operand(x) for x in results]
        symbols = [x.name for x in results if isinstance(x, _Number)]
        if not all(isinstance(x, _Number) or abs(x) < limit for x in results):
            raise _NotExpressibleError
        lines = [f"{name} = {expression}" for expression, name in self.lines.items()]
        if symbols:
            small = " and ".join(f"-{limit!r} < {name} < {limit!r}" for name in symbols)
            lines += [f"if not ({small}):", "    raise OverflowError"]
        body = "\n    ".join([*lines, f"return ({', '.join(values)},)"])
        exec(
            compile(f"def scalars(n, s):\n    {body}\n", "<scalars of a rule>", "exec"), self.names
        )
        made: Scalars = self.names["scalars"]
        return made


def _operator(text: str) -> Callable[..., _Number]:
    return lambda self, *others: self.tape.apply(text, self, *others)


def _reflected(text: str) -> Callable[..., _Number]:
    return lambda self, other: self.tape.apply(text, other, self)


class _Number:
    """A number that depends on the count."""

    def __init__(self, tape: _Tape, name: str) -> None:
        self.tape, self.name = tape, name

    def __array_namespace__(self, api_version: str | None = None) -> _Tape:
        return self.tape

    def __bool__(self) -> bool:
        raise _NotExpressibleError

    __neg__ = _operator("-{}")
    __add__, __radd__ = _operator("{} + {}"), _reflected("{} + {}")
    __sub__, __rsub__ = _operator("{} - {}"), _reflected("{} - {}")
    __mul__, __rmul__ = _operator("{} * {}"), _reflected("{} * {}")
    __truediv__, __rtruediv__ = _operator("{} / {}"), _reflected("{} / {}")
    __pow__, __rpow__ = _operator("{} ** {}"), _reflected("{} ** {}")
    __floordiv__, __mod__ = _operator("{} // {}"), _operator("{} % {}")
    __lt__, __le__ = _operator("{} < {}"), _operator("{} <= {}")
    __gt__, __ge__ = _operator("{} > {}"), _operator("{} >= {}")
    __eq__, __ne__ = _operator("{} == {}"), _operator("{} != {}")  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def traced(rule: Rule, compute: str, takes: Takes, leaves: int = 1) -> Scalars | None:
    """The coefficients that a launch for so many leaves takes, then the constants, as a function.

    None for a rule that symbols cannot run.
    """
    tape = _Tape()
    count = _Number(tape, "n")
    try:
        known = by_path(_with_schedules(tape, rule, count), count + 1)
        known |= _of_sums(tape, Terms(rule, finite=False), known, compute, leaves)
        results = [*(known[path] for path in takes.paths), *takes.constants]
        return tape.function(results, DTYPES[compute].limit)
    except Exception:  # whatever a rule does with what is not a number
        return None


def _of_sums(
    tape: _Tape, terms: Terms, known: Mapping[str, Any], compute: str, leaves: int
) -> dict[str, Any]:
    """The coefficients that all leaves have in common, by path, from symbols of their sums."""
    if not terms.names:
        return {}
    width, round_ = len(terms.names), DTYPES[compute].round
    numbers = {path: x for path, x in known.items() if isinstance(x, _Number | float | int)}
    c = nested(
        {
            path: tape.call(round_, x) if isinstance(x, _Number) else round_(x)
            for path, x in numbers.items()
        }
    )
    sums = [
        SimpleNamespace(
            **{name: _Number(tape, f"s[{k * width + i}]") for i, name in enumerate(terms.names)}
        )
        for k in range(leaves)
    ]
    own = terms.leaf_scales(tape, c, sums[0])
    if own and leaves > 1:
        raise _NotExpressibleError  # each leaf has others
    return terms.group_scales(tape, c, sums) | own


def _with_schedules(tape: _Tape, rule: Rule, count: Any) -> Rule:
    """The rule with symbols for its schedules."""
    new: dict[str, Any] = {}
    for field, value in items(rule):
        if not declares_number(field, value):
            continue
        several = isinstance(value, tuple)
        found = [
            tape.call(partial(_asked, x, field.name, range_of(field)), count) if callable(x) else x
            for x in (value if several else (value,))
        ]
        if any(isinstance(x, _Number) for x in found):
            if getattr(rule, "ordered", ()):
                raise _NotExpressibleError  # which is greater is looked at when they are known
            new[field.name] = tuple(found) if several else found[0]
    inner = held(rule)
    if inner is not None:
        new["rule"] = _with_schedules(tape, inner, held_count(rule, count))
    return replaced(rule, new)


def _asked(schedule: Any, name: str, allowed: Any, count: int) -> float:
    return float(evaluate(schedule, count, name, allowed))
