"""`python -m benchmarks`: every benchmark, one report."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from yolov5_utils.ops import OPERATIONS

from . import (
    bench_clients,
    bench_cuda,
    bench_cuda_host,
    bench_import,
    bench_levels,
    bench_memory,
    bench_refusals,
    bench_training,
    harness,
    plots,
    summary,
)

BEGIN = "<!-- figures: begin -->"
END = "<!-- figures: end -->"


def run(
    names: list[str], seconds: float, clients: bench_clients.Environment | None
) -> Iterator[harness.Table]:
    """All tables: so many seconds for each model and thread count, and the rest in proportion.

    What users meet comes first: the EMA in a training, and whole runs of a client.
    """
    yield bench_training.table(names[:2], [1, 2], steps=round(8 * seconds))
    if clients is not None:
        yield bench_clients.table(clients, "yolov5s.yaml", 640, rounds=2)
    for name in OPERATIONS:
        yield from import_module(f"{__package__}.bench_{name}").tables(names, seconds)
    yield bench_memory.table(list(dict.fromkeys((names[0], names[-1]))), round(75 * seconds))
    yield bench_levels.table(names[:1], seconds)
    yield from bench_cuda_host.tables(names, seconds / 2)
    yield bench_import.table(2 + round(seconds))
    yield bench_refusals.table(seconds / 4)


def saying_seconds(tables: Iterable[harness.Table]) -> Iterator[harness.Table]:
    """The same, each with a note of how long it took."""
    begin = time.perf_counter()
    for table in tables:
        table.notes.append(f"measured in {time.perf_counter() - begin:.0f} s")
        yield table
        begin = time.perf_counter()


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
    harness.add_models(options, "n,s,x")
    options.add_argument("--seconds", type=float, default=4.0, help="per model and thread count")
    options.add_argument("--no-clients", action="store_true", help="leave out whole client runs")
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
        operations = list(bench_cuda.OPERATIONS)
        bench_cuda.report(chosen.models, operations, chosen.json, chosen.markdown)
        return
    for path in (chosen.markdown, chosen.docs and chosen.docs / "benchmarks.md"):
        if path is not None:
            around_figures(path)  # before minutes of measuring
    if chosen.readme is not None:
        harness.around_marks(chosen.readme, summary.BEGIN, summary.END)
    about = harness.machine()  # before the installation, which counts as load
    clients = None if chosen.no_clients else bench_clients.install()
    begin = time.perf_counter()
    measured = run(chosen.models, chosen.seconds, clients)
    tables = harness.show(about, saying_seconds(measured), chosen.json)
    print(f"\nmeasured in {time.perf_counter() - begin:.0f} s")
    if chosen.markdown is not None:
        write_markdown(chosen.markdown, harness.machine_line(about), tables)
    if chosen.readme is not None:
        summary.write(harness.content(about, tables), chosen.readme)
    if chosen.docs is not None:
        write_docs(chosen.docs, about, tables)


if __name__ == "__main__":
    main()
