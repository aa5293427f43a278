"""What users install: a source distribution, its wheel, and that this works elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import timeit
import zipfile
from pathlib import Path

import pytest

from ..support import client_text

ROOT = Path(__file__).parents[2]
STARTUP = "yolov5_utils_overlay.pth"
ALLOWED_LIBRARIES = {"libc.so.6", "libm.so.6", "libdl.so.2"}
ALLOWED_LIBRARIES |= {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}

pytest.importorskip("setuptools", reason="building needs setuptools")
pytestmark = pytest.mark.slow


def start(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command and what it printed. No build switch gets through but `environment`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("YOLOV5_", "PYTHONPATH"))}
    return subprocess.run(
        command, cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False
    )


def run(*command: str | Path, cwd: Path, cuda: str = "0") -> str:
    """The output of a command; its failure shows what it printed."""
    done = start(*command, cwd=cwd, YOLOV5_UTILS_CUDA=cuda)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, into: Path, cuda: str = "0") -> Path:
    """What the build backend makes of `source`, a "sdist" or a "wheel"; no isolation, no index."""
    program = f"import setuptools.build_meta as b; print(b.build_{kind}({str(into)!r}))"
    return into / run(sys.executable, "-c", program, cwd=source, cuda=cuda).splitlines()[-1]


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


def unpacked(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # 3.11.4 and later
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    (source,) = folder.iterdir()
    return source


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the source distribution alone, without the CUDA library."""
    folder = tmp_path_factory.mktemp("wheel")
    return build("wheel", unpacked(sdist, folder), folder)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_wheel_holds_the_cuda_library(sdist: Path, tmp_path: Path) -> None:
    made = build("wheel", unpacked(sdist, tmp_path), tmp_path, cuda="1")
    assert "yolov5_utils/libyolov5_utils_cuda.so" in zipfile.ZipFile(made).namelist()


def test_sdist_holds_what_building_and_testing_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder, suffixes in (
        ("csrc", (".c", ".h", ".inc")),
        ("tests", (".py", ".c", ".h")),
        ("benchmarks", (".py",)),
        ("examples", (".py",)),
    ):
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
    assert strangers == [STARTUP]
    assert not [name for name in names if name.endswith((".c", ".h", ".inc"))]


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
    assert [re.sub(r"[ ()]", "", line) for line in required] == ["torch>=1.13"]


def said_of_the_extension(wheel: Path, folder: Path, *command: str) -> str:
    """What a program that reads ELF files says of the wheel's extension."""
    if sys.platform != "linux" or not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed, or there is no ELF file")
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if "/_C." in n and n.endswith(".so"))
    return run(*command, archive.extract(name, folder), cwd=folder)


def test_extension_needs_the_c_library_only(wheel: Path, tmp_path: Path) -> None:
    report = said_of_the_extension(wheel, tmp_path, "objdump", "-p")
    assert set(re.findall(r"NEEDED\s+(\S+)", report)) <= ALLOWED_LIBRARIES


def test_extension_exports_its_init_function_only(wheel: Path, tmp_path: Path) -> None:
    listing = said_of_the_extension(wheel, tmp_path, "nm", "-D", "--defined-only")
    assert [line.split()[-1] for line in listing.splitlines()] == ["PyInit__C"]


def test_extension_loads_on_old_systems(wheel: Path, tmp_path: Path) -> None:
    """Whatever the glibc here is: dlopen and others have a newer version since 2.34."""
    listing = said_of_the_extension(wheel, tmp_path, "objdump", "-T")
    versions = re.findall(r"GLIBC_([\d.]+)", listing)
    assert versions
    assert max(tuple(map(int, version.split("."))) for version in versions) <= (2, 17)


def test_extension_is_stripped(wheel: Path, tmp_path: Path) -> None:
    assert ".symtab" not in said_of_the_extension(wheel, tmp_path, "objdump", "-h", "-w")
    assert "no symbols" in said_of_the_extension(wheel, tmp_path, "objdump", "-t")


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


class Installed:
    """A fresh virtual environment with the wheel, and with the torch of the one that tests."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        self.pip("install", "--no-deps", "--no-index", str(wheel))
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = Path(self.run("-c", code, cwd=folder).stdout.strip())
        import torch

        (self.site / "torch_of_the_tests.pth").write_text(str(Path(torch.__file__).parents[1]))

    def pip(self, *arguments: str) -> None:
        command = (sys.executable, "-m", "pip", "--python", self.python, *arguments)
        run(*command, cwd=self.python.parent)

    def run(self, *arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        return start(self.python, *arguments, cwd=cwd, **more)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed") / "venv", wheel)


ON = {"YOLOV5_UTILS_OVERLAY": "1"}
# Says for itself, for a spawned worker and for a process of its own whether the client is patched.
CLIENT = """
import multiprocessing, subprocess, sys
if __name__ == "__main__":
    before = {"torch", "numpy", "ast", "yolov5_utils._native"} & set(sys.modules)
    assert not before, before
from utils import torch_utils
def patched(_=None):
    return hasattr(torch_utils.sparsity, "__yolov5_utils__")
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(patched(), pool.map(patched, [0])[0], flush=True)
    code = "from train import patched; print(patched())"
    sys.exit(subprocess.run([sys.executable, "-c", code]).returncode)
"""


@pytest.fixture
def client(tmp_path: Path) -> Path:
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "torch_utils.py").write_text(client_text())
    (tmp_path / "train.py").write_text(CLIENT)
    return tmp_path


def test_start_up_file_is_installed_and_uninstalled(wheel: Path, tmp_path: Path) -> None:
    installed = Installed(tmp_path / "venv", wheel)
    assert (installed.site / STARTUP).read_text() == (ROOT / STARTUP).read_text()
    installed.pip("uninstall", "--yes", "yolov5-torch-utils")
    left = [path.name for path in installed.site.iterdir() if "yolov5" in path.name]
    assert left == []


@pytest.mark.parametrize("value", [None, "", "0"])
def test_start_up_file_does_nothing_when_off(
    installed: Installed, client: Path, value: str | None
) -> None:
    off = {} if value is None else {"YOLOV5_UTILS_OVERLAY": value}
    code = "import sys; print([n for n in sys.modules if n.startswith(('yolov5', 'torch'))])"
    result = installed.run("-c", code, cwd=client, **off)
    assert (result.stdout, result.stderr) == ("[]\n", "")
    imported = installed.run("-X", "importtime", "-c", "", cwd=client, **off).stderr
    assert "site" in imported
    assert "yolov5" not in imported
    assert installed.run("train.py", cwd=client, **off).stdout == "False False\nFalse\n"


def test_start_up_line_takes_less_than_a_millisecond_when_off() -> None:
    """As `site` runs it: compiled anew and executed."""
    line = (ROOT / STARTUP).read_text()
    assert "YOLOV5_UTILS_OVERLAY" not in os.environ
    seconds = min(timeit.repeat(lambda: exec(line, {}), number=1, repeat=20))
    assert seconds < 1e-3


def test_start_up_file_patches_every_process_when_on(installed: Installed, client: Path) -> None:
    result = installed.run("train.py", cwd=client, **ON)
    assert result.stdout == "True True\nTrue\n", result.stderr
    assert result.returncode == 0


def test_launcher_and_start_up_file_together_patch_once(installed: Installed, client: Path) -> None:
    code = "from yolov5_utils import overlay; import sys, train; print(len(overlay.status()))"
    (client / "both.py").write_text(f"{code}; print(sys.meta_path.count(overlay._finder))")
    result = installed.run("-m", "yolov5_utils", "both.py", cwd=client, **ON)
    assert result.stdout == "1\n1\n", result.stderr


@pytest.mark.parametrize("variable", ["YOLOV5_UTILS_OVERLAY", "YOLOV5_UTILS_BACKEND"])
def test_wrong_value_at_start_is_a_line_and_no_more(
    installed: Installed, client: Path, variable: str
) -> None:
    result = installed.run("-c", "print('ran')", cwd=client, **{**ON, variable: "yes"})
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert f"yolov5_utils: {variable}='yes': allowed values are" in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


def test_demo_says_where_it_is(installed: Installed, tmp_path: Path) -> None:
    result = installed.run("-m", "yolov5_utils", "demo", "--epochs", "1", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "yolov5_utils: the demo is in examples/demo of a checkout, where `make demo` runs it\n"
    )


def test_info_knows_the_start_up_file(installed: Installed, tmp_path: Path) -> None:
    text = installed.run("-m", "yolov5_utils", "info", cwd=tmp_path).stdout
    assert re.search("YOLOV5_UTILS_OVERLAY=1 +works", text)
    assert re.search("overlay +not installed in this process", text)
    text = installed.run("-m", "yolov5_utils", "info", cwd=tmp_path, **ON).stdout
    assert re.search("overlay +installed", text)


def test_checkout_has_no_start_up_file(tmp_path: Path) -> None:
    """An editable install or a path to the checkout: Python does not look for the file there."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from yolov5_utils.commands import info"
    )
    out = run(sys.executable, "-c", f"{program}; print(info._start_up_file())", cwd=tmp_path)
    assert out == "False\n"
