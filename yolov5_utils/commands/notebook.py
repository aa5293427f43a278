"""How a record shows itself in a notebook: an HTML table."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table(rows: Iterable[Iterable[str]]) -> str:
    """The rows' texts in the cells of a table, aligned to the left."""
    cells = (
        "".join(f'<td style="text-align: left">{escape(text)}</td>' for text in row) for row in rows
    )
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
