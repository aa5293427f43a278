"""The table of torch's releases: written between the marks of a page, in order, and readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..smoke import table


def measured(
    torch: str, python: str, ways: list[str], times_as_fast: float = 0.0
) -> dict[str, Any]:
    path = {"ways": ways, "times_as_fast": times_as_fast, "reasons": []}
    about = {"torch": torch, "python": python, "tensors": "table", "threads": "torch's"}
    return {**about, "hot_paths": {"ema": path}}


def test_it_is_in_order_of_the_releases() -> None:
    facts = [
        measured("2.10.0+cu128", "3.14.0rc1", ["C"], 9.94),
        measured("2.10.0+cu128", "3.9.2", ["C"], 9.96),
        measured("2.9.1", "3.13.0", ["C", "torch"]),
    ]
    cells = [row.strip("| ").split(" | ") for row in table.rows(facts)[2:]]
    assert [(torch, python, ema) for torch, python, *_, ema in cells] == [
        ("2.9.1", "3.13.0", "C, torch"),
        ("2.10.0+cu128", "3.9.2", "10×"),
        ("2.10.0+cu128", "3.14.0rc1", "9.9×"),
    ]


def test_it_is_written_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(page, ["new"])
    assert page.read_text() == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="unpack"):
        table.write(page, ["new"])
    assert page.read_text() == "no marks"
