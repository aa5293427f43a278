"""make gpu: what its stages may take, what a failure and a missing GPU become, and how figures come
into docs/gpu.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tools import gpu_check, gpu_docs
from tools.gpu_check import Stage

ROOT = Path(__file__).parents[2]
WITHOUT_GPU = {
    "torch": "2.13.0",
    "device": None,
    "nvidia_smi": None,
    "cores": 2,
    "load": 0.5,
    "commit": "0123456789",
    "changed": False,
    "date": "2026-12-01",
}
WITH_GPU = {**WITHOUT_GPU, "device": "NVIDIA H200", "nvidia_smi": "NVIDIA H200, 580.159.04"}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """check(facts, stages, arguments…): the status of a run in an empty folder."""

    def run(about: dict[str, Any], stages: tuple[Stage, ...], *arguments: str) -> int:
        monkeypatch.setattr(gpu_check, "FOLDER", tmp_path / "gpu")
        monkeypatch.setattr(gpu_check, "DOCS", tmp_path / "docs")
        monkeypatch.setattr(gpu_check, "STAGES", stages)
        monkeypatch.setattr(gpu_check, "facts", lambda: about)
        monkeypatch.setattr(sys, "argv", ["gpu_check", *arguments])
        return gpu_check.main()

    return run


def written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gpu" / "run.json").read_text())
    return found


def test_ten_minutes_are_enough() -> None:
    assert gpu_check.DEADLINE_S < 600
    names = [stage.name for stage in gpu_check.STAGES]
    assert len(set(names)) == len(names)
    for stage in gpu_check.STAGES:
        assert 0 < stage.limit_s < gpu_check.DEADLINE_S, stage.name


@pytest.mark.parametrize("stage", gpu_check.STAGES, ids=lambda stage: stage.name)
def test_stages_are_bash_and_name_what_is_there(stage: Stage) -> None:
    done = subprocess.run(["bash", "-n", "-c", stage.command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"\b(?:tests|tools)/[\w./]+", stage.command):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\btest_\w+\.py", stage.command):
        assert (ROOT / "tests" / "unit" / name).exists(), name
    for module in re.findall(r"-m (benchmarks\.\w+)", stage.command):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def test_a_missing_gpu_is_said(
    check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = (Stage("first", 9, True, "exit 1"), Stage("second", 9, False, "echo $device"))
    assert check(WITHOUT_GPU, stages) == 0
    said = capsys.readouterr().out
    assert "No GPU was there" in said
    assert "Not run: first." in said
    results = {told["stage"]: told for told in written(tmp_path)["stages"]}
    assert results["first"]["result"] == "not run"
    assert (results["second"]["result"], results["second"]["says"]) == ("passed", "cpu")


def test_a_gpu_that_torch_does_not_see_is_no_missing_one(
    check: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check({**WITHOUT_GPU, "nvidia_smi": "NVIDIA H200, 580"}, ()) == 1
    assert "There is a GPU (NVIDIA H200, 580), and torch 2.13.0 sees none" in (
        capsys.readouterr().out
    )


def test_a_failed_stage_is_the_runs_failure(
    check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the others are run, the one with a GPU on it."""
    stages = (
        Stage("bad", 9, False, "echo reason; false; echo not reached"),
        Stage("absent", 9, True, "echo no such program; exit 77"),
        Stage("good", 9, True, "echo $device"),
    )
    assert check(WITH_GPU, stages) == 1
    said = capsys.readouterr().out
    assert "Failed: bad." in said
    assert "    reason" in said
    results = [(told["result"], told["says"]) for told in written(tmp_path)["stages"]]
    assert results == [("FAILED", "reason"), ("not run", "no such program"), ("passed", "cuda")]


def test_a_stage_ends_at_its_limit_with_all_it_started(check: Any, tmp_path: Path) -> None:
    begin = time.monotonic()
    late = tmp_path / "late"
    assert check(WITHOUT_GPU, (Stage("slow", 1, False, f"(sleep 3; touch {late}) & wait"),)) == 1
    assert time.monotonic() - begin < 2.5
    assert written(tmp_path)["stages"][0]["says"] == "cut off after 1 s"
    time.sleep(3)
    assert not late.exists()


def test_no_time_left_is_a_failure(
    check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "DEADLINE_S", 0)
    assert check(WITHOUT_GPU, (Stage("late", 9, False, "true"),)) == 1
    assert written(tmp_path)["stages"][0]["says"] == "no time left"


def test_unknown_stages_are_an_error(check: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check(WITHOUT_GPU, (Stage("one", 9, False, "true"),), "--only", "one,two")
    assert "the stages are one" in capsys.readouterr().err


MEASURE = """cat >$out/some.json <<'END'
{"machine": {"cpu": "a CPU"}, "tables": [{"title": "On a GPU", "notes": ["a note"], "rows": [
 {"operation": "ema", "input": "n", "who": "original", "total_us": 5000.0, "launches": 876},
 {"operation": "ema", "input": "n", "who": "package", "total_us": 1000.0, "launches": 1}]}]}
END"""


def test_a_runs_figures_come_into_the_documents(check: Any, tmp_path: Path) -> None:
    document = tmp_path / "docs" / "gpu.md"
    document.parent.mkdir()
    shutil.copy(ROOT / "docs" / "gpu.md", document)
    assert check(WITH_GPU, (Stage("measure", 9, True, MEASURE),), "--docs") == 0
    text = document.read_text()
    assert "Measured on 2026-12-01, commit 0123456789 as committed: NVIDIA H200, 580.159.04" in text
    assert "load 0.5 at the start" in text
    assert "| ema | n | original | 5000.0 | 876 |" in text
    assert "| measure | passed |" in text
    lines = gpu_docs.lines_of(gpu_docs.own_files("ema"))
    assert lines > 100
    assert f"| `ModelEMA.update` | {lines} | a thousand training steps | n: 4 s |" in text
    found = json.loads((document.parent / "gpu.json").read_text())
    gpu_docs.write(document, found)
    assert document.read_text() == text


def test_without_a_gpu_no_figures_are_written(
    check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(WITHOUT_GPU, (), "--docs") == 1
    assert "--docs: no GPU is there" in capsys.readouterr().out
    assert not (tmp_path / "docs").exists()


def test_the_documents_figures_are_those_of_the_json() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    found = json.loads((ROOT / "docs" / "gpu.json").read_text())
    for part in gpu_docs.figures(found):
        assert part in text


def test_every_file_for_gpus_is_counted_once() -> None:
    own = [path for operation in gpu_docs.FELT for path in gpu_docs.own_files(operation)]
    assert len(set(own)) == len(own)
    assert {path.name for path in own} >= {"prune_select.cuh", "fuse_gpu.c", "fuse_gpu.py"}
