"""Tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table(title: str, rows: Iterable[Iterable[object]], heads: Iterable[str] = ()) -> str:
    """A title and rows, each of them text, which is escaped."""

    def line(cells: Iterable[object], kind: str) -> str:
        style = " style='text-align:left'"
        return f"<tr>{''.join(f'<{kind}{style}>{escape(str(x))}</{kind}>' for x in cells)}</tr>"

    head = line(heads, "th")
    body = "".join(line(row, "td") for row in rows)
    return f"<table><caption>{escape(title)}</caption>{head}{body}</table>"
