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

from .harness import BEST_PEER, COLD, ORIGINAL, PACKAGE, STEP, around_marks, first_of, machine_line

BEGIN = "<!-- speed: begin -->"
END = "<!-- speed: end -->"
# Titles of the tables that count besides those called as a hot path is.
IN_STEPS, CLIENT_RUNS = "EMA in training steps", "Real client runs"


class Line(NamedTuple):
    """One line of a picture: the package on one model or image."""

    path: str
    model: str
    original: float  # package faster by, 1 thread
    peer: float | None
    peer_name: str
    original_many: float | None  # the same with more threads
    shares: dict[int, float]  # of the memory limit, by threads
    hot: bool = False  # the caches, as no call in a real program finds them


def lines_of(content: dict[str, Any]) -> list[Line]:
    """What there is to draw: the EMA in a training, and every table called as a hot path."""
    names = [IN_STEPS]
    names += [name for operation in OPERATIONS.values() for name in operation.public_names]
    found = []
    for name in names:
        for rows in (table["rows"] for table in content["tables"] if table["title"] == name):
            models = dict.fromkeys(row["model"] for row in rows)
            found += [_line(name, model, rows) for model in models]
    return [line for line in found if line is not None]


def _line(path: str, model: str, rows: Sequence[dict[str, Any]]) -> Line | None:
    by_threads: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["model"] == model:
            by_threads.setdefault(row["threads"], []).append(row)
    if 1 not in by_threads:
        return None
    best = next((row for row in by_threads[1] if row["who"].endswith(BEST_PEER)), None)
    return Line(
        path,
        model,
        _over_original(by_threads[1]),
        first_of(best, "ratio") if best else None,
        best["who"].partition(" (")[0] if best else "",
        _over_original(by_threads[max(by_threads)]) if max(by_threads) > 1 else None,
        {
            threads: share
            for threads, rows in sorted(by_threads.items())
            for row in rows
            if row["who"] == PACKAGE and (share := first_of(row, "share")) is not None
        },
        not any(f"{state}_ratio" in row for row in by_threads[1] for state in (STEP, COLD)),
    )


def _over_original(rows: Sequence[dict[str, Any]]) -> float:
    return next(
        float(first_of(row, "ratio")) for row in rows if row["who"].startswith(f"{ORIGINAL} (")
    )


def caches(lines: Sequence[Line]) -> str:
    """The state of the caches that lines speak of, in words."""
    hot = list(dict.fromkeys(line.path for line in lines if line.hot))
    if all(line.hot for line in lines):
        return "caches hot"
    return f"caches cold (hot for {', '.join(hot)})" if hot else "caches cold"


def case_name(line: Line) -> str:
    """The model as readers know it: models are letters in the raw figures, images are not."""
    return line.model if len(line.model.split(",")[0]) > 1 else f"YOLOv5{line.model}"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _range(ratios: Sequence[float]) -> str:
    return "–".join(dict.fromkeys(map(_times, (min(ratios), max(ratios))))) + "×"


def short_table(content: dict[str, Any]) -> str:
    """One row a path: against the original on each model, and against the best other ones.

    A path that is not measured on models has the range of all its cases in every column; a model on
    which a path is not measured has none.
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
    measured = f"{machine_line(content['machine'])}; one thread, {caches(lines)}."
    return "\n".join([*rows, "", measured])


# What readers ask about, of the rows of bench_clients.
JOBS = {
    "train one epoch, validate": "an epoch of training",
    "load and fuse, as torch.hub does": "loading and fusing a checkpoint",
    "prune a loaded model, as torch.hub does": "pruning it",
    "detect, augmented, one image": "augmented detection",
}


def gains(content: dict[str, Any]) -> str:
    """What whole runs gain, in sentences; nothing where no client was measured."""
    runs = [table for table in content["tables"] if table["title"] == CLIENT_RUNS]
    if not runs:
        return ""
    rows = {row["job"]: row for row in runs[0]["rows"]}
    said = [f"{words} {_saved(rows[job])}" for job, words in JOBS.items()]
    share = rows[next(iter(JOBS))]["share"]
    return (
        "**What a whole run gains** depends on its share of these functions. With PyPI's yolov5 "
        f"7.0.14, YOLOv5s and one thread of this CPU: {'; '.join(said)}.\n\n"
        "**Not worth it** for training alone on such a CPU, of which these functions are "
        f"{share:.1%} (no more can be saved), and for detection with a model that stays loaded: "
        "unless augmented, it calls none of them."
    )


def _saved(row: dict[str, Any]) -> str:
    """The saved share of a run, as far as it is more than noise."""
    if abs(row["saved"]) <= row["spread"]:
        return f"differs by less than the noise of {row['spread']:.0%}"
    return f"takes {abs(row['saved']):.0%} {'less' if row['saved'] > 0 else 'more'} time"


def write(content: dict[str, Any], path: Path) -> None:
    """Put the table, and what whole runs gain, between the marks of `path`."""
    head, tail = around_marks(path, BEGIN, END)
    text = "\n\n".join(part for part in (short_table(content), gains(content)) if part)
    path.write_text(f"{head}{BEGIN}\n{text}\n{tail}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary", description=__doc__)
    parser.add_argument("figures", type=Path, help="what `python -m benchmarks --json` wrote")
    parser.add_argument("file", type=Path, help="gets the table between its marks")
    options = parser.parse_args()
    write(json.loads(options.figures.read_text()), options.file)


if __name__ == "__main__":
    main()
