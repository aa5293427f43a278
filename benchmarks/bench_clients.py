"""What the overlay saves in real jobs of PyPI's yolov5 7.0.14, and how much there is to save.

python -m benchmarks.bench_clients [--cfg yolov5s.yaml] [--imgsz 640] [--rounds 4] [--docs FILE]

Stock and overlaid processes take turns in the environment of the client tests (CLIENTS_ENV, made
where it is not there). The share is that of the hot callables in the stock run: more than that
cannot be saved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import harness

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "clients"))

from environment import TORCH, Environment  # noqa: E402 - found by the line above
from releases import CLIENTS  # noqa: E402
from runs import OURS, Desk  # noqa: E402

BEGIN = "<!-- client figures: begin -->"
END = "<!-- client figures: end -->"
STOCK = "stock"
WAYS = (STOCK, "ours")
STARTS = {  # what each way gives to python
    "start: import yolov5.train": {
        STOCK: ["-c", "import yolov5.train"],
        "ours": ["-c", "import yolov5_utils.auto; import yolov5.train"],
    },
    "start: yolov5.detect --help": {
        STOCK: ["-m", "yolov5.detect", "--help"],
        "ours": [*OURS, "-m", "yolov5.detect", "--help"],
    },
}
COLUMNS = (
    harness.Column("job", "job"),
    harness.Column("stock s", "stock_s", "{:.3f}"),
    harness.Column("with s", "ours_s", "{:.3f}"),
    harness.Column("saved", "saved", "{:+.1%}"),
    harness.Column("spread of the rounds", "spread", "{:.1%}"),
    harness.Column("hot paths, stock s", "stock_hot_s", "{:.4f}"),
    harness.Column("with s", "ours_hot_s", "{:.4f}"),
    harness.Column("share of stock", "share", "{:.2%}"),
    harness.Column("calls in C", "calls"),
)
Figures = tuple[float, float, dict[str, int]]  # seconds, of these in hot callables, calls in C


def one_round(desk: Desk, way: str, script: list[str]) -> dict[str, Figures]:
    """Every job once by one way. The desk's processes get no variable of this one's environment,
    so they write and read byte code whatever is set here."""
    found: dict[str, Figures] = {}
    for job, ways in STARTS.items():
        begin = time.perf_counter()
        desk.run(ways[way], RECORD="")
        found[job] = (time.perf_counter() - begin, 0.0, {})
    before = OURS if way == "ours" else ()
    output = desk.run([*before, *script], RECORD="").output
    found.update(json.loads(output.splitlines()[-1]))
    return found


def table(desk: Desk, cfg: str, imgsz: int, rounds: int) -> harness.Table:
    """The jobs of both ways, which take turns at being first."""
    script = [str(ROOT / "benchmarks" / "client_jobs.py"), cfg, str(imgsz)]
    for ways in STARTS.values():
        for way in WAYS:
            desk.run(ways[way], RECORD="")  # the first one writes byte code and reads the disk
    found: dict[str, dict[str, list[Figures]]] = {}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            for job, figures in one_round(desk, way, script).items():
                found.setdefault(job, {name: [] for name in WAYS})[way].append(figures)
    rows = [row(job, ways) for job, ways in found.items()]
    notes = [
        f"PyPI's yolov5 7.0.14, {cfg}, {imgsz} px (trained with half of it); the quickest of "
        f"{rounds} rounds, in which stock and overlaid processes take turns",
        "spread: by how much the slowest round of the same process took longer than its quickest, "
        "the larger of both ways; what is saved or lost below that is noise",
    ]
    return harness.Table("Real client runs", COLUMNS, rows, notes)


def row(job: str, ways: dict[str, list[Figures]]) -> dict[str, Any]:
    """A line of the table, of the quickest round by either way."""
    (stock, stock_hot, _), (ours, ours_hot, calls) = (
        min(ways[way], key=lambda figures: figures[0]) for way in WAYS
    )
    seconds = [[figures[0] for figures in ways[way]] for way in WAYS]
    values = {
        "job": job,
        "stock_s": stock,
        "ours_s": ours,
        "saved": (stock - ours) / stock,
        "spread": max(max(times) / min(times) - 1 for times in seconds),
    }
    if stock_hot:
        values.update(stock_hot_s=stock_hot, ours_hot_s=ours_hot, share=stock_hot / stock)
        values["calls"] = ", ".join(f"{name} {count}" for name, count in calls.items()) or "none"
    return values


def machine_line() -> str:
    """What the figures depend on; torch is the clients', not this process's."""
    about = harness.machine()
    return (
        f"{about['cpu']}, {about['cores']} cores, package level {about['level']}; "
        f"{', '.join(TORCH)}, 1 thread a process, CPU; load {about['load']} at the start"
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg", default="yolov5s.yaml")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=4, help="an even number is fair")
    parser.add_argument("--docs", type=Path, help="put the table between this file's markers")
    options = parser.parse_args()
    if options.docs is not None:
        harness.around_marks(options.docs, BEGIN, END)  # before minutes of measuring
    folder = Path(os.environ.get("CLIENTS_ENV") or ROOT / ".venv-clients").resolve()
    environment = Environment(folder)
    line = machine_line()  # here, since the installation would count as load
    with tempfile.TemporaryDirectory() as work:
        environment.install(Path(work))
        desk = Desk(environment, CLIENTS["yolov5 7.0.14"], Path(work) / "desk")
        measured = table(desk, options.cfg, options.imgsz, options.rounds)
    print(f"{line}\n\n{measured.text()}")
    if options.docs is not None:
        sections = [f"Measured on: {line}.", measured.markdown()]
        harness.write_between_marks(options.docs, BEGIN, END, sections)


if __name__ == "__main__":
    main()
