"""Writes what a run of tools.gpu_check on a GPU has found into docs/gpu.md, between its marks: the
figures, and what the GPU paths cost in lines beside what they save.

python -m tools.gpu_docs [docs/gpu.json [docs/gpu.md]]   # must not measure anything"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import bench_cuda_host, cuda_timing, harness, whole_steps
from yolov5_utils.ops import OPERATIONS

ROOT = Path(__file__).resolve().parents[1]
FIGURES = "<!-- GPU figures: begin -->", "<!-- GPU figures: end -->"
COST = "<!-- GPU cost: begin -->", "<!-- GPU cost: end -->"
ON_GPU = "On a GPU"
# The columns of a table, by what its title begins with.
COLUMNS = {
    ON_GPU: cuda_timing.COLUMNS,
    "Host time of the EMA on a GPU": bench_cuda_host.COLUMNS,
    whole_steps.TITLE: whole_steps.COLUMNS,
}
STAGE_COLUMNS = (
    *(harness.Column("stage", "stage"), harness.Column("result", "result")),
    *(harness.Column("seconds", "seconds", "{:.0f}"), harness.Column("its last line", "says")),
)
# What a process does that feels a path: so many calls of it, in words, on these inputs of its rows.
FELT = {
    "ema": (1000, "a thousand training steps", ("n", "x")),
    "sparsity": (1, "one report of a model", ("n", "x")),
    "fuse": (1, "one checkpoint loaded and fused", ("n", "x")),
    "prune": (1, "one model pruned", ("n", "x")),
    "scale_img": (2000, "a thousand images detected with augment=True", ("1×3×640×640 float32",)),
}
COST_COLUMNS = (
    *(harness.Column("path", "path"), harness.Column("lines of its own", "lines", "{:d}")),
    *(harness.Column("a process of", "process"), harness.Column("saves", "saves")),
)


def figures(run: dict[str, Any]) -> list[str]:
    """Where, when and of what; then what was found."""
    state = {True: "with changes", False: "as committed"}.get(run["changed"], "or before")
    parts = [
        f"Measured on {run['date']}, commit {run['commit']} {state}: {run['nvidia_smi']}, torch "
        f"{run['torch']}, {run['cores']} cores, load {run['load']} at the start."
    ]
    if run["stages"]:
        parts.append(harness.Table("Stages", STAGE_COLUMNS, run["stages"], []).markdown())
    for table in run["tables"]:
        columns = next(c for title, c in COLUMNS.items() if table["title"].startswith(title))
        used = [c for c in columns if any(row.get(c.key) is not None for row in table["rows"])]
        shown = harness.Table(table["title"], used, table["rows"], table["notes"])
        parts.append(shown.markdown())
    return parts


def own_files(operation: str) -> list[Path]:
    """What there is of a path for GPUs alone."""
    patterns = (
        *(f"cuda/{operation}.c", f"cuda/{operation}*.cuh"),
        *(f"csrc/plan/{operation}_gpu.*", f"yolov5_utils/ops/{operation}_gpu.py"),
    )
    return [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def lines_of(files: list[Path]) -> int:
    """All of their lines."""
    return sum(len(path.read_text().splitlines()) for path in files)


def saved_s(rows: list[dict[str, Any]], operation: str, inputs: str) -> float | None:
    """By one call, until the GPU is idle again; None where that was not measured."""
    total_us = {
        row["who"]: row["total_us"]
        for row in rows
        if (row["operation"], row["input"]) == (operation, inputs)
    }
    if not {"original", "package"} <= total_us.keys():
        return None
    return (total_us["original"] - total_us["package"]) / 1e6


def cost(run: dict[str, Any]) -> harness.Table:
    """A row per path, and one of what they share."""
    measured = [row for t in run["tables"] if t["title"] == ON_GPU for row in t["rows"]]
    rows, own = list[dict[str, Any]](), list[Path]()
    for operation, (calls, words, inputs) in FELT.items():
        files = own_files(operation)
        own += files
        saved = {case: saved_s(measured, operation, case) for case in inputs}
        told = [f"{case}: {s * calls:.3g} s" for case, s in saved.items() if s is not None]
        path = " ".join(f"`{name}`" for name in OPERATIONS[operation].public_names[:1])
        lines = lines_of(files)
        rows.append({"path": path, "lines": lines, "process": words, "saves": ", ".join(told)})
    others = [path for path in (ROOT / "cuda").iterdir() if path.is_file() and path not in own]
    others += (ROOT / "csrc" / "python").glob("cuda_loader.*")
    rows.append({"path": "what all have in common, and the build", "lines": lines_of(others)})
    return harness.Table(
        "Lines and gain",
        COST_COLUMNS,
        rows,
        [
            f"lines counted by this table's command, comments among them; saved: the original's "
            f"time until the GPU is idle less the package's, of the figures above ({run['commit']})"
        ],
    )


def write(document: Path, run: dict[str, Any]) -> None:
    """Replace what stands between the marks."""
    harness.write_between_marks(document, *FIGURES, figures(run))
    harness.write_between_marks(document, *COST, [cost(run).markdown()])


def main(run: str = "docs/gpu.json", document: str = "docs/gpu.md") -> None:
    """Run from the command line."""
    write(ROOT / document, json.loads((ROOT / run).read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
