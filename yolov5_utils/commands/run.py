"""Runs as `python SCRIPT` or `python -m MODULE` would, in this very process.

Knows nothing of torch or the overlay. What python does stands in CPython's Modules/main.c and
Python/pythonrun.c.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import marshal
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from importlib.util import MAGIC_NUMBER
from pkgutil import get_importer
from types import CodeType, ModuleType, TracebackType
from typing import Any

_BYTE_CODE_HEADER_BYTES = 16  # magic number, flags, and the source's time and size (PEP 552)


def run(script: str, arguments: Sequence[str]) -> int:
    """Run `script` as `__main__` with `arguments` in sys.argv: a file with a program or its byte
    code, a folder or zip file with a `__main__.py`, or for `-` the program that stdin holds.

    The exit code: 2, with python's own message, where the file cannot be opened, or 0. Exceptions,
    SystemExit and KeyboardInterrupt among them, pass through to the interpreter, which reports
    them with the script's own frames only and exits as it always does.
    """
    file = _absolute(script)
    sys.argv[:] = [script, *arguments]
    if script == "-":
        _lead_path("")
        _execute("<stdin>", sys.stdin.buffer.read() if sys.stdin else b"")
    elif get_importer(file) is not None:  # a folder or zip file
        _lead_path(file, even_if_safe=True)
        _run_named("__main__", is_option_m=False)
    else:
        try:
            with io.open_code(file) as opened:
                content = opened.read()
        except OSError as error:
            return _cannot_open(file, error)
        _lead_path(_folder(script))
        _execute(file, content)
    return 0


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Run the module `name` as `__main__`.

    A module that is not there ends in python's own message and exit code; exceptions as for `run`.
    """
    sys.argv[:] = ["-m", *arguments]  # as long as packages are being imported
    _lead_path(os.getcwd())
    _run_named(name, is_option_m=True)


def _absolute(script: str) -> str:
    """The path that python shows: joined to the working directory, but not normalised."""
    if os.path.isabs(script):
        return script
    if script in ("", ".") and sys.version_info >= (3, 11):
        return os.getcwd()
    return os.path.join(os.getcwd(), script)


def _folder(script: str) -> str:
    """The folder of the file itself, or of its name where that is a pipe's, such as /dev/fd/63."""
    try:
        return os.path.dirname(os.path.realpath(script, strict=True))
    except OSError:
        return os.path.dirname(script)


def _cannot_open(file: str, error: OSError) -> int:
    """Say what python says of a script that it cannot open; python's exit code for it."""
    python = (getattr(sys, "orig_argv", None) or [sys.executable])[0]
    text = f"can't open file {file!r}: [Errno {error.errno}] {error.strerror}"
    print(f"{python}: {text}", file=sys.stderr)
    return 2


def _lead_path(entry: str, even_if_safe: bool = False) -> None:
    """Put `entry` first in sys.path, in place of what Python has put there for this package.

    It has put nothing there under the options -P and -I.
    """
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[0] = entry
    elif even_if_safe:
        sys.path.insert(0, entry)


def _run_named(name: str, is_option_m: bool) -> None:
    """Run a module by the function that python itself calls, for -m and for folders."""
    sys.modules["__main__"] = _main_module()
    try:
        runpy._run_module_as_main(name, is_option_m)  # type: ignore[attr-defined]
    except BaseException:
        _report_without_our_frames()
        raise


def _execute(file: str, content: bytes) -> None:
    """Run what is in `file` in a new `__main__`."""
    module: Any = _main_module()
    is_byte_code = file.endswith(".pyc") or content[:2] == MAGIC_NUMBER[:2]
    if file != "<stdin>":
        loader = SourcelessFileLoader if is_byte_code else SourceFileLoader
        module.__loader__ = loader("__main__", file)
    module.__file__ = file
    if sys.version_info < (3, 15):
        module.__cached__ = None
    sys.modules["__main__"] = module
    try:
        exec(_code(file, content, is_byte_code), vars(module))
    except BaseException:
        _report_without_our_frames()
        raise
    finally:  # before threads are waited for, or an error or sys.exit's text is printed
        for stream in ("stderr", "stdout"):  # which the script may have deleted
            with contextlib.suppress(Exception):
                getattr(sys, stream).flush()
    for name in ("__file__", "__cached__"):  # gone for threads and atexit handlers
        vars(module).pop(name, None)


def _code(file: str, content: bytes, is_byte_code: bool) -> CodeType:
    if not is_byte_code:
        return compile(content, file, "exec", dont_inherit=True)
    if not content.startswith(MAGIC_NUMBER):
        raise RuntimeError("Bad magic number in .pyc file")
    code = marshal.loads(content[_BYTE_CODE_HEADER_BYTES:])
    if not isinstance(code, CodeType):
        raise RuntimeError("Bad code object in .pyc file")
    return code


def _main_module() -> ModuleType:
    """A `__main__` as it is before python knows what to run; worker processes look at it."""
    module: Any = ModuleType("__main__")
    module.__loader__ = BuiltinImporter
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    module.__builtins__ = builtins
    result: ModuleType = module
    return result


def _report_without_our_frames() -> None:
    """Have the exception hook in force see the traceback from the frame after ours on."""
    if not hasattr(sys, "excepthook"):  # the script has deleted it: python says so
        return
    hook = sys.excepthook

    def trimmed(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        sys.excepthook = hook
        entry, ours = traceback, None
        while entry is not None:
            ours = entry if entry.tb_frame.f_globals is globals() else ours
            entry = entry.tb_next
        theirs = traceback if ours is None else ours.tb_next
        sys.last_traceback = theirs  # what is looked at after the end, as by pdb.pm()
        hook(kind, error.with_traceback(theirs), theirs)

    sys.excepthook = trimmed
