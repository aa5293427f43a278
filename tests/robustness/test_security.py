"""What SECURITY.md says never happens: Python's audit hooks watch a process that builds the
package, or that does all it can do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ..support import ROOT, python

# Events of Python's own, by their beginnings, that would be a way in or out.
FORBIDDEN = (
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request"),
    *("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"),
    *("tempfile.", "os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "open to write"),
)
# What runs before the watch begins is torch's import, which starts programs and threads of its own.
WATCH = f"""
import os, sys
found = []
def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        event = "open to write"
    if event.startswith({FORBIDDEN!r}):
        found.append((event, str(arguments)[:200]))
"""
WORK = """
import threading
import torch
import yolov5_utils, yolov5_utils.torch_utils
from yolov5_utils.ops import OPERATIONS
before = threading.active_count()
sys.addaudithook(watch)
for operation in OPERATIONS.values():
    operation.call(*operation.usual())
    yolov5_utils.explain(operation.public_names[0], *operation.usual())
yolov5_utils.info()
assert threading.active_count() == before
"""


def watched(code: str, *, beside: str = "") -> list[str]:
    """What a process was seen to do."""
    done = python("-B", "-c", f"{WATCH}{code}\n{beside}\nprint('seen', found)")
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("seen ")]


def test_a_run_reaches_for_nothing() -> None:
    assert watched(WORK) == ["seen []"]


@pytest.mark.parametrize(
    ("reach", "event"),
    [
        ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", "socket.connect"),
        (
            "import pickle, fractions; pickle.loads(pickle.dumps(fractions.Fraction))",
            "pickle.find_class",
        ),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import os, tempfile; os.rmdir(tempfile.mkdtemp())", "tempfile.mkdtemp"),
        ("import os; open(os.devnull, 'a')", "open to write"),
    ],
)
def test_the_watch_is_awake(reach: str, event: str) -> None:
    (line,) = watched("sys.addaudithook(watch)", beside=reach)
    assert event in line


def test_programs_get_their_arguments_as_a_list(tmp_path: Path) -> None:
    """git_describe, of a folder whose name a shell would run."""
    folder = tmp_path / "$(touch made); touch made"
    folder.mkdir()
    done = python(
        "-c",
        "import sys; from yolov5_utils.torch_utils import git_describe; git_describe(sys.argv[1])",
        folder,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("made"))


def test_the_build_asks_nobody(tmp_path: Path) -> None:
    """All of setup.py; in place of the compiler stands a program that does nothing."""
    folders = [f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"]
    arguments = ["setup.py", "-q", "build_ext", *folders]
    text = f"{WATCH}sys.addaudithook(watch)\nimport runpy\nsys.argv = {arguments!r}\n"
    text += "runpy.run_path('setup.py', run_name='__main__')\n"
    text += "print('seen', [f for f in found if f[0].startswith(('socket', 'urllib', 'pickle'))])"
    done = python("-c", text, folder=ROOT, CC="true", YOLOV5_UTILS_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert "seen []" in done.stdout


def test_no_source_names_a_way_out() -> None:
    """Neither the package nor the build speaks of a network, a shell or a pickle."""
    words = ("import socket", "urllib", "http.client", "import requests", "shell=True", "os.system")
    words += ("os.popen", "import pickle", "pickle.load", "torch.load(", " eval(", "(eval(")
    files = [*(ROOT / "yolov5_utils").rglob("*.py"), ROOT / "setup.py", ROOT / "cuda" / "build.py"]
    assert len(files) > 40
    assert [(file.name, word) for file in files for word in words if word in file.read_text()] == []
    assert sys.version_info >= (3, 10)
