"""`python -m yolov5_utils yolo ARGUMENTS`: programs as pip installs them beside an interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from .command_line import ROOT, Result, assert_same, run

SEES = "import sys; print(sys.argv, __file__, sys.path[0], 'torch' in sys.modules)\n"
ENTRY_POINT = "y5-entry"  # pip writes its program
SCRIPT = "y5-script"  # of this one, pip writes the first line
WHEEL = {
    "y5_fake.py": "import sys\ndef main():\n    print(sys.argv, sys.path[0])\n    return 'ended'\n",
    f"y5_fake-1.data/scripts/{SCRIPT}": f"#!python\n{SEES}",
    "y5_fake-1.dist-info/entry_points.txt": f"[console_scripts]\n{ENTRY_POINT} = y5_fake:main\n",
    "y5_fake-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "y5_fake-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: y5-fake\nVersion: 1\n",
    "y5_fake-1.dist-info/RECORD": "",
}


@pytest.fixture(scope="module", params=["", "a_long_name" * 12], ids=["short", "long"])
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment in which a package has two of them.

    Where its path is long, pip starts python through /bin/sh.
    """
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    folder = tmp_path_factory.mktemp("environment") / request.param
    venv.create(folder, symlinks=True)
    wheel = tmp_path_factory.mktemp("wheel") / "y5_fake-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name, text in WHEEL.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16  # a file that pip leaves executable
            file.writestr(entry, text)
    bin = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--isolated", "--python", str(bin / "python"), "install")
    options = ("--quiet", "--no-index", "--no-deps", "--disable-pip-version-check")
    subprocess.run([*pip, *options, str(wheel)], check=True)
    return bin


def ours(programs: Path, *arguments: str, folder: Path) -> Result:
    command = (str(programs / "python"), "-m", "yolov5_utils")
    return run(command, *arguments, folder=folder, PYTHONPATH=str(ROOT))


def both(programs: Path, name: str, *arguments: str, folder: Path) -> tuple[Result, Result]:
    """The program through this package, and as the shell starts it."""
    stock = run((str(programs / name),), *arguments, folder=folder, PYTHONPATH=str(ROOT))
    return ours(programs, name, *arguments, folder=folder), stock


@pytest.mark.parametrize("name", [ENTRY_POINT, SCRIPT])
def test_program_runs_as_from_the_shell(programs: Path, name: str, tmp_path: Path) -> None:
    if name == ENTRY_POINT:
        by_shell = (programs / name).read_bytes().startswith(b"#!/bin/sh")
        assert by_shell == ("a_long_name" in str(programs))
    results = both(programs, name, "detect", "info", "--flag", folder=tmp_path)
    assert "'detect', 'info', '--flag'" in results[1].stdout
    assert results[1].returncode == (name == ENTRY_POINT)
    assert_same(results)


def test_folder_is_not_in_a_programs_way_but_a_file_is(programs: Path, tmp_path: Path) -> None:
    (tmp_path / SCRIPT).mkdir()  # say, a clone of yolov5
    assert_same(both(programs, SCRIPT, folder=tmp_path))
    (tmp_path / SCRIPT).rmdir()
    (tmp_path / SCRIPT).write_text("print('the file')\n")
    assert ours(programs, SCRIPT, folder=tmp_path).stdout == "the file\n"


def test_what_is_no_python_program_is_left_alone(programs: Path, tmp_path: Path) -> None:
    (programs / "y5-binary").write_bytes(b"\x7fELF")
    (programs / "y5-shell").write_text("#!/bin/sh\necho ran\n")
    (programs / "y5-loop").symlink_to("y5-loop")
    for name in ("y5-binary", "y5-shell", "y5-loop", f"../bin/{SCRIPT}"):
        result = ours(programs, name, folder=tmp_path)
        assert result.returncode == 2
        assert "can't open file" in result.stderr


def test_programs_of_the_user(tmp_path: Path) -> None:
    """As `pip install --user` puts them, where Python reads the user's packages."""
    venv.create(tmp_path / "environment", symlinks=True, system_site_packages=True)
    environments, users = tmp_path / "environment" / "bin", tmp_path / "user" / "bin"
    users.mkdir(parents=True)
    (users / SCRIPT).write_text(f"#!{environments / 'python'}\n{SEES}")
    (users / SCRIPT).chmod(0o755)
    found = {"PYTHONPATH": str(ROOT), "PYTHONUSERBASE": str(tmp_path / "user")}
    command = (str(environments / "python"), "-m", "yolov5_utils", SCRIPT, "--flag")
    stock = run((str(users / SCRIPT),), "--flag", folder=tmp_path, **found)
    assert "'--flag'" in stock.stdout
    assert_same((run(command, folder=tmp_path, **found), stock))

    without = run(command, folder=tmp_path, PYTHONNOUSERSITE="1", **found)
    assert without.returncode == 2
    assert "neither a command" in without.stderr
    (environments / SCRIPT).write_text("#!python\nprint('the environment has it too')\n")
    assert run(command, folder=tmp_path, **found).stdout == "the environment has it too\n"
