"""Groups of processes for the tests here, and what torch they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from yolov5_utils import probe

from .ranks import Ranks

if probe.release() < (2, 7):
    collect_ignore_glob = ["test_*.py"]  # tests/unit has what an older torch is told


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Ranks]]:
    """ranks(2): the group of two processes, the same for all tests; anew after a failed case."""
    groups: dict[int, Ranks] = {}

    def group(world: int) -> Ranks:
        if world in groups and not groups[world].is_whole:
            groups.pop(world).close()
        if world not in groups:
            groups[world] = Ranks(world, tmp_path_factory.mktemp(f"ranks-{world}-"))
        return groups[world]

    yield group
    for old in groups.values():
        old.close()
