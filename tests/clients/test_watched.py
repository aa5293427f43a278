"""What a user put in place of torch's functions is called under the overlay as often as without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from runs import Outcome, Pair

JOBS = {"validate": "fuse", "detect, augmented": "scale_img", "prune": "prune"}  # job -> hot path


@pytest.fixture(scope="module", params=JOBS)
def counted(
    newest: Pair, report: Callable[..., None], request: pytest.FixtureRequest
) -> tuple[str, Outcome]:
    """A job with wrappers around what the hot callables call in torch, and its hot path."""
    newest.job("train")
    what, arguments = newest.client.jobs[request.param]
    arguments, folder = [*arguments], f"counted-{JOBS[request.param]}"
    arguments[arguments.index("--name") + 1] = folder
    stock = [*newest.route.stock(newest.stock, what), *arguments]
    ours = [*newest.route.ours(newest.ours, what), *arguments]
    outcome = newest.both(stock, ours, folder, COUNT="1")
    report(newest.client.name, newest.route.name, f"{request.param}, counted", outcome)
    return JOBS[request.param], outcome


def test_it_is_called_as_often(counted: tuple[str, Outcome]) -> None:
    _, outcome = counted
    assert outcome.differences() == []
    assert outcome.stock.end["counts"]


def test_c_has_left_the_calls_to_torch(counted: tuple[str, Outcome]) -> None:
    operation, outcome = counted
    package = outcome.ours.end["package"]
    assert package["calls"][operation]["C"] == 0
    assert package["calls"][operation]["torch"] > 0
    assert any("was replaced" in reason for reason in package["reasons"][operation])
