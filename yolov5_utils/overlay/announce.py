"""What the overlay says in a client's log: one line, in the process that the user looks at.

Imported once there is something to say. Must not import torch.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
from typing import Any

from .. import __version__
from ..messages import say, speaks

_said: set[tuple[str, str]] = set()
_waiting: list[_Waiting] = []


def once(subject: str, logger: Any, kind: str, text: str) -> None:
    """Log `text` with the next message of the logger, unless that was done for this subject.

    Never before the client itself says something: its log may go to a stdout that another program
    reads. `kind` is "info" or "warning". A warning is on stderr at the latest when Python ends.
    """
    if (subject, kind) in _said or not speaks():
        return
    _said.add((subject, kind))
    if isinstance(logger, logging.Logger):
        _waiting.append(_Waiting(logger, kind, text))
        if kind == "warning":
            atexit.register(_at_exit, _waiting[-1])
    elif kind == "warning":
        say(text)


def _at_exit(waiting: _Waiting) -> None:
    """Say what no message of the client's came for."""
    if waiting in _waiting:
        say(waiting.text)


def forget() -> None:
    """Say nothing that waits, and everything anew."""
    for waiting in list(_waiting):
        waiting.withdraw()
    _said.clear()


class _Waiting:
    """A filter that keeps nothing back: it is asked when the logger is about to say something.

    So it costs no call of a replaced callable a thing, and is silent where the client is.
    """

    def __init__(self, logger: logging.Logger, kind: str, text: str) -> None:
        self._logger, self._kind, self.text = logger, kind, text
        logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        ready = [each for each in _waiting if each._logger is self._logger and each._is_shown()]
        for each in ready:  # first, since they would be asked again for their own lines
            each.withdraw()
        with contextlib.suppress(Exception):  # a logger that fails is no reason to fail
            if speaks():  # not in a process that was forked meanwhile
                for each in ready:
                    getattr(each._logger, each._kind)(f"yolov5_utils {__version__}: {each.text}")
        return True

    def _is_shown(self) -> bool:
        """Whether the line would be seen: a warning is also where no log was set up."""
        if self._kind == "warning":
            return self._logger.isEnabledFor(logging.WARNING)
        return self._logger.isEnabledFor(logging.INFO) and self._logger.hasHandlers()

    def withdraw(self) -> None:
        # A new list: the logger may be in the middle of the old one.
        self._logger.filters = [other for other in self._logger.filters if other is not self]
        _waiting[:] = [other for other in _waiting if other is not self]
