"""Fixtures of several files here."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from .devices import device, emulated

__all__ = ["device", "emulated"]


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """messages(): the texts logged since the last time, at INFO, on the drop-in module's logger."""
    caplog.set_level(logging.INFO, logger="yolov5_utils.torch_utils")

    def read() -> list[str]:
        assert {(r.name, r.levelno) for r in caplog.records} <= {("yolov5_utils.torch_utils", 20)}
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    return read


@pytest.fixture
def message(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """message(): the one text logged so far, at INFO, on the drop-in module's logger."""
    caplog.set_level(logging.INFO, logger="yolov5_utils.torch_utils")

    def read() -> str:
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("yolov5_utils.torch_utils", logging.INFO)
        return record.getMessage()

    return read
