"""How the benchmarks time: cold before hot, in turns, and which row is the best peer's."""

from __future__ import annotations

import pytest

from benchmarks import harness


@pytest.fixture
def order(monkeypatch) -> list[str]:
    """What happens while candidates are timed."""
    happened: list[str] = []
    monkeypatch.setattr(harness, "touch", lambda: happened.append("touch"))
    monkeypatch.setattr(harness, "MAX_CALLS_PER_TURN", 2)
    return happened


def candidate(name: str, order: list[str]) -> harness.Candidate:
    return harness.Candidate(
        *(name, lambda: order.append(name), lambda: order.append("prepare")),
        renew=lambda: order.append("renew"),
    )


def test_a_turn_is_one_cold_call_and_some_hot_ones(order):
    """The memory is touched last before the cold call, so that nothing renewed is hot."""
    timings = harness.interleave([candidate(name, order) for name in "AB"], 0)
    turns = [
        step
        for name in "AB"
        for step in ("prepare", "renew", "touch", name, "renew", name, "renew", name)
    ]
    assert order == turns * harness.MIN_ROUNDS
    for both in timings.values():
        assert both.cold.calls == harness.MIN_ROUNDS
        assert both.hot.calls == 2 * harness.MIN_ROUNDS


def test_a_long_call_is_made_once_a_turn_and_counts_as_both(order, monkeypatch):
    monkeypatch.setattr(harness, "LONG_CALL_S", 0.0)
    both = harness.interleave([candidate("A", order)], 0)["A"]
    assert order.count("A") == harness.MIN_ROUNDS
    assert both.cold == both.hot


def test_touching_writes_all_of_it():
    before = harness._touched().clone()
    harness.touch()
    touched = harness._touched()
    assert 4 * touched.numel() == harness.TOUCHED_BYTES == 64 * 2**20
    assert bool((touched == before + 1).all())


def test_figures_of_samples():
    timing = harness.Timing.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert timing == (1.0, 2.0, 3.0, 5)


def test_rows_compare_each_state_with_its_own():
    def both(cold: float, hot: float) -> harness.Timings:
        return harness.Timings(*(harness.Timing(s, s, 2 * s, 9) for s in (cold, hot)))

    timings = {
        "original (a)": both(8.0, 4.0),
        "quick when cold": both(3.0, 3.0),
        "quick when hot": both(4.0, 1.0),
        "package": both(2.0, 1.0),
        "package, otherwise": both(1.0, 1.0),
        "limit": both(1.0, 0.25),
    }
    rows = {row["who"]: row for row in harness.speed_rows(timings, {"model": "n"}, ["limit"])}
    assert {row["model"] for row in rows.values()} == {"n"}
    original, package = rows["original (a)"], rows["package"]
    assert (original["cold_ratio"], original["hot_ratio"]) == (4.0, 4.0)
    assert (original["cold_median_ms"], original["cold_quartile_ms"]) == (16e3, 8e3)
    assert (package["cold_share"], package["hot_share"]) == (0.5, 0.25)
    assert [who for who in rows if who.endswith(harness.BEST_PEER)] == [
        f"quick when cold{harness.BEST_PEER}"
    ]
    assert "cold_ratio" not in rows["limit"]
    cells = harness.Table("", harness.SPEED_COLUMNS, [original], []).cells()
    assert "16000.000" in cells[1]


def test_the_machine_line_says_the_build_and_the_threads():
    about = harness.machine()
    line = harness.machine_line(about)
    assert f"torch {about['torch']} ({about['build']} build" in line
    assert f"{about['threads']} threads" in line
    assert f"package level {about['level']}" in line
