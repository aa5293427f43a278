"""What the overlay saves in real jobs of PyPI's yolov5 7.0.14, and how much there is to save.

python -m benchmarks.bench_clients [--cfg yolov5s.yaml] [--imgsz 640] [--rounds 2]

Stock and overlaid processes take turns in the environment of the client tests (CLIENTS_ENV, made
where it is not there); each figure is the quickest round. The share is that of the hot callables
in the stock run: more than that cannot be saved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "clients"))

from environment import TORCH, Environment  # noqa: E402 - found by the line above
from releases import CLIENTS  # noqa: E402
from runs import OURS, Desk  # noqa: E402

IMPORT = ["-c", "import yolov5.train"]
UNDER_US = ["-c", "import yolov5_utils.auto; import yolov5.train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg", default="yolov5s.yaml")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    folder = Path(os.environ.get("CLIENTS_ENV") or ROOT / ".venv-clients").resolve()
    environment = Environment(folder)
    with tempfile.TemporaryDirectory() as work:
        environment.install(Path(work))
        desk = Desk(environment, CLIENTS["yolov5 7.0.14"], Path(work) / "desk")
        script = [str(ROOT / "benchmarks" / "client_jobs.py"), options.cfg, str(options.imgsz)]
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(options.rounds):
            for way, start, before in (("stock", IMPORT, []), ("ours", UNDER_US, OURS)):
                begin = time.perf_counter()
                desk.run(start, RECORD="")
                rows = {"start: import yolov5.train": [time.perf_counter() - begin, 0.0]}
                output = desk.run([*before, *script], RECORD="").output
                rows.update(json.loads(output.splitlines()[-1]))
                for job, figures in rows.items():
                    best = found.setdefault(job, {}).get(way)
                    found[job][way] = figures if best is None else min(best, figures)
    print(f"yolov5 7.0.14, {options.cfg}, {options.imgsz} px, {', '.join(TORCH)}, 1 thread, CPU")
    print("| job | stock s | with s | saved | hot paths, stock s | with s | share of stock |")
    print("|---|---|---|---|---|---|---|")
    for job, ways in found.items():
        (stock, hot), (ours, our_hot) = ways["stock"], ways["ours"]
        print(
            f"| {job} | {stock:.3f} | {ours:.3f} | {100 * (stock - ours) / stock:+.1f} % "
            f"| {hot:.4f} | {our_hot:.4f} | {100 * hot / stock:.2f} % |"
        )


if __name__ == "__main__":
    main()
