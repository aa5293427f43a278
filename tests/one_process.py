"""A plugin of pytest, -p tests.one_process: what starts a program is skipped, for runs in which a
program takes long to start."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

STARTS = ("subprocess.Popen", "os.system", "os.posix_spawn")
started: list[str] | None = None  # by the part of a test that runs


def refuse(event: str, _: tuple[Any, ...]) -> None:
    if started is not None and event in STARTS:
        started.append(event)
        pytest.skip("starts a program")


sys.addaudithook(refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Whatever the test makes of being refused."""
    global started
    started = []
    try:
        return (yield)
    finally:
        events, started = started, None
        if events:
            pytest.skip("starts a program")


pytest_runtest_setup = pytest_runtest_call
