"""Records of changes under way, so that an interruption at any moment leaves nothing in doubt.

Signal handlers, Ctrl-C among them, run between any two instructions of Python, also after a kernel
has returned and before its step has been counted. So a change is first written down, and then made:
`settle` completes it where that is possible, drops it where nothing has been written, and says
where only a part has. It can itself be interrupted, and called again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from .coefficients import Coefficients
from .engines.protocol import Plan, Unfinished
from .leaf import Leaf, Update


class Turn(NamedTuple):
    """One call of a plan: coefficients, and what it gathered of the leaves that they are for."""

    plan: Plan
    c: Coefficients
    grads: Sequence[Any]


class Change(Protocol):
    """A change that can be settled."""

    def settle(self) -> bool:
        """Complete the change, or drop it; False where only a part of it could be made."""
        ...


class Step:
    """One step of all plans, the `number`th of this optimizer."""

    def __init__(self, number: int, turns: Sequence[Turn], counted: Sequence[Leaf]) -> None:
        self._number, self._turns = number, turns
        self._results: list[list[Update] | None] = [None] * len(turns)
        self._counts = [(leaf, leaf.steps + 1) for leaf in counted]

    def run(self) -> None:
        """Call the plans; what fails before the first that writes has changed nothing."""
        for i, (plan, c, grads) in enumerate(self._turns):
            self._results[i] = plan.step(self._number + i, c, grads)

    def settle(self) -> bool:
        """Assign the results and count the step, if every plan has done its part."""
        states = [
            self._turns[i].plan.finish(self._number + i) if result is None else result
            for i, result in enumerate(self._results)
        ]
        if all(isinstance(state, list) for state in states):
            for state in states:
                for leaf, array, moments in state:  # type: ignore[union-attr]
                    leaf.array, leaf.moments = array, moments
            for leaf, count in self._counts:
                leaf.steps = count
            return True
        written = zip(self._turns, states, strict=True)
        return not any(turn.plan.in_place and x is not Unfinished.UNTOUCHED for turn, x in written)


class Assignment:
    """New values of parameters that are written in place: pairs of a leaf and its numbers."""

    def __init__(self, values: Sequence[tuple[Leaf, Any]]) -> None:
        self._values = values

    def settle(self) -> bool:
        """Write all values; writing one twice does no harm."""
        for leaf, new in self._values:
            leaf.library.write(leaf.array, leaf.library.reals(new))
        return True


Method = TypeVar("Method", bound=Callable[..., Any])


def alone(method: Method) -> Method:
    """Let one call at a time into an optimizer: a second is a RuntimeError, and changes nothing.

    The second may come from another thread, a schedule, a callback or a signal handler. `del` of
    the only element of a list succeeds once, whoever races, and Python handles no signal between it
    and the `try` behind it; nor does it before the first instruction of `finally`.
    """

    @wraps(method)
    def entered(self: Any, *args: Any, **kwargs: Any) -> Any:
        free = self._free
        try:
            del free[0]
        except IndexError:
            raise RuntimeError(BUSY) from None
        try:
            self._contents.settle()
            return method(self, *args, **kwargs)
        finally:
            free[:] = FREE

    return cast(Method, entered)


def alone_in_step(method: Method) -> Method:
    """The same for `step`, which settles what it must: a small step takes a tenth less so."""

    @wraps(method)
    def entered(self: Any, grads: Any) -> Any:
        free = self._free
        try:
            del free[0]
        except IndexError:
            raise RuntimeError(BUSY) from None
        try:
            return method(self, grads)
        finally:
            free[:] = FREE

    return cast(Method, entered)


#: The content of the list while nobody is in a call.
FREE = (None,)

BUSY = (
    "this optimizer is in the middle of another call, from a thread, a schedule, a callback or a "
    "signal handler; call it again when that has returned (nothing has changed)"
)
