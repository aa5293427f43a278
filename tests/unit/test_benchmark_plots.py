"""The pictures and tables that `make bench` puts into docs/: drawn from a few made-up figures."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from .. import older_torch
from ..support import ROOT, python

pytest.importorskip("matplotlib", reason="the pictures need matplotlib")
if older_torch.APPLIES:
    pytest.skip("the benchmarks' peers need torch 2.1", allow_module_level=True)

from benchmarks import __main__ as report
from benchmarks import bench_time_synchronized, harness, peers, plot_scale_out, plots, summary

ABOUT = {
    "cpu": "A CPU",
    "cores": 2,
    "level": "avx2",
    "torch": "9.9+cu999",
    "build": "CUDA 99.9",
    "threads": 2,
    "torch_level": "AVX2",
    "blas": "mkl",
    "python": "3.99",
    "load": 0.5,
}


def rows(model: str, threads: int, original: float, peer: float, share: float | None):
    """Rows as the benchmarks make them; the hot figures are others, which nothing may show."""
    found: list[dict] = [
        {"who": "original (a, b)", "cold_ratio": original, "cold_median_ms": 9.0},
        {"who": "original, channels last", "cold_ratio": 99.0, "cold_median_ms": 3.0},
        {"who": "slow peer", "cold_ratio": 2 * peer, "cold_median_ms": 5.0},
        {"who": "quick peer (reused)", "cold_ratio": peer, "cold_median_ms": 4.0},
        {"who": "package", "cold_share": share, "cold_median_ms": 1.0},
        {"who": "package, reused", "cold_ratio": 0.5, "cold_median_ms": 0.5},
    ]
    harness.mark_best_peer(found)
    hot = {"hot_ratio": 77.0, "hot_share": 0.77, "hot_median_ms": 0.1}
    return [{**hot, **row, "model": model, "threads": threads} for row in found]


def in_steps() -> list[dict]:
    """As bench_training's: no cold and hot, no limit."""
    compared = {"original (a, b)": 4.0, "kept lists (best peer)": 1.5}
    made = [{"who": who, "step_ratio": ratio} for who, ratio in compared.items()]
    return [{"model": "n", "threads": 1, **row} for row in (*made, {"who": "package"})]


def client_runs() -> list[dict]:
    saved = dict(zip(summary.JOBS, (0.02, 0.61, 0.87, 0.18), strict=True))
    return [
        {"job": job, "saved": share, "spread": 0.25 if "detect" in job else 0.01, "share": 0.023}
        for job, share in saved.items()
    ]


def tables() -> list[harness.Table]:
    ema = [*rows("n", 1, 6.0, 3.0, 0.8), *rows("x", 1, 2.0, 0.9, 1.1), *rows("n", 2, 7.0, 3.0, 0.4)]
    clock = rows("no GPU", 1, 20.0, 0.6, None)
    return [
        harness.Table("time_synchronized", harness.SPEED_COLUMNS, clock, []),
        harness.Table("ModelEMA.update", harness.SPEED_COLUMNS, ema, ["a note"]),
        harness.Table("Memory", harness.SPEED_COLUMNS, [{"who": "original"}], []),
        harness.Table(summary.IN_STEPS, harness.SPEED_COLUMNS, in_steps(), []),
        harness.Table(summary.CLIENT_RUNS, [harness.Column("job", "job")], client_runs(), []),
    ]


CONTENT = harness.content(ABOUT, tables())


def texts(figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_lines_are_the_hot_paths_on_one_thread():
    lines = plots.lines_of(CONTENT)
    assert [(line.path, line.model) for line in lines] == [
        (summary.IN_STEPS, "n"),
        ("ModelEMA.update", "n"),
        ("ModelEMA.update", "x"),
        ("time_synchronized", "no GPU"),
    ]
    steps, first, second, clock = lines
    assert (steps.original, steps.peer, steps.peer_name) == (4.0, 1.5, "kept lists")
    assert (first.original, first.peer, first.peer_name) == (6.0, 3.0, "quick peer")
    assert first.original_many == 7.0
    assert first.shares == {1: 0.8, 2: 0.4}
    assert second.original_many is None
    assert steps.shares == clock.shares == {}


def test_every_figure_is_written_beside_its_bar():
    figure = plots.speed_figure(CONTENT)
    shown = texts(figure)
    for text in ("4×", "6×", "3×  quick peer", "2×", "0.9×  quick peer", "20×"):
        assert text in shown
    assert {summary.IN_STEPS, "ModelEMA.update", "time_synchronized"} <= {*shown}
    widths = sorted(bar.get_width() for bar in figure.axes[0].patches)
    assert widths == pytest.approx(sorted(ratio - 1 for ratio in (4, 1.5, 6, 3, 2, 0.9, 20, 0.6)))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        *("YOLOv5n", "YOLOv5n", "YOLOv5x", "no GPU"),
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
    document.write_text(f"before\n\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    report.write_docs(tmp_path, ABOUT, tables())
    for name in ("speed.png", "limit.png"):
        picture = (tmp_path / "figures" / name).read_bytes()
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(picture) > 10_000
        assert f"(figures/{name})" in document.read_text()
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert harness.machine_line(ABOUT) in text
    assert "| n | 1 | original (a, b) | 9.000 |" in text
    assert "CUDA 99.9 build" in text
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == CONTENT


def test_pictures_can_be_drawn_again(tmp_path):
    source = tmp_path / "figures.json"
    harness.write_json(CONTENT, source)
    done = python("-m", "benchmarks.plots", source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / n) for n in ("speed.png", "limit.png")]


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="no figures of a hot path"):
        plots.draw(harness.content(ABOUT, tables()[2:3]), tmp_path)


def test_the_documents_of_this_repository_have_room_for_figures():
    head, tail = report.around_figures(ROOT / "docs" / "benchmarks.md")
    assert head.endswith("\n\n")
    assert tail.startswith(report.END)


def test_the_clock_is_timed_against_its_peers():
    table = bench_time_synchronized.table(0.01)
    assert [row["who"] for row in table.rows] == [
        "original (is_available, synchronize, time)",
        "time.time (best peer)",
        "package",
    ]
    assert all(1 < row["hot_quartile_ns"] <= row["hot_median_ns"] for row in table.rows)
    assert all(row["hot_ratio"] > 0 for row in table.rows[:2])


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
    head, begin, heading, _, steps, ema, clock, _, machine, _, gains, _, lost, end, foot = (
        path.read_text().splitlines()
    )
    assert (head, begin, end, foot) == ("head", summary.BEGIN, summary.END, "foot")
    assert heading.count("| YOLOv5n | YOLOv5x |") == 1
    assert steps == f"| `{summary.IN_STEPS}` | 4.0× |  | 1.5× | `kept lists` |"
    assert ema == "| `ModelEMA.update` | 6.0× | 2.0× | 0.9–3.0× | `quick peer` |"
    assert clock == "| `time_synchronized` | 20× | 20× | 0.6× | `quick peer` |"
    assert machine.startswith(harness.machine_line(ABOUT))
    assert "an epoch of training takes 2% less time;" in gains
    assert "pruning it takes 87% less time;" in gains
    assert "augmented detection differs by less than the noise of 25%." in gains
    assert "2.3%" in lost


def test_what_users_meet_is_measured_first(monkeypatch) -> None:
    for module in (report.bench_training, report.bench_clients):
        monkeypatch.setattr(module, "table", lambda *_, module=module, **__: module)
    first, second = itertools.islice(report.run(["n"], 0.1, clients=object()), 2)
    assert (first, second) == (report.bench_training, report.bench_clients)


def test_each_table_says_how_long_it_took(monkeypatch) -> None:
    clock = iter((0.0, 3.0, 10.0, 14.0, 20.0))
    monkeypatch.setattr(report.time, "perf_counter", lambda: next(clock))
    made = list(report.saying_seconds(tables()[1:3]))
    assert [table.notes[-1] for table in made] == ["measured in 3 s", "measured in 4 s"]


def test_caches_are_said_as_they_were() -> None:
    cold, *_, hot = plots.lines_of(CONTENT)
    assert (cold.hot, hot.hot) == (False, False)
    hot = hot._replace(hot=True)
    assert summary.caches([cold]) == "caches cold"
    assert summary.caches([hot]) == "caches hot"
    assert summary.caches([cold, hot]) == "caches cold (hot for time_synchronized)"
    rows_hot = [{"who": "original (a)", "hot_ratio": 2.0}, {"who": "package"}]
    table = harness.Table(
        "prune", [], [{"model": "n", "threads": 1, **row} for row in rows_hot], []
    )
    assert [line.hot for line in plots.lines_of(harness.content(ABOUT, [table]))] == [True]


def test_without_clients_nothing_is_said_of_whole_runs() -> None:
    assert summary.gains(harness.content(ABOUT, tables()[:-1])) == ""


def test_a_loss_is_said() -> None:
    assert summary._saved({"saved": -0.2, "spread": 0.1}) == "takes 20% more time"


def test_documents_say_what_was_measured() -> None:
    """The figures of the README, and the tables and their order, are those of the JSON."""
    content = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    for part in (summary.short_table(content), summary.gains(content)):
        assert part
        assert part in (ROOT / "README.md").read_text()
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    titles = [table["title"] for table in content["tables"]]
    assert titles[:2] == [summary.IN_STEPS, summary.CLIENT_RUNS]
    assert re.findall(r"^### (.*)$", text.partition(report.BEGIN)[2], re.MULTILINE) == titles
    assert harness.machine_line(content["machine"]) in text
    for picture in (plots.SPEED, plots.LIMIT):
        assert (ROOT / "docs" / "figures" / picture).stat().st_size > 10_000


def test_the_cost_of_many_ranks_is_drawn(tmp_path: Path) -> None:
    """A panel a model; every way that was computed, with what was measured of it."""

    def rows(ranks: tuple[int, ...]) -> list[dict[str, object]]:
        return [
            {"model": model, "ranks": rank, "who": who, "cold_quartile_ms": 8.0 / rank}
            for model in ("s", "x")
            for who in ("ShardedEMA", "full gather")
            for rank in ranks
        ]

    triad = {"model": "s", "ranks": 1, "who": "triad", "cold_quartile_ms": 1.0}
    measured = [*rows((1, 2, 4)), triad]
    found = [harness.Table("measured", (), measured, []), harness.Table("c", (), rows((8, 16)), [])]
    content = harness.content(ABOUT, found)
    figure = plot_scale_out.figure_of(content)
    assert [axis.get_title() for axis in figure.axes] == ["YOLOv5s", "YOLOv5x"]
    for axis in figure.axes:
        drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines]
        assert drawn == [([1, 2, 4], [8.0, 4.0, 2.0]), ([8, 16], [1.0, 0.5])] * 2
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["ShardedEMA", "full gather"]
    plot_scale_out.draw(content, tmp_path / "new" / "scale-out.png")
    assert (tmp_path / "new" / "scale-out.png").stat().st_size > 10_000
