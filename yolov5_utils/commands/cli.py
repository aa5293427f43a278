"""The command line: run a client script with the overlay, or info, selftest, and a checkout's demo.

Must not import torch before the client script does.
"""

from __future__ import annotations

import importlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from .. import __version__, install_hint
from ..switches import ALL as SWITCHES
from ..switches import STRICT, check, set_level

_WRONG_USE = 2  # python's exit code for that

_USAGE = """\
usage: python -m yolov5_utils SCRIPT.py [ARGUMENT ...]
       python -m yolov5_utils -m MODULE [ARGUMENT ...]
       python -m yolov5_utils PROGRAM [ARGUMENT ...]
       python -m yolov5_utils COMMAND [--help]

Runs SCRIPT.py (also a folder, a zip file, or - for stdin) or MODULE as python would, or a PROGRAM
that is installed beside this Python (yolo, yolov5), with the hot paths of YOLOv5's
utils/torch_utils.py in C.

commands:
  info [--json]  what is installed, how it was built, and which way each hot path runs
  selftest       compare every hot path in C with plain torch, bit for bit (seconds)
  demo           train, prune, fuse and time a small detector on drawn shapes (in a checkout)

options:
  -h, --help     show this text
  --version      show the version

environment:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's): the exit code.

    A client script's own SystemExit and exceptions pass through.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(_usage(), end="", file=sys.stderr)
        return 2
    first, rest = arguments[0], arguments[1:]
    if first in ("-h", "--help"):
        print(_usage(), end="")
        return 0
    if first == "--version":
        print(f"yolov5_utils {__version__}")
        return 0
    if first in _COMMANDS:
        return _run_command(first, rest)
    if first.startswith("-") and first not in ("-", "-m"):
        return _fail(f"unknown option {first} (see --help)")
    if first == "-m" and not rest:
        return _fail("-m needs the name of a module")
    problem = _check_build()
    if problem == _WRONG_USE or (problem and STRICT.on()):
        return problem

    from .. import patch
    from .run import run, run_module

    if not problem:  # else the client runs as it is, as was said
        patch()
    if first == "-m":
        run_module(rest[0], rest[1:])
        return 0
    script = _installed_program(first) or first
    hint = f"; did you mean {first}.py?" if os.path.isfile(f"{first}.py") else ""
    if hint and os.path.isdir(script) and not _has_main(script):
        return _fail(f"the folder {first} has no __main__.py{hint}", 1)
    code = run(script, rest)
    if code and (hint or "/" not in first) and not first.endswith(".py"):  # after python's message
        commands = ", ".join(_COMMANDS)
        _fail(f"{first!r} is neither a command ({commands}) nor a file nor a program{hint}")
    return code


def _has_main(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, f"__main__.{kind}")) for kind in ("py", "pyc"))


def _run_command(name: str, arguments: list[str]) -> int:
    problem = _check_build()
    if problem is not None:
        return problem
    if find_spec("torch") is None:
        return _fail(f"torch is not installed for {sys.executable}: install it first", 1)
    try:
        importlib.import_module("torch")
    except Exception as error:
        return _fail(f"torch cannot be imported: {type(error).__name__}: {error}", 1)
    try:
        importlib.import_module("yolov5_utils._native")
    except ImportError as error:  # a torch that is too old
        return _fail(str(error).removeprefix("yolov5_utils: "), 1)
    try:
        code = _COMMANDS[name](arguments)
        sys.stdout.flush()  # else a reader that is gone shows only at exit
        return code
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _installed_program(name: str) -> str | None:
    """The file of a Python program that pip has put beside this interpreter, or None.

    After those come the user's (`pip install --user`), unless this Python leaves out the user's
    packages, as most environments do. None too where `name` is a file here; a folder `yolov5`, say
    a clone, is not in the way.
    """
    if os.path.basename(name) != name or (os.path.exists(name) and not os.path.isdir(name)):
        return None
    folders = [sysconfig.get_path("scripts")]
    if site.ENABLE_USER_SITE:
        folders.append(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    files = (os.path.join(folder, name) for folder in folders)
    return next(filter(_is_python_program, files), None)


def _is_python_program(file: str) -> bool:
    try:
        with open(file, "rb") as opened:
            head = opened.read(4096)  # of a long path, only the second line names python
    except OSError:
        return False
    return head.startswith(b"#!") and b"python" in head


def _usage() -> str:
    lines = []
    for switch in SWITCHES:
        values = ", ".join(value for value in switch.values if value)
        lines.append(f"  {switch.name}: {switch.meaning} ({values})\n")
    return _USAGE + "".join(lines)


def _fail(text: str, code: int = _WRONG_USE) -> int:
    print(f"yolov5_utils: {text}", file=sys.stderr)
    return code


def _check_build() -> int | None:
    """An exit code, and a line that says why, where the switches or the extension are broken."""
    try:
        check()
        try:
            install_hint.refuse_truncated("yolov5_utils._C")
            from .. import _C
        except ImportError as error:
            return _fail(install_hint.for_broken_extension(error), 1)
        set_level(_C.configure)
    except ValueError as error:
        return _fail(str(error))
    return None


def _info(arguments: list[str]) -> int:
    if arguments not in ([], ["--json"]):
        return _fail(f"info takes nothing or --json, not {' '.join(arguments)}")
    from .info import info

    facts = info(ask_gpus=True)
    print(facts.as_json() if arguments else facts)
    return 0


def _selftest(arguments: list[str]) -> int:
    if arguments:
        return _fail(f"selftest takes no arguments, not {' '.join(arguments)}")
    from .selftest import run

    return run()


def _demo(arguments: list[str]) -> int:
    from pathlib import Path

    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "examples" / "demo" / "story.py").is_file():
        return _fail("the demo is in examples/demo of a checkout, where `make demo` runs it", 1)
    sys.path.insert(0, str(checkout))
    demo = importlib.import_module("examples.demo")
    return int(demo.main(arguments))


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "info": _info,
    "selftest": _selftest,
    "demo": _demo,
}
