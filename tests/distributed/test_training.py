"""The demo's detector under DDP and FSDP2, with an average that is compared after every step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .ranks import Ranks

pytestmark = pytest.mark.slow
Group = Callable[[int], Ranks]


@pytest.mark.parametrize("world", (2, 4))
def test_ddp_with_the_average_on_rank_0(ranks: Group, world: int) -> None:
    assert ranks(world).run("training_cases.under_ddp") == [3, *[0] * (world - 1)]


@pytest.mark.parametrize("world", (2, 4))
def test_fsdp2_with_a_sharded_average(ranks: Group, world: int) -> None:
    assert ranks(world).run("training_cases.under_fsdp2") == [3] * world
