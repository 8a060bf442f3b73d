"""Python floats, computed by NumPy."""

from __future__ import annotations

from typing import Any

from .numpy import NumPy


class Python(NumPy):
    """Python floats; their moments are NumPy arrays."""

    def device(self, x: Any) -> Any:
        """The host."""
        return "cpu"

    def dtype(self, x: Any) -> str:
        """A Python float has double precision."""
        return "float64"

    def engine(self, device: Any) -> str | None:
        """None: floats are not written in place."""
        return None

    def accept(self, x: Any, what: str) -> None:
        """Accept every float."""

    def native(self, x: Any) -> bool:
        """Yes."""
        return True

    def reals(self, x: Any) -> Any:
        """The float as an array of no dimensions."""
        return self.array(x)

    def like(self, x: Any, new: Any) -> Any:
        """A float."""
        return float(new)


LIBRARY = Python("python")
