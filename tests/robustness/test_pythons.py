"""The one extension in each Python at hand, without torch: torch_free.py there, isolated from what
is installed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from yolov5_utils import _C

from ..native.building import run, succeed

ROOT = Path(__file__).parents[2]
RELEASES = ("3.10", "3.11", "3.12", "3.13", "3.14")
TELL = """import sys, sysconfig
print("%d.%d" % sys.version_info[:2], sysconfig.get_config_var("Py_GIL_DISABLED"))"""
DRIVER = Path(__file__).with_name("torch_free.py")


def interpreter(release: str) -> Path:
    """A Python of a release, also of those that pyenv keeps; the test is skipped without one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*pyenv.glob(f"{release}.*/bin/python3"), shutil.which(f"python{release}")]
    for each in map(Path, filter(None, found)):
        told = run(each, "-c", TELL)  # pyenv's own python3.12 may only say that it is not there
        if told.stdout in (f"{release} None\n", f"{release} 0\n"):  # has its GIL
            return each
    pytest.skip(f"no Python {release} is installed")


@pytest.mark.parametrize("release", RELEASES)
def test_without_torch(release: str) -> None:
    if not _C.info()["limited_api"] and not sys.version.startswith(release + "."):
        pytest.skip("this extension was built for this Python alone")
    said = succeed(interpreter(release), "-S", DRIVER, ROOT)
    assert said.splitlines()[-1] == "done"
