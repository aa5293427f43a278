"""Edited client files behave the same with the overlay as without; see edits.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from compare import HERE
from environment import Environment
from releases import CLIENTS
from runs import Desk

EDITS = 60
WAYS = ("import", "late", "loader")
# An edit of one function leaves the others in C.
REPLACED = 0.4  # at least, of the edits that execute


class Found(NamedTuple):
    """What edits.py printed."""

    differences: list[dict]
    summary: dict


@pytest.fixture
def seed() -> int:
    """Printed, so that the same edits can be drawn again."""
    seed = int(os.environ.get("CI_SEED") or 1)
    print(f"edits of CI_SEED={seed}")
    return seed


@pytest.fixture
def edited(environment: Environment, tmp_path: Path) -> Callable[..., Found]:
    """Runs edits of one client."""

    def run(name: str, seed: int, count: int, *options: str) -> Found:
        client = CLIENTS[name]
        desk = Desk(environment, client, tmp_path / "desk")
        words = [client.torch_utils, str(seed * 1000), str(count), *options]
        output = desk.run([HERE / "edits.py", *words], YOLO_AUTOINSTALL="false").output
        lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"')]
        *differences, summary = lines
        print(json.dumps(summary, indent=1))
        return Found(differences, summary)

    return run


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in CLIENTS])
def test_nothing_is_replaced_that_would_differ(
    edited: Callable[..., Found], seed: int, name: str
) -> None:
    count = EDITS * int(os.environ.get("YOLOV5_UTILS_TEST_ROUNDS") or 1)
    found = edited(name, seed, count)
    assert found.differences == []
    assert sorted(found.summary["hot"]) == sorted(CLIENTS[name].hot)
    for way in WAYS:
        tally = found.summary[way]
        assert tally["edits"] == (count if way == "import" else count // 2)
        assert tally["executed"] >= tally["edits"] / 2
        assert tally["with something replaced"] >= REPLACED * tally["executed"]
    for hot in CLIENTS[name].hot:
        assert sum(found.summary[way]["replaced"].get(hot, 0) for way in WAYS) > 0, hot
        assert sum(found.summary[way]["left"].get(hot, 0) for way in WAYS) > 0, hot


def test_overlay_that_does_not_look_is_noticed(edited: Callable[..., Found]) -> None:
    """Each way shows what the comparison of codes and global names is for."""
    found = edited("yolov5 7.0.14", 1, EDITS, "--plant")
    assert {difference["way"] for difference in found.differences} == set(WAYS)
