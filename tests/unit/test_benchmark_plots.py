"""The pictures and tables that `make bench` puts into docs/: drawn from a few made-up figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .. import older_torch
from ..support import ROOT, python

pytest.importorskip("matplotlib", reason="the pictures need matplotlib")
if older_torch.APPLIES:
    pytest.skip("the benchmarks' peers need torch 2.1", allow_module_level=True)

from benchmarks import __main__ as report
from benchmarks import bench_time_synchronized, harness, peers, plots, summary

ABOUT = {
    "cpu": "A CPU",
    "cores": 2,
    "level": "avx2",
    "torch": "9.9",
    "torch_level": "AVX2",
    "blas": "mkl",
    "python": "3.99",
    "load": 0.5,
}


def rows(model: str, threads: int, original: float, peer: float, share: float | None):
    return [
        {**row, "model": model, "threads": threads, "median_ms": row["min_ms"]}
        for row in (
            {"who": "original (a, b)", "ratio": original, "min_ms": 9.0},
            {"who": "original, channels last", "ratio": 99.0, "min_ms": 3.0},
            {"who": "slow peer", "ratio": 2 * peer, "min_ms": 5.0},
            {"who": "quick peer, reused (best peer)", "ratio": peer, "min_ms": 4.0},
            {"who": "package", "share": share, "min_ms": 1.0},
            {"who": "package, reused", "ratio": 0.5, "min_ms": 0.5},
        )
    ]


def tables() -> list[harness.Table]:
    ema = [*rows("n", 1, 6.0, 3.0, 0.8), *rows("x", 1, 2.0, 0.9, 1.1), *rows("n", 2, 7.0, 3.0, 0.4)]
    clock = rows("no GPU", 1, 20.0, 0.6, None)
    return [
        harness.Table("time_synchronized", harness.SPEED_COLUMNS, clock, []),
        harness.Table("ModelEMA.update", harness.SPEED_COLUMNS, ema, ["a note"]),
        harness.Table("Memory", harness.SPEED_COLUMNS, [{"who": "original"}], []),
    ]


CONTENT = harness.content(ABOUT, tables())


def texts(figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_lines_are_the_hot_paths_on_one_thread():
    lines = plots.lines_of(CONTENT)
    assert [(line.path, line.model) for line in lines] == [
        ("ModelEMA.update", "n"),
        ("ModelEMA.update", "x"),
        ("time_synchronized", "no GPU"),
    ]
    first = lines[0]
    assert (first.original, first.peer, first.peer_name) == (6.0, 3.0, "quick peer")
    assert first.original_many == 7.0
    assert first.shares == {1: 0.8, 2: 0.4}
    assert lines[1].original_many is None
    assert lines[2].shares == {}


def test_every_figure_is_written_beside_its_bar():
    figure = plots.speed_figure(CONTENT)
    shown = texts(figure)
    for text in ("6×", "3×  quick peer", "2×", "0.9×  quick peer", "20×", "ModelEMA.update"):
        assert text in shown
    widths = sorted(bar.get_width() for bar in figure.axes[0].patches)
    assert widths == pytest.approx(sorted(ratio - 1 for ratio in (6, 3, 2, 0.9, 20, 0.6)))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        *("YOLOv5n", "YOLOv5x", "no GPU"),
    ]
    assert any("A CPU, 2 cores" in text.get_text() for text in figure.texts)


def test_shares_of_the_limit_are_drawn():
    shown = texts(plots.limit_figure(CONTENT))
    assert [text for text in shown if "%" in text] == ["80%", "40%", "110%"]
    assert "time_synchronized" not in shown


@pytest.mark.parametrize("make", (plots.speed_figure, plots.limit_figure))
def test_nothing_leaves_the_picture_or_covers_another_text(make):
    figure = make(CONTENT)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    axis = figure.axes[0]
    written = [*axis.texts, *axis.get_yticklabels(), *figure.texts]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in written]
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
    for i, (text, box) in enumerate(boxes):
        for other, another in boxes[:i]:
            assert not box.shrunk(0.98, 0.9).overlaps(another), (text, other)


def test_documents_are_written(tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_docs(tmp_path, ABOUT, tables())
    for name in ("speed.png", "limit.png"):
        picture = (tmp_path / "figures" / name).read_bytes()
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(picture) > 10_000
        assert f"(figures/{name})" in document.read_text()
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert harness.machine_line(ABOUT) in text
    assert "| n | 1 | original (a, b) | 9.000 |" in text
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == CONTENT


def test_pictures_can_be_drawn_again(tmp_path):
    source = tmp_path / "figures.json"
    harness.write_json(CONTENT, source)
    done = python("-m", "benchmarks.plots", source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / n) for n in ("speed.png", "limit.png")]


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="no figures of a hot path"):
        plots.draw(harness.content(ABOUT, tables()[2:]), tmp_path)


def test_the_documents_of_this_repository_have_room_for_figures():
    head, tail = report.around_figures(ROOT / "docs" / "benchmarks.md")
    assert head.endswith("\n\n")
    assert tail.startswith(report.END)


def test_the_clock_is_timed_against_its_peers():
    table = bench_time_synchronized.table(0.01)
    assert [row["who"] for row in table.rows] == [
        bench_time_synchronized.ORIGINAL,
        "time.time",
        "package",
    ]
    assert all(1 < row["min_ns"] <= row["median_ns"] for row in table.rows)
    assert all(row["ratio"] > 0 for row in table.rows[:2])


def test_the_original_waits_where_there_is_a_device(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert peers.original_time_synchronized() > 0
    assert waits == [1]


def test_short_table(tmp_path: Path) -> None:
    """Ratios of the row that the picture shows, too: not of the package's own variants."""
    path = tmp_path / "README.md"
    path.write_text(f"head\n{summary.BEGIN}\nold\n{summary.END}\nfoot\n")
    summary.write(CONTENT, path)
    head, begin, heading, _, ema, clock, _, machine, end, foot = path.read_text().splitlines()
    assert (head, begin, end, foot) == ("head", summary.BEGIN, summary.END, "foot")
    assert heading.count("| YOLOv5n | YOLOv5x |") == 1
    assert ema == "| `ModelEMA.update` | 6.0× | 2.0× | 0.9–3.0× | `quick peer` |"
    assert clock == "| `time_synchronized` | 20× | 20× | 0.6× | `quick peer` |"
    assert machine == f"{harness.machine_line(ABOUT)}; one thread."


def test_readme_says_what_was_measured() -> None:
    content = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    assert summary.short_table(content) in (ROOT / "README.md").read_text()
    for picture in (plots.SPEED, plots.LIMIT):
        assert (ROOT / "docs" / "figures" / picture).stat().st_size > 10_000
