"""Where the package lies and what lies beside it: odd paths, a home and a checkout that cannot be
written to, a second copy, a checkout that is not built, no torch."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from yolov5_utils import _C

from ..support import client_text
from .command_line import OURS, ROOT, run

PACKAGE = Path(_C.__file__).parent
BARE = (sys.executable, "-I", "-S", "-c")  # no package of this environment is found, torch neither


def copy_of(folder: Path, built: bool = True) -> Path:
    """A folder to import a copy of the package from."""
    ignored = shutil.ignore_patterns("__pycache__", *([] if built else ["*.so"]))
    shutil.copytree(PACKAGE, folder / "yolov5_utils", ignore=ignored)
    return folder


def info(folder: Path, **environment: str) -> list[str]:
    done = run(OURS, "info", folder=folder, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_path_with_spaces_and_other_letters(tmp_path: Path) -> None:
    """The package's and the client's."""
    folder = copy_of(tmp_path / "a b\tç%20'\"")
    (folder / "utils").mkdir()
    (folder / "utils" / "torch_utils.py").write_text(client_text())
    (folder / "train.py").write_text(
        "import sys, yolov5_utils\nfrom utils.torch_utils import sparsity\n"
        "print(yolov5_utils.__file__, yolov5_utils.is_patched('sparsity'))\n"
    )
    there = {"PYTHONPATH": str(folder)}
    done = run(OURS, "train.py", folder=folder, **there)
    assert done.stdout == f"{folder / 'yolov5_utils' / '__init__.py'} True\n", done.stderr
    assert any(str(folder / "yolov5_utils") in line for line in info(folder, **there))


def test_a_second_copy_is_named(tmp_path: Path) -> None:
    first, second = copy_of(tmp_path / "first"), copy_of(tmp_path / "second")
    lines = info(tmp_path, PYTHONPATH=os.pathsep.join(map(str, (first, second, first))))
    assert str(first / "yolov5_utils") in lines[0]
    others = [line.split(None, 2)[-1] for line in lines if line.startswith("another copy")]
    assert others[0] == f"{second / 'yolov5_utils'} is not used"
    assert len(set(others)) == len(others)


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'


def test_a_home_and_a_checkout_that_are_read_only(tmp_path: Path) -> None:
    """For root too: by a mount, in a namespace of its own."""
    folder = copy_of(tmp_path / "check out")
    mounted = ("unshare", "--mount", "sh", "-c", READ_ONLY, str(folder))
    if shutil.which("unshare") is None or run(mounted, "true").returncode:
        pytest.skip("nothing can be mounted here")
    there = {"HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(folder)}
    assert run(mounted, "touch", "new", folder=folder).returncode != 0
    (folder / "utils").mkdir()
    (folder / "utils" / "torch_utils.py").write_text(client_text())
    (folder / "train.py").write_text(
        "import yolov5_utils\nfrom utils.torch_utils import sparsity, nn\n"
        "print(sparsity(nn.BatchNorm2d(1)), yolov5_utils.calls()['sparsity']['C'])\n"
    )
    for arguments, said in ((("info",), "hot path ema"), (("train.py",), "tensor(0.5000) 1\n")):
        done = run((*mounted, *OURS), *arguments, folder=folder, **there)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout


def test_a_checkout_that_is_not_built(tmp_path: Path) -> None:
    """One sentence that names what helps: to build, or to leave it where one is installed."""
    checkout = copy_of(tmp_path / "check out", built=False)
    (checkout / "pyproject.toml").touch()
    start = f"import sys; sys.path[:0] = [{str(checkout)!r}]; "
    command = start + "from yolov5_utils.commands.cli import main; sys.exit(main(['info']))"
    said = f"yolov5_utils: the checkout {checkout} is not built. Remedy: "
    done = run(BARE, command, folder=checkout)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"{said}{shlex.quote(sys.executable)} -m pip install --no-deps --editable '{checkout}'\n"
    )

    installed = copy_of(tmp_path / "installed")
    start += f"sys.path += [{str(installed)!r}]; "
    done = run(BARE, start + command, folder=checkout)
    assert done.stderr == (
        f"{said}cd .. to import the package that is installed in {installed / 'yolov5_utils'}\n"
    )
    leave = f"{said}take the checkout off PYTHONPATH or sys.path to import"
    assert run(BARE, start + command, folder=tmp_path).stderr.startswith(leave)
    done = run(BARE, start + command, folder=checkout, PYTHONPATH=str(checkout))
    assert done.stderr.startswith(leave)
    torch = Path(__import__("torch").__file__).parents[1]
    code = start + f"sys.path += [{str(torch)!r}]; import yolov5_utils.torch_utils"
    last = run((sys.executable, "-S", "-c"), code, folder=checkout).stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {said}cd .. ")


def test_without_torch_the_import_ends_in_a_sentence(tmp_path: Path) -> None:
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; "
    done = run(BARE, code + "import yolov5_utils; print(len(dir(yolov5_utils)) > 30)")
    assert (done.stdout, done.stderr) == ("True\n", "")
    done = run(BARE, code + "import yolov5_utils.torch_utils")
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'torch'"
    command = code + "from yolov5_utils.commands.cli import main; sys.exit(main(['selftest']))"
    said = f"yolov5_utils: torch is not installed for {sys.executable}: install it first\n"
    assert run(BARE, command).stderr == said


TORCHES = {
    "too old": ("__version__ = '1.12.1+cu113'", "torch 1.12.1+cu113 is older than 1.13"),
    "broken": (
        "raise OSError('libcudart.so.11')",
        "torch cannot be imported: OSError: libcudart.so.11",
    ),
}


@pytest.mark.parametrize("torch", TORCHES)
@pytest.mark.parametrize("command", ["info", "selftest"])
def test_a_torch_that_will_not_do_is_a_sentence(tmp_path: Path, torch: str, command: str) -> None:
    text, said = TORCHES[torch]
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(text)
    done = run(OURS, command, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"yolov5_utils: {said}")
    assert done.stderr.count("\n") == 1
