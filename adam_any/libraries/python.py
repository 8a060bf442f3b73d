"""Python floats; where they are computed as arrays, by NumPy."""

from __future__ import annotations

from typing import Any

from .numpy import NumPy


class Python(NumPy):
    """Python floats. Their moments are floats, or NumPy arrays with one number."""

    def device(self, x: Any) -> Any:
        return "cpu"

    def dtype(self, x: Any) -> str:
        return "float64"

    def engine(self, device: Any) -> str | None:
        return "cpu"

    def accept(self, x: Any, what: str) -> None:
        return  # every float

    def native(self, x: Any) -> bool:
        return True

    def reals(self, x: Any) -> Any:
        number = x.detach() if hasattr(x, "detach") else x  # torch warns of a graph that ends here
        return self.array(float(number))

    def like(self, x: Any, new: Any) -> Any:
        return float(new)

    def from_host(self, host: Any, like: Any) -> Any:
        """A float for a float; its moments are arrays."""
        return float(host) if isinstance(like, float) else super().from_host(host, like)


LIBRARY = Python("python")
