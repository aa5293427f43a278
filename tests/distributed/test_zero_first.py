"""torch_distributed_zero_first among real processes: turns, time-outs, and who is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .ranks import Ranks
from .zero_first_cases import PATIENCE_S

pytestmark = pytest.mark.slow
Group = Callable[[int], Ranks]
with_and_without_a_limit = pytest.mark.parametrize("timeout_s", (None, PATIENCE_S))


@with_and_without_a_limit
def test_rank_0_is_first(ranks: Group, tmp_path: Path, timeout_s: float | None) -> None:
    found = ranks(2).run("zero_first_cases.takes_turns", str(tmp_path), 2, timeout_s)
    assert found == [[False, False], [True, True]]


@with_and_without_a_limit
def test_the_others_are_let_go(ranks: Group, timeout_s: float | None) -> None:
    said = ranks(2).run("zero_first_cases.raises_on_rank_0", timeout_s)
    assert said == ["disk full", "went on"]


def test_who_is_missing_is_named(ranks: Group, tmp_path: Path) -> None:
    _, (said, seconds) = ranks(2).run("zero_first_cases.rank_0_does_not_come")
    assert said == (
        "torch_distributed_zero_first: rank 1 waited 1 s, and of 2 ranks these have not come: 0"
    )
    assert seconds < PATIENCE_S
    test_rank_0_is_first(ranks, tmp_path, PATIENCE_S)  # all meet again


def test_a_rank_that_dies_is_named(ranks: Group) -> None:
    with pytest.raises(AssertionError, match="rank 0: ") as raised:
        ranks(2).run("zero_first_cases.rank_0_dies")
    assert "rank 1: " not in str(raised.value)


@with_and_without_a_limit
def test_local_rank_0_of_each_host_is_first(
    ranks: Group, tmp_path: Path, timeout_s: float | None
) -> None:
    """Four ranks as on two hosts."""
    found = ranks(4).run("zero_first_cases.takes_turns", str(tmp_path), 2, timeout_s)
    assert found == [[False, False], [True, True]] * 2
