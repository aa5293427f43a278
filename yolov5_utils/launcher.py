"""Runs a script or module as `python SCRIPT` or `python -m MODULE` would, in this very process.

Knows nothing of torch or the overlay.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType
from typing import Any


def cannot_open(script: str) -> int:
    """Say what python says of a script that it cannot open; python's exit code for it."""
    try:
        with open(script, "rb"):
            number = errno.EISDIR
    except OSError as error:
        number = error.errno or errno.ENOENT
    python = (getattr(sys, "orig_argv", None) or [sys.executable])[0]
    text = f"can't open file {_absolute(script)!r}: [Errno {number}] {os.strerror(number)}"
    print(f"{python}: {text}", file=sys.stderr)
    return 2


def run(script: str, arguments: Sequence[str]) -> None:
    """Run `script` as `__main__` with `arguments` in sys.argv.

    Its exceptions, SystemExit and KeyboardInterrupt among them, pass through to the interpreter,
    which reports them with the script's own frames only and exits as it always does.
    """
    module = _main_module(_absolute(script))
    sys.argv[:] = [script, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    sys.modules["__main__"] = module
    try:
        with io.open_code(str(module.__file__)) as file:
            code = compile(file.read(), str(module.__file__), "exec", dont_inherit=True)
        exec(code, vars(module))
    except BaseException:
        _report_without_our_frames()
        raise


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Run the module `name` as `__main__`, by the function that `python -m` itself calls.

    A module that is not there ends in python's own message and exit code; exceptions as for `run`.
    """
    sys.argv[:] = ["-m", *arguments]  # as long as packages are being imported
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.getcwd()
    sys.modules["__main__"] = _bare_main_module()
    try:
        runpy._run_module_as_main(name)  # type: ignore[attr-defined]
    except BaseException:
        _report_without_our_frames()
        raise


def _absolute(script: str) -> str:
    """The path that python shows: joined to the working directory, but not normalised."""
    return os.path.join(os.getcwd(), script)


def _main_module(file: str) -> ModuleType:
    """A `__main__` with the attributes python gives a script; worker processes look at them."""
    module: Any = _bare_main_module()
    module.__loader__ = SourceFileLoader("__main__", file)
    module.__file__ = file
    if sys.version_info < (3, 15):
        module.__cached__ = None
    result: ModuleType = module
    return result


def _bare_main_module() -> ModuleType:
    """A `__main__` as it is before python knows what to run."""
    module: Any = ModuleType("__main__")
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    module.__builtins__ = builtins
    result: ModuleType = module
    return result


def _report_without_our_frames() -> None:
    """Have the exception hook in force see the traceback from the frame after ours on."""
    hook = sys.excepthook

    def trimmed(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        entry, ours = traceback, None
        while entry is not None:
            ours = entry if entry.tb_frame.f_globals is globals() else ours
            entry = entry.tb_next
        theirs = traceback if ours is None else ours.tb_next
        hook(kind, error.with_traceback(theirs), theirs)

    sys.excepthook = trimmed
