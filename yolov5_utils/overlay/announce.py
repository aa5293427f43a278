"""What the overlay says in a client's log: one line, in the process that the user looks at.

Imported once there is something to say. Must not import torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any

_said: set[tuple[str, str]] = set()
_waiting: list[_Waiting] = []


def once(subject: str, logger: Any, kind: str, text: str) -> None:
    """Log `text` with the next message of the logger, unless that was done for this subject.

    Never before the client itself says something: its log may go to a stdout that another program
    reads. `kind` is "info" or "warning".
    """
    if (subject, kind) not in _said and _speaks() and isinstance(logger, logging.Logger):
        _said.add((subject, kind))
        _waiting.append(_Waiting(logger, kind, text))


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
        self._logger, self._kind, self._text = logger, kind, text
        logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        ready = [each for each in _waiting if each._logger is self._logger and each._is_shown()]
        for each in ready:  # first, since they would be asked again for their own lines
            each.withdraw()
        with contextlib.suppress(Exception):  # a logger that fails is no reason to fail
            if _speaks():  # not in a process that was forked meanwhile
                for each in ready:
                    getattr(each._logger, each._kind)(each._text)
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


def _speaks() -> bool:
    """True but on ranks other than the first, and in children of multiprocessing.

    Their name is set before they import anything of the program's; only the fork server, which
    imports the main module for its children, goes by that module's name alone.
    """
    if os.environ.get("RANK", "-1") not in ("-1", "0"):
        return False
    main = sys.modules.get("__mp_main__")
    process: Any = sys.modules.get("multiprocessing.process")
    return process is None or (
        process.current_process().name == "MainProcess"
        and getattr(main, "__name__", None) != "__mp_main__"
    )
