"""The table of torch's releases in docs/torch-releases.md, from what speed.py wrote for each:
`python -m tests.smoke.table DOCUMENT FILE...`. Must not need torch."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- releases: begin -->", "<!-- releases: end -->"


def releases(facts: dict[str, Any]) -> list[list[int]]:
    """Of torch and of Python, to sort by."""
    texts = facts["torch"].partition("+")[0], facts["python"]
    return [[*map(int, re.findall(r"\d+", text))] for text in texts]


def cell(path: dict[str, Any]) -> str:
    """How many times as fast calls in C were, else whose operations ran: the same are as fast."""
    times = path["times_as_fast"]
    return (
        f"{times:.{0 if times >= 9.95 else 1}f}×"
        if path["ways"] == ["C"]
        else ", ".join(path["ways"])
    )


def rows(measured: Iterable[dict[str, Any]]) -> list[str]:
    in_order = sorted(measured, key=releases)
    names = [*in_order[0]["hot_paths"]]
    lines = [("torch", "Python", "tensors by", "threads", *(f"`{name}`" for name in names))]
    lines += [("---", "---", "---", "---", *["---:"] * len(names))]
    for facts in in_order:
        about = (facts["torch"], facts["python"], facts["tensors"], facts["threads"])
        lines.append((*about, *(cell(facts["hot_paths"][name]) for name in names)))
    return [f"| {' | '.join(line)} |" for line in lines]


def write(document: Path, table: list[str]) -> None:
    """Put the table between the document's marks; ValueError where they are not there once."""
    text = document.read_text()
    (head, rest), (_, tail) = text.split(BEGIN), text.split(END)
    assert rest.endswith(tail)
    document.write_text("\n".join([head + BEGIN, *table, END + tail]))


def main(document: str, *files: str) -> None:
    write(Path(document), rows(json.loads(Path(file).read_text()) for file in files))


if __name__ == "__main__":
    main(*sys.argv[1:])
