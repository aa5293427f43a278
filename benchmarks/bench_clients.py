"""What the overlay saves in real jobs of PyPI's yolov5 7.0.14, and how much there is to save.

python -m benchmarks.bench_clients [--cfg yolov5s.yaml] [--imgsz 640] [--rounds 4]

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
from pathlib import Path
from typing import Any

from . import harness, summary

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "clients"))

from environment import TORCH, Environment  # noqa: E402 - found by the line above
from releases import CLIENTS  # noqa: E402
from runs import OURS, Desk  # noqa: E402

STOCK = "stock"
WAYS = (STOCK, "ours")
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


def jobs(desk: Desk, way: str, script: list[str]) -> dict[str, Figures]:
    """Every job once by one way. The desk's processes get no variable of this one's environment,
    so they write and read byte code whatever is set here."""
    before = OURS if way == "ours" else ()
    output = desk.run([*before, *script], RECORD="").output
    found: dict[str, Figures] = json.loads(output.splitlines()[-1])
    return found


def install() -> Environment:
    """The clients' environment, made where it is not there."""
    folder = Path(os.environ.get("CLIENTS_ENV") or ROOT / ".venv-clients").resolve()
    environment = Environment(folder)
    with tempfile.TemporaryDirectory() as work:
        environment.install(Path(work))
    return environment


def table(environment: Environment, cfg: str, imgsz: int, rounds: int) -> harness.Table:
    """The jobs of both ways, which take turns at being first."""
    script = [str(ROOT / "benchmarks" / "client_jobs.py"), cfg, str(imgsz)]
    found: dict[str, dict[str, list[Figures]]] = {}
    with tempfile.TemporaryDirectory() as work:
        desk = Desk(environment, CLIENTS["yolov5 7.0.14"], Path(work) / "desk")
        for number in range(rounds):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                for job, figures in jobs(desk, way, script).items():
                    found.setdefault(job, {name: [] for name in WAYS})[way].append(figures)
    notes = [
        f"PyPI's yolov5 7.0.14, {cfg}, {imgsz} px (trained with half of it), on the CPU; "
        f"{', '.join(TORCH)}, 1 thread a process",
        f"the quickest of {rounds} rounds, in which stock and overlaid processes take turns; every "
        "job is here, also one in which nothing is saved",
        "spread: by how much the slowest round of the same process took longer than its quickest, "
        "the larger of both ways; what is saved or lost below that is noise",
        "share of stock: the part of the stock run that its hot functions take",
    ]
    return harness.Table(
        summary.CLIENT_RUNS, COLUMNS, [row(job, ways) for job, ways in found.items()], notes
    )


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


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--cfg", default="yolov5s.yaml")
    options.add_argument("--imgsz", type=int, default=640)
    options.add_argument("--rounds", type=int, default=4, help="an even number is fair")
    harness.add_json(options)
    harness.run(options, lambda chosen: [table(install(), chosen.cfg, chosen.imgsz, chosen.rounds)])
