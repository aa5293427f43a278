"""The benchmark of an update by many ranks: runs, and writes section, picture and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import bench_scale_out, plot_scale_out

LIMIT_S = 300


def test_runs_and_writes_its_section(tmp_path: Path) -> None:
    document = tmp_path / "scale-out.md"
    document.write_text(
        f"before\n{bench_scale_out.BEGIN}\nformer figures\n{bench_scale_out.END}\nafter\n"
    )
    command = [sys.executable, "-m", "benchmarks.bench_scale_out", "--docs", tmp_path]
    command += ["--models", "n", "--ranks", "1,2", "--seconds", "0.01"]
    subprocess.run(command, check=True, timeout=LIMIT_S, cwd=Path(__file__).parents[2])
    measured, computed = json.loads((tmp_path / "scale-out.json").read_text())["tables"]
    assert {row["ranks"] for row in measured["rows"]} == {1, 2}
    assert {row["ranks"] for row in computed["rows"]} == set(bench_scale_out.MANY)
    assert all(row["ratio"] > 0 for row in measured["rows"] if row["who"] == "ShardedEMA")
    assert "former figures" not in document.read_text()
    assert (tmp_path / "figures" / plot_scale_out.NAME).stat().st_size > 10_000
