"""What users install: a source distribution, its wheel, and that this works elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
ALLOWED_LIBRARIES = {"libc.so.6", "libm.so.6", "libdl.so.2", "ld-linux-x86-64.so.2"}

pytest.importorskip("setuptools", reason="building needs setuptools")


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command; its failure shows what it printed. No build switch gets through."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("YOLOV5_", "PYTHONPATH"))
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, into: Path) -> Path:
    """What the build backend makes of `source`, a "sdist" or a "wheel"; no isolation, no index."""
    program = f"import setuptools.build_meta as b; print(b.build_{kind}({str(into)!r}))"
    return into / run(sys.executable, "-c", program, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution built from the files that a fresh clone would have."""
    clone = tmp_path_factory.mktemp("with space") / "clone"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    return build("sdist", clone, clone.parent)


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the source distribution alone."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # 3.11.4 and later
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    (source,) = folder.iterdir()
    return build("wheel", source, folder)


def test_sdist_holds_what_building_and_testing_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder, suffixes in (("csrc", (".c", ".h", ".inc")), ("tests", (".py", ".c", ".h"))):
        expected = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.suffix in suffixes
        }
        assert expected <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "yolov5_utils/py.typed"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"yolov5_utils/py.typed", "yolov5_utils/_C.pyi", "yolov5_utils/ops/ema.py"} <= set(names)
    assert [name for name in names if name.startswith("yolov5_utils/_C.") and name.endswith(".so")]
    assert [name for name in names if name.endswith("LICENSE")]
    strangers = [name for name in names if not re.match(r"yolov5_(utils/|torch_utils-)", name)]
    assert strangers == []
    assert not [name for name in names if name.endswith((".c", ".h", ".inc"))]


@pytest.mark.skipif(FREE_THREADED, reason="free-threaded builds have no stable ABI")
def test_wheel_serves_every_python_from_3_10_on(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name
    assert "yolov5_utils/_C.abi3.so" in zipfile.ZipFile(wheel).namelist()


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode()
    assert "Name: yolov5-torch-utils\n" in metadata
    assert re.search(r"^License(-Expression)?: MIT$", metadata, re.MULTILINE)
    assert "Requires-Python: >=3.10\n" in metadata
    required = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.MULTILINE)
    assert required == ["torch>=1.8"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_extension_needs_the_c_library_only(wheel: Path, tmp_path: Path) -> None:
    if not shutil.which("objdump"):
        pytest.skip("objdump is not installed")
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".so"))
    report = run("objdump", "-p", archive.extract(name, tmp_path), cwd=tmp_path)
    assert set(re.findall(r"NEEDED\s+(\S+)", report)) <= ALLOWED_LIBRARIES


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_extension_exports_its_init_function_only(wheel: Path, tmp_path: Path) -> None:
    if not shutil.which("nm"):
        pytest.skip("nm is not installed")
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".so"))
    listing = run("nm", "-D", "--defined-only", archive.extract(name, tmp_path), cwd=tmp_path)
    assert [line.split()[-1] for line in listing.splitlines()] == ["PyInit__C"]


def test_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import torch, yolov5_utils\n"
        "from yolov5_utils import _C, torch_utils\n"
        f"assert _C.__file__.startswith({str(site)!r}), _C.__file__\n"
        "ema = torch_utils.ModelEMA(torch.nn.Linear(2, 2))\n"
        "ema.update(torch.nn.Linear(2, 2))\n"
        "print(yolov5_utils.__version__)\n"
    )
    assert run(sys.executable, "-c", program, cwd=tmp_path).strip() in wheel.name
