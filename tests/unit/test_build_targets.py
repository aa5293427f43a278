"""What make made it may clear and remove, and nothing else, whatever the environment holds
and folders are called. Runs make on a copy of the tree with a Python that installs nothing."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MARKER = ".made-by-yolov5-utils"
CLIENTS = "tests/clients/environment.py"
SETTINGS = ("VENV", "PYTHON", "TORCH", "PIP_ARGS", "ARGS")
TARGETS = (
    "build",
    "test",
    "verify",
    "demo",
    "bench",
    "lint",
    "clients",
    "gpu",
    "nvcc",
    "wheel",
    "clean",
)
# Python that makes an empty environment, installs nothing, and is the real one otherwise.
STUB = f"""#!/bin/sh
for last; do :; done
case "$1 $2" in
  "-m venv") mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
  "-m pip") echo "$@" "$PIP_TARGET$PIP_PREFIX$PIP_ROOT$PIP_USER" >>"$PIP_LOG" ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


class Tree:
    """A copy of what make needs, and a folder of somebody else's beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"
        self.root.mkdir()
        for name in ("Makefile", "setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        for name in ("tools", "csrc", "cuda"):
            shutil.copytree(ROOT / name, self.root / name)
        for name in ("benchmarks", "examples", "tests", "yolov5_utils"):
            (self.root / name).mkdir()
        self.theirs = folder / "theirs"
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.program("python3", STUB)
        self.program("python", STUB)
        self.program("apt-get", "#!/bin/sh\nexit 1\n")
        for kept in (self.theirs, self.theirs / "bin"):
            kept.mkdir()
        (self.theirs / "thesis.txt").write_text("years of work")
        shutil.copy(self.programs / "python3", self.theirs / "bin" / "python")
        self.before = contents(self.theirs)

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def make(
        self, *arguments: str, user: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        hidden = (*SETTINGS, "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.root,
            env={
                **kept,
                "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
                "PIP_LOG": str(self.root / "pip.log"),
                "VIRTUAL_ENV": str(self.theirs),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            user=user,
        )

    def build(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """With the torch that the real Python has, so that none is to be installed."""
        torch = version("torch").partition("+")[0]
        return self.make("build", f"TORCH={torch}", *arguments, **environment)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_environments_variables_are_not_ours(tree: Tree, setting: str) -> None:
    """Each target uses what is said on the command line, and the environment's variable never."""
    word = "somebody-elses"
    assert word not in tree.make("--dry-run", *TARGETS, **{setting: word}).stdout
    for target in TARGETS:
        said = tree.make("--dry-run", target, f"{setting}={word}").stdout
        takes_arguments = target not in ("build", "lint", "nvcc", "wheel", "clean")
        used = {"ARGS": takes_arguments, "VENV": True}.get(setting, target != "clean")
        assert (word in said) == used, target


def test_the_benchmarks_have_an_environment_and_the_clients_torch(tree: Tree) -> None:
    said = tree.make("--dry-run", "bench").stdout
    (torch,) = re.findall(r'TORCH = \("torch==([\d.]+)"', (ROOT / CLIENTS).read_text())
    assert f"'TORCH={torch}'" in said
    assert "'VENV=.venv-bench'" in said
    assert '".venv-bench/bin/python" -m benchmarks' in said
    assert "'VENV=.venv'" in tree.make("--dry-run", "test").stdout


def test_build_and_clean_leave_an_exported_environment_alone(tree: Tree) -> None:
    done = tree.build(VENV=str(tree.theirs), PYTHON="false", TORCH="0.0", PIP_ARGS="--bad")
    assert done.returncode == 0, done.stderr
    assert (tree.root / ".venv" / MARKER).is_file()
    assert "--bad" not in (tree.root / "pip.log").read_text()
    assert tree.make("clean", VENV=str(tree.theirs)).returncode == 0
    assert not (tree.root / ".venv").exists()
    assert not (tree.root / "build").exists()
    assert contents(tree.theirs) == tree.before


def test_nothing_is_done_in_folders_of_exported_variables(tree: Tree) -> None:
    """A folder in CDPATH that looks like a checkout, and those that pip would install into."""
    shutil.copytree(tree.root / "tools", tree.theirs / "tools")
    for name in ("dist", "tests/__pycache__"):
        (tree.theirs / name).mkdir(parents=True)
        (tree.theirs / name / MARKER).touch()
    before = contents(tree.theirs)
    variables = ("CDPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")
    theirs = dict.fromkeys(variables, str(tree.theirs))
    for name in ("dist", "build"):
        (tree.root / name).mkdir()
    assert tree.build(**theirs).returncode == 0
    assert str(tree.theirs) not in (tree.root / "pip.log").read_text()
    assert tree.make("clean", **theirs).returncode == 0
    assert not (tree.root / ".venv").exists()
    assert contents(tree.theirs) == before


def test_nor_by_what_is_run_without_make(tree: Tree) -> None:
    """tools/test_torch.sh, as far as it comes with a pip that knows no torch."""
    variables = ("CDPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")
    shutil.copytree(tree.root / "tools", tree.theirs / "tools")
    (tree.theirs / "tools" / "marker.sh").write_text("touch entered")
    done = subprocess.run(
        ["tools/test_torch.sh", "oldest"],
        cwd=tree.root,
        env={
            "PATH": f"{tree.programs}{os.pathsep}{os.environ['PATH']}",
            "PIP_LOG": str(tree.root / "pip.log"),
            "XDG_CACHE_HOME": str(tree.root / "cache"),
            **dict.fromkeys(variables, str(tree.theirs)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip finds no torch" in done.stderr
    without = subprocess.run(
        ["tools/test_torch.sh"], cwd=tree.root, capture_output=True, text=True, check=False
    )
    assert (without.returncode, without.stderr.count("\n")) == (2, 1)
    assert without.stderr.startswith("usage: ")
    assert str(tree.theirs) not in (tree.root / "pip.log").read_text()
    assert not (tree.theirs / "entered").exists()


def test_a_file_or_folder_called_like_a_target_is_no_target(tree: Tree) -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):(?: ##|\n|.* ##)", text, re.MULTILINE)
    assert set(TARGETS) <= set(targets)
    for name in targets:
        if not (tree.root / name).exists():
            (tree.root / name).touch()
        assert "is up to date" not in tree.make("--dry-run", name).stdout, name


def readable_by_all(folder: Path) -> None:
    for parent in (folder, *folder.parents):
        if parent.is_relative_to(folder.parents[2]):
            parent.chmod(0o755)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root alone becomes another")
@pytest.mark.parametrize("target", TARGETS)
def test_in_a_checkout_that_cannot_be_written_to_each_target_is_a_sentence(
    tree: Tree, target: str
) -> None:
    readable_by_all(tree.root)
    before = contents(tree.root)
    done = tree.make(target, user=65534)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith(f"error: {tree.root} cannot be written to"), said
    assert contents(tree.root) == before


@pytest.mark.parametrize("python", ("pyton3", "/opt/python3.12"))
def test_a_python_that_is_not_there_is_named(tree: Tree, python: str) -> None:
    """And nothing is installed: Debian has no package that would bring it."""
    tree.program("apt-get", f"#!/bin/sh\ntouch '{tree.root}/asked'\n")
    done = tree.make("build", f"PYTHON={python}")
    assert f"error: PYTHON={python}: there is no such program\n" in done.stderr
    assert not (tree.root / "asked").exists()


@pytest.mark.parametrize("where", ("theirs", ".venv"))
def test_an_unmarked_folder_is_refused_and_kept(tree: Tree, where: str) -> None:
    """Also one of an earlier release, whose .venv has no mark: the sentence says what to do."""
    if where == ".venv":
        tree.theirs.rename(tree.root / ".venv")
        tree.theirs = tree.root / ".venv"
    done = tree.build(f"VENV={tree.theirs}")
    assert done.returncode != 0
    assert f"{tree.theirs} is there already" in done.stderr
    assert f"touch {tree.theirs}/{MARKER}" in done.stderr
    cleaned = tree.make("clean", f"VENV={tree.theirs}")
    assert cleaned.returncode == 0
    assert f"{tree.theirs} stays" in cleaned.stdout
    assert contents(tree.theirs) == tree.before
    assert not (tree.root / "pip.log").exists()

    (tree.theirs / MARKER).touch()
    assert tree.build(f"VENV={tree.theirs}").returncode == 0
    assert tree.make("clean", f"VENV={tree.theirs}").returncode == 0
    assert not tree.theirs.exists()


def test_only_a_marked_environment_of_another_python_is_cleared(tree: Tree) -> None:
    assert tree.build().returncode == 0
    python = tree.root / ".venv" / "bin" / "python"
    (tree.root / ".venv" / "rest").touch()
    assert tree.build().returncode == 0
    assert (tree.root / ".venv" / "rest").exists()  # all in place: nothing is done
    python.write_text("#!/bin/sh\necho another release\n")
    assert tree.build().returncode == 0
    assert not (tree.root / ".venv" / "rest").exists()
    assert (tree.root / ".venv" / MARKER).is_file()
    (tree.root / ".venv" / MARKER).unlink()
    python.write_text("#!/bin/sh\necho another release\n")
    assert tree.build().returncode != 0
    assert python.read_text() == "#!/bin/sh\necho another release\n"


def test_clean_keeps_what_was_there_before(tree: Tree) -> None:
    names = ("build", "demo_output", ".venv-bench", ".venv-clients", "dist", "venv")
    for name in names:
        shutil.copytree(tree.theirs, tree.root / name)
        (tree.root / name / "__pycache__").mkdir()
    assert tree.build().returncode == 0
    assert tree.make("clean").returncode == 0
    for name in names:
        kept = contents(tree.root / name)
        assert {file: kept.get(file) for file in tree.before} == tree.before, name
        assert (tree.root / name / "__pycache__").is_dir(), name


def test_a_checkout_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before setuptools fails in its own words."""
    check = setup_names(monkeypatch)["check_folder"]
    check()
    monkeypatch.setattr(check.__globals__["os"], "access", lambda path, mode: False)
    with pytest.raises(SystemExit, match="cannot be written to: build from a copy of it"):
        check()


def setup_names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py defines, without its setup()."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    return runpy.run_path(str(ROOT / "setup.py"))


@pytest.mark.parametrize("missing", ("compiler", "its headers", "Python.h"))
def test_a_machine_that_cannot_compile_is_told_its_packages(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """In one line, which names what is missing alone."""
    check = setup_names(monkeypatch)["check_machine"]
    tree.program("no-headers", "#!/bin/sh\nexit 1\n")
    tree.program("compiler", "#!/bin/sh\nexit 0\n")
    include = tmp_path / "include"
    include.mkdir()
    monkeypatch.setattr(check.__globals__["sysconfig"], "get_path", lambda name: str(include))
    compiler = {"compiler": "absent", "its headers": "no-headers"}.get(missing, "compiler")
    if missing != "Python.h":
        (include / "Python.h").touch()
    with pytest.raises(SystemExit) as ended:
        check([str(tree.programs / compiler)])
    line = str(ended.value)
    assert "\n" not in line
    assert ("gcc libc6-dev" in line, "gcc glibc-devel" in line) == (missing != "Python.h",) * 2
    headers = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev" in line
    assert (headers, "python3-devel" in line) == (missing == "Python.h",) * 2
    (include / "Python.h").touch()
    check([str(tree.programs / "compiler")])


@pytest.mark.parametrize(("target", "folder"), (("wheel", "dist"), ("demo", "demo_output")))
def test_results_of_somebody_elses_are_refused_and_kept(
    tree: Tree, target: str, folder: str
) -> None:
    shutil.copytree(tree.theirs, tree.root / folder)
    torch = version("torch").partition("+")[0]
    done = tree.make(target, f"TORCH={torch}")
    assert done.returncode != 0
    assert f"error: {folder} is there already" in done.stderr
    assert contents(tree.root / folder) == tree.before


def test_clean_removes_what_make_made(tree: Tree) -> None:
    assert tree.build().returncode == 0
    for name in ("demo_output", ".venv-bench", ".venv-clients", ".mypy_cache", "tests/__pycache__"):
        (tree.root / name).mkdir()
        (tree.root / name / MARKER).touch()
    (tree.root / "yolov5_utils" / "_C.abi3.so").touch()
    before = {*contents(tree.root)}
    assert any(name.startswith("build/") for name in before)
    assert tree.make("clean").returncode == 0
    left = ("Makefile", "setup.py", "pyproject.toml", "tools/", "csrc/", "cuda/", "pip.log")
    assert {*contents(tree.root)} == {name for name in before if name.startswith(left)}
