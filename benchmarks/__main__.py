"""`python -m benchmarks`: every benchmark, one report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from yolov5_utils.ops import OPERATIONS

from . import (
    bench_cuda,
    bench_cuda_host,
    bench_gil,
    bench_import,
    bench_memory,
    bench_refusals,
    harness,
    plots,
    summary,
)

BEGIN = "<!-- figures: begin -->"
END = "<!-- figures: end -->"


def run(quick: bool) -> list[harness.Table]:
    """All tables; `quick` takes fewer models and less time, and its figures are rougher."""
    names, seconds = (["n"], 1.5) if quick else (["n", "s", "x"], 5.0)
    of_hot_paths = [import_module(f"{__package__}.bench_{name}") for name in OPERATIONS]
    return [
        *(table for module in of_hot_paths for table in module.tables(names, seconds)),
        bench_memory.table(["n"] if quick else ["n", "x"], 100 if quick else 1000),
        bench_gil.table(names, seconds),
        bench_cuda_host.table(names, seconds / 3),
        bench_import.table(3 if quick else 9),
        bench_refusals.table(seconds / 4),
    ]


def around_figures(path: Path) -> tuple[str, str]:
    """What stands before and after the figures in `path`; ValueError where a marker is missing."""
    return harness.around_marks(path, BEGIN, END)


def write_markdown(
    path: Path, line: str, tables: Sequence[harness.Table], pictures: Sequence[str] = ()
) -> None:
    """Replace what stands between the two markers of `path`; `pictures` as seen from there."""
    sections = [f"Measured on: {line}."]
    sections += [f"![{Path(name).stem}]({name})" for name in pictures]
    sections += [table.markdown() for table in tables]
    harness.write_between_marks(path, BEGIN, END, sections)


def write_docs(folder: Path, about: dict[str, object], tables: Sequence[harness.Table]) -> None:
    """Put raw figures, pictures and tables into a folder of documents."""
    measured = harness.content(about, tables)
    harness.write_json(measured, folder / "benchmarks.json")
    drawn = plots.draw(measured, folder / "figures")
    pictures = [path.relative_to(folder).as_posix() for path in drawn]
    write_markdown(folder / "benchmarks.md", harness.machine_line(about), tables, pictures)


def main() -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--quick", action="store_true", help="one model, under a minute")
    harness.add_json(options)
    options.add_argument("--markdown", type=Path, help="put the tables into this file")
    options.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: only bench_cuda's table"
    )
    options.add_argument("--readme", type=Path, help="put a short table between its marks")
    options.add_argument(
        "--docs", type=Path, help="put benchmarks.json, figures/*.png and the tables there"
    )
    chosen = options.parse_args()
    if chosen.device == "cuda":
        names = ["n"] if chosen.quick else ["n", "s", "x"]
        bench_cuda.report(names, list(bench_cuda.OPERATIONS), chosen.json, chosen.markdown)
        return
    for path in (chosen.markdown, chosen.docs and chosen.docs / "benchmarks.md"):
        if path is not None:
            around_figures(path)  # before minutes of measuring
    if chosen.readme is not None:
        harness.around_marks(chosen.readme, summary.BEGIN, summary.END)
    about = harness.machine()
    print(harness.machine_line(about), flush=True)
    tables = run(chosen.quick)
    harness.show(about, tables, chosen.json)
    if chosen.markdown is not None:
        write_markdown(chosen.markdown, harness.machine_line(about), tables)
    if chosen.readme is not None:
        summary.write(harness.content(about, tables), chosen.readme)
    if chosen.docs is not None:
        write_docs(chosen.docs, about, tables)


if __name__ == "__main__":
    main()
