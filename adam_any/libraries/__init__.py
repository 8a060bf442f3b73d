"""All that is known of each array library: one class a library, one file a class.

`Library` does everything in the array API's own words, so it serves any library that speaks it. A
subclass replaces what its library does better, or must do otherwise. Its module loads when the
library's first array is met, so nothing here imports a library that no array belongs to, but NumPy,
which is the host's memory.

To add a library: a module with a subclass and its instance LIBRARY, and a line in `detect.CLASSES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import array_api_compat

from .. import sums
from ..dtypes import is_complex, name_of
from ..memory import Extent

#: Elements whose terms are widened at a time.
PIECE = 64 * sums.BLOCK


class Library:
    """A library of arrays that speaks the array API."""

    def __init__(self, name: str) -> None:
        self.name = name

    # Facts ----------------------------------------------------------------------------------------

    def device(self, x: Any) -> Any:
        """The device of an array; it compares and hashes, and `str` of it is for people."""
        return x.device

    def dtype(self, x: Any) -> str:
        """The array API's name of the dtype of an array."""
        return name_of(x.dtype)

    def writable(self, x: Any) -> bool:
        """Return whether an array is updated in place, instead of being replaced."""
        return False

    def engine(self, device: Any) -> str | None:
        """The fast engine that serves its arrays on a device, or None."""
        return None

    def accept(self, x: Any, what: str) -> None:
        """Raise TypeError or ValueError for an array whose operators or memory are unusual.

        `what` says what the array is for: the message starts with "the {what}".
        """

    def lost(self, x: Any) -> str | None:
        """The reason why a write into a parameter would be lost, or None."""
        return None

    def native(self, x: Any) -> bool:
        """Return whether the numbers are stored in the processor's own format."""
        return True

    def unable(self, dtype: str) -> str | None:
        """The reason why the library cannot compute with this dtype now, or None."""
        return None

    def namespace(self, x: Any) -> Any:
        """The array-API namespace of an array."""
        return array_api_compat.array_namespace(x)

    def extent(self, x: Any) -> Extent | None:
        """The memory of an array, or None where the library does not say."""
        return None

    # Arrays of which each process holds a part ----------------------------------------------------

    #: Whether an array may be spread over processes that step their parts as arrays of their own.
    spread = False

    def elements(self, x: Any) -> int:
        """The number of elements of an array or a Python float that are stepped here."""
        return math.prod(getattr(x, "shape", ()))

    def processes(self, x: Any) -> int:
        """The number of processes that step parts of an array."""
        return 1

    def shared(self, x: Any) -> bool:
        """Return whether other processes run the same program on the same array."""
        return False

    def first(self, x: Any) -> bool:
        """Return whether this process is the first of them."""
        return True

    def of_first(self, x: Any, value: float) -> float:
        """The number that the first of them has; all of them call it at once."""
        return value

    def remark(self, x: Any) -> str | None:
        """A remark about how a parameter is stepped, or None."""
        return None

    def unsaved(self, x: Any) -> str | None:
        """The reason why a parameter cannot go into one file, or None."""
        return None

    def beside(self, p: Any, x: Any) -> Any:
        """An array spread as the parameter `p` is; itself where it is."""
        return x

    def part(self, x: Any) -> Any:
        """The part of an array that is held here, in the same memory."""
        return x

    def whole(self, p: Any, x: Any) -> Any:
        """The array, spread as the parameter `p` is, of which `x` is the part held here."""
        return x

    def norm(self, x: Any) -> float:
        """The Euclidean norm of all numbers of a spread array, terms of a sum among them."""
        raise NotImplementedError

    def totals(
        self,
        arrays: Sequence[Any],
        sums: Sequence[Sequence[float]],
        flags: Sequence[Sequence[float]],
    ) -> tuple[list[list[float]], list[list[float]]]:
        """Numbers about the parts held here of several arrays, added over all processes.

        `sums` count once for each element, `flags` for each process. All processes call it at once,
        and get the same.
        """
        return [[*mine] for mine in sums], [[*mine] for mine in flags]

    # Real numbers ---------------------------------------------------------------------------------

    def reals(self, x: Any) -> Any:
        """An array as real numbers, a complex one as pairs in a last axis of two.

        It is a view if it can be one.
        """
        xp = self.namespace(x)
        return xp.stack([xp.real(x), xp.imag(x)], axis=-1) if is_complex(x) else x

    #: Whether operations on arrays of no dimensions give scalars, whose `**` may round otherwise
    #: than that of arrays; the reference computes them as arrays of one element then.
    scalars = False

    def paired(self, x: Any) -> Any:
        """An array of pairs, in its last axis of two, as complex numbers: a view if it can be."""
        xp = self.namespace(x)
        return xp.astype(x[..., 0], _complex(xp, x)) + xp.astype(x[..., 1], _complex(xp, x)) * 1j

    def computable(self, x: Any, compute: str) -> Any:
        """An array as real numbers of the compute dtype; itself if it is that."""
        xp, x = self.namespace(x), self.reals(x)
        dtype = getattr(xp, compute)
        return x if x.dtype == dtype else xp.astype(x, dtype)

    def like(self, x: Any, new: Any) -> Any:
        """A new array of the kind and dtype of `x` with the numbers `new`, as `reals` has them."""
        xp = self.namespace(x)
        if is_complex(x):
            new = xp.astype(new[..., 0], x.dtype) + xp.astype(new[..., 1], x.dtype) * 1j
        return xp.astype(new, x.dtype)

    def write(self, x: Any, new: Any) -> None:
        """Overwrite `x` with the numbers `new`, as `reals` has them."""
        x[...] = self.like(x, new)

    def array(self, x: Any) -> Any:
        """The result of an operation as an array (NumPy's 0-d results are scalars)."""
        return x

    def zeros(self, x: Any, compute: str) -> Any:
        """A moment of the parameter `x`: zeros of the compute dtype, beside it, in its order."""
        xp = self.namespace(x)
        with self.on(x):
            return xp.zeros_like(self.reals(x), dtype=getattr(xp, compute))

    def tried(
        self, f: Callable[..., Any], x: Any, number: int, shape: tuple[int, ...], compute: str
    ) -> Any:
        """The result of a function of so many small arrays beside `x`, all of them ones.

        Its form alone matters, so it need not be computed.
        """
        xp = self.namespace(x)
        with self.on(x):
            ones = [xp.ones(shape, dtype=getattr(xp, compute), device=x.device)] * number
            return f(*ones)

    # Copies ---------------------------------------------------------------------------------------

    def copy(self, x: Any) -> Any:
        """An independent copy on the same device."""
        return self.namespace(x).asarray(x, copy=True)

    def to_host(self, x: Any) -> Any:
        """A NumPy array with the numbers of `x`.

        torch's bfloat16, which NumPy does not have, as unsigned integers of the same bits.
        """
        import numpy as np

        return np.from_dlpack(x)

    def from_host(self, host: Any, like: Any) -> Any:
        """A copy, of the kind of `like` and where it is, of a NumPy array as `to_host` gives it."""
        return self.namespace(like).asarray(host, device=like.device, copy=True)

    # Computing ------------------------------------------------------------------------------------

    #: Whether results are computed later: gradients are persisted before they are looked at.
    lazy = False

    def each(self, f: Callable[..., Any], *arrays: Any) -> tuple[Any, ...]:
        """A pure function of a parameter, its gradient and its moments, applied to these."""
        results: tuple[Any, ...] = f(*arrays)
        return results

    def computed(self, results: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The results of `each` for several leaves; where they are lazy, computed all at once."""
        return results

    def counter(self, x: Any) -> Any:
        """A step count of 0 for a pure step of the array."""
        return 0

    def largest(self, arrays: Sequence[Any]) -> list[float]:
        """The largest magnitude among the reals of each of several arrays, none of them empty.

        It is infinite or NaN where one is NaN. Each array is read once; they are on one device,
        which is waited for once.
        """
        xp = self.namespace(arrays[0])
        return [float(xp.max(xp.abs(self.reals(x)))) for x in arrays]

    def all_hold(self, condition: Callable[..., Any], *operands: Any) -> bool:
        """Return whether a condition on arrays, and numbers among them, holds for every element."""
        xp = self.namespace(next(x for x in operands if hasattr(x, "shape")))
        return bool(xp.all(condition(xp, *operands)))

    def blocks_of(
        self, terms: Callable[..., Any], axes: Sequence[int] | None, *arrays: Any
    ) -> list[list[float]]:
        """The sums of the blocks of each term that a pure function gives: see `sums`.

        The function takes a parameter, its gradient and other arrays; `axes` is the order of the
        parameter's axes in memory.
        """
        found = []
        for x in terms(*arrays):
            xp = self.namespace(x)
            if axes is not None:
                x = self.transposed(x, (*axes, *range(len(axes), x.ndim)))
            line = xp.reshape(x, (-1,))
            parts = [
                self.to_host(sums.blocks(xp, line[start : min(start + PIECE, line.shape[0])]))
                for start in range(0, line.shape[0], PIECE)
            ]
            found.append([number for part in parts for number in part.tolist()])
        return found

    def truth(self, x: Any, value: bool) -> Any:
        """A truth value as an array without dimensions beside `x`, for `where`."""
        return self.namespace(x).asarray(value, device=x.device)

    def on(self, x: Any) -> AbstractContextManager[Any]:
        """The context in which operations run, and new arrays are stored, on the device of `x`."""
        return nullcontext()

    def capturing(self, x: Any) -> bool:
        """Return whether work on the array would only be recorded now, in a CUDA graph."""
        return False

    # Arrays that a kernel reads and writes by address ---------------------------------------------

    def no_address(self, x: Any) -> str | None:
        """The reason why a parameter cannot be written by its address, or None."""
        return "its library does not say where it is stored"

    def addresses(self, params: Sequence[Any], itemsize: int) -> Addresses:
        """A finder of the gradients of these parameters, whose reals have `itemsize` bytes."""
        raise NotImplementedError

    def readable(self, p: Any, g: Any) -> bool:
        """Return whether a kernel can read a checked gradient in its parameter's order."""
        return False

    def transposed(self, g: Any, axes: tuple[int, ...]) -> Any:
        """The same memory with its axes in another order."""
        return self.namespace(g).permute_dims(g, axes)

    def in_c_order(self, x: Any) -> Any:
        """The same numbers in C order, without gaps: itself if it is so."""
        raise NotImplementedError

    def pour(self, x: Any, line: Any) -> None:
        """Write a line of reals that NumPy holds into an array of reals on the host."""
        raise NotImplementedError

    def fill(self, out: Any, g: Any) -> None:
        """Convert the numbers of an array on the host, into a line of reals that NumPy holds."""
        raise NotImplementedError


def _complex(xp: Any, x: Any) -> Any:
    """The complex dtype of pairs of these reals."""
    return xp.complex128 if name_of(x.dtype) == "float64" else xp.complex64


class Addresses(Protocol):
    """Knows the parameters of one plan, of one library and dtype, and finds their gradients."""

    #: The parameters, if compiled code may look at them and at their gradients; else None.
    objects: Sequence[Any] | None

    def find(self, grads: Sequence[Any]) -> list[int | None]:
        """The address of each gradient that can be read in place, else None: one tight pass."""
        ...

    def moved(self) -> bool:
        """Return whether a parameter has other memory or another meaning since this was made."""
        ...

    def written(self, grads: Sequence[Any]) -> None:
        """Tell the library that the parameters that have a gradient were written."""
        ...
