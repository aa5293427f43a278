"""The figures in short: a line for each path and model, and the README's table of them.

Made from the JSON that `python -m benchmarks` writes; must not measure anything.

python -m benchmarks.summary docs/benchmarks.json README.md   # the table again
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yolov5_utils.ops import OPERATIONS

from .harness import around_marks, machine_line

BEGIN = "<!-- speed: begin -->"
END = "<!-- speed: end -->"


class Line(NamedTuple):
    """One line of a picture: the package on one model or image."""

    path: str
    model: str
    original: float  # package faster by, 1 thread
    peer: float | None
    peer_name: str
    original_many: float | None  # the same with more threads
    shares: dict[int, float]  # of the memory limit, by threads


def lines_of(content: dict[str, Any]) -> list[Line]:
    """What there is to draw: the tables that are called as a hot path is."""
    found = []
    for operation in OPERATIONS.values():
        for table in content["tables"]:
            if table["title"] in operation.public_names:
                models = dict.fromkeys(row["model"] for row in table["rows"])
                found += [_line(table["title"], model, table["rows"]) for model in models]
    return [line for line in found if line is not None]


def _line(path: str, model: str, rows: Sequence[dict[str, Any]]) -> Line | None:
    by_threads: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["model"] == model:
            by_threads.setdefault(row["threads"], []).append(row)
    if 1 not in by_threads:
        return None
    compared = [row for row in by_threads[1] if row.get("ratio") is not None]
    peers = [row for row in compared if not row["who"].startswith(("original", "package"))]
    best = min(peers, key=lambda row: row["min_ms"], default=None)
    return Line(
        path,
        model,
        _over_original(by_threads[1]),
        best["ratio"] if best else None,
        best["who"].replace(" (best peer)", "").split(",")[0] if best else "",
        _over_original(by_threads[max(by_threads)]) if max(by_threads) > 1 else None,
        {
            threads: row["share"]
            for threads, rows in sorted(by_threads.items())
            for row in rows
            if row["who"] == "package" and row.get("share") is not None
        },
    )


def _over_original(rows: Sequence[dict[str, Any]]) -> float:
    return next(float(row["ratio"]) for row in rows if row["who"].startswith("original ("))


def case_name(line: Line) -> str:
    """The model as readers know it: models are letters in the raw figures, images are not."""
    return line.model if len(line.model.split(",")[0]) > 1 else f"YOLOv5{line.model}"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _range(ratios: Sequence[float]) -> str:
    return "–".join(dict.fromkeys(map(_times, (min(ratios), max(ratios))))) + "×"


def short_table(content: dict[str, Any]) -> str:
    """One row a path: against the original on each model, and against the best other ones.

    A path that is not measured on models has the range of all its cases in every column.
    """
    lines = lines_of(content)
    models = list(dict.fromkeys(line.model for line in lines if len(line.model) == 1))
    rows = [
        f"| times as fast as YOLOv5's own | {' | '.join(f'YOLOv5{m}' for m in models)} | "
        "as the best other | best other |",
        f"|---|{'---:|' * (len(models) + 1)}---|",
    ]
    for path in dict.fromkeys(line.path for line in lines):
        cases = {line.model: line for line in lines if line.path == path}
        on_models = {model: cases[model] for model in models if model in cases}
        shown = list((on_models or cases).values())
        everywhere = "" if on_models else _range([line.original for line in shown])
        ratios = [
            _range([on_models[model].original]) if model in on_models else everywhere
            for model in models
        ]
        peers = [line for line in shown if line.peer is not None]
        best = _range([line.peer for line in peers if line.peer is not None]) if peers else ""
        names = ", ".join(dict.fromkeys(f"`{line.peer_name}`" for line in peers))
        rows.append(f"| `{path}` | {' | '.join(ratios)} | {best} | {names} |")
    return "\n".join([*rows, "", f"{machine_line(content['machine'])}; one thread."])


def write(content: dict[str, Any], path: Path) -> None:
    """Put the short table between the marks of `path`."""
    head, tail = around_marks(path, BEGIN, END)
    path.write_text(f"{head}{BEGIN}\n{short_table(content)}\n{tail}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary", description=__doc__)
    parser.add_argument("figures", type=Path, help="what `python -m benchmarks --json` wrote")
    parser.add_argument("file", type=Path, help="gets the table between its marks")
    options = parser.parse_args()
    write(json.loads(options.figures.read_text()), options.file)


if __name__ == "__main__":
    main()
