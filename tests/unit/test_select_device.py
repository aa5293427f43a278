"""select_device, git_describe, date_modified and the seeds, against known texts and git itself."""

from __future__ import annotations

import compileall
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from yolov5_utils.helpers import device as device_module
from yolov5_utils.helpers.device import (
    date_modified,
    device_count,
    git_describe,
    init_torch_seeds,
    select_device,
)

from ..support import python

GPU_NAMES = ("First GPU", "Second GPU", "Third GPU", "Fourth GPU")
GPU_BYTES = 16_945_512_448  # 16160.5 MB of 1024² bytes
CODE = "v5.0-240-g84ad6080a"  # what a patched git_describe says of the code
BANNER = f"YOLOv5 🚀 {CODE} torch {torch.__version__} "

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the tests or their caller set is put back; git looks at the folder it is given."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "untouched")
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def code(monkeypatch):
    monkeypatch.setattr(device_module, "git_describe", lambda: CODE)


@pytest.fixture
def gpus(monkeypatch, code):
    """Four GPUs, seen unless CUDA_VISIBLE_DEVICES hides them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible() != "-1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(GPU_NAMES))
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda at: SimpleNamespace(name=GPU_NAMES[at], total_memory=GPU_BYTES),
    )


@pytest.fixture
def no_gpu(monkeypatch, code):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def visible() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


class TestSelectDevice:
    @pytest.mark.parametrize(
        "device", ["cpu", "CPU", " cpu ", torch.device("cpu"), torch.device("cpu", 0)], ids=repr
    )
    def test_cpu_hides_the_gpus(self, gpus, message, device):
        assert select_device(device) == torch.device("cpu")
        assert visible() == "-1"
        assert message() == BANNER + "CPU\n"

    @pytest.mark.parametrize("device", ["", "  ", None], ids=repr)
    def test_automatic_without_a_gpu_is_the_cpu(self, no_gpu, message, device):
        assert select_device(device, batch_size=7) == torch.device("cpu")
        assert visible() == "untouched"
        assert message() == BANNER + "CPU\n"

    @pytest.mark.parametrize("device", ["", "  ", None, "cuda", torch.device("cuda")], ids=repr)
    def test_automatic_lists_only_the_first_gpu(self, gpus, message, device):
        assert select_device(device, batch_size=7) == torch.device("cuda:0")
        assert visible() == "untouched"
        assert message() == BANNER + "CUDA:0 (First GPU, 16160.5MB)\n"

    @pytest.mark.parametrize(
        "device", [1, "1", "cuda:1", "CUDA:1", " 1 ", torch.device("cuda", 1)], ids=repr
    )
    def test_one_gpu_becomes_the_only_visible_one(self, gpus, message, device):
        assert select_device(device, batch_size=7) == torch.device("cuda:0")
        assert visible() == "1"
        assert message() == BANNER + "CUDA:1 (First GPU, 16160.5MB)\n"

    def test_int_zero_is_a_gpu_and_not_automatic(self, gpus):
        select_device(0)
        assert visible() == "0"

    @pytest.mark.parametrize("device", ["0,2,3", "cuda:0,2,3", "cuda:0,cuda:2,cuda:3"])
    def test_several_gpus_are_listed_below_each_other(self, gpus, message, device):
        assert select_device(device, batch_size=6) == torch.device("cuda:0")
        assert visible() == "0,2,3"
        space = " " * (len(BANNER) + 1)
        assert message() == (
            f"{BANNER}CUDA:0 (First GPU, 16160.5MB)\n"
            f"{space}CUDA:2 (Second GPU, 16160.5MB)\n"
            f"{space}CUDA:3 (Third GPU, 16160.5MB)\n"
        )

    def test_double_digit_number_is_one_gpu(self, gpus, message):
        select_device("10", batch_size=7)
        assert message() == BANNER + "CUDA:10 (First GPU, 16160.5MB)\n"

    def test_batch_size_is_checked_against_the_requested_gpus(self, gpus, caplog):
        message = r"^batch-size 16 not multiple of GPU count 3$"
        with pytest.raises(AssertionError, match=message):
            select_device("0,2,3", batch_size=16)  # 16 is a multiple of the 4 present
        assert visible() == "0,2,3"
        assert not caplog.records

    @pytest.mark.parametrize("batch_size", [None, 0, -1])  # -1: YOLOv5 6.1 finds one itself
    def test_no_batch_size_is_not_checked(self, gpus, batch_size):
        assert select_device("0,1,2", batch_size) == torch.device("cuda:0")

    @pytest.mark.parametrize(
        ("device", "named"),
        [("0", "0"), (3, "3"), ("0,1", "0,1"), ("cuda:1", "1"), (-1, "-1")],
    )
    def test_a_gpu_that_is_not_there(self, no_gpu, device, named):
        message = f"^CUDA unavailable, invalid device {named} requested$"
        with pytest.raises(AssertionError, match=message):
            select_device(device)
        assert visible() == named

    def test_any_cuda_device_where_there_is_none(self, no_gpu):
        message = "^CUDA unavailable, invalid device cuda requested$"
        with pytest.raises(AssertionError, match=message):
            select_device("cuda")
        assert visible() == "untouched"

    @pytest.mark.parametrize(
        "device", ["mps", " MPS ", torch.device("mps"), torch.device("mps", 0)]
    )
    def test_mps_hides_the_gpus(self, gpus, message, device, monkeypatch):
        monkeypatch.setattr(device_module, "_mps_is_available", lambda: True)
        assert select_device(device, batch_size=7) == torch.device("mps")
        assert visible() == "-1"
        assert message() == BANNER + "MPS\n"

    def test_mps_where_there_is_none(self, gpus, caplog, monkeypatch):
        monkeypatch.setattr(device_module, "_mps_is_available", lambda: False)
        message = "^MPS unavailable, invalid device mps requested$"
        with pytest.raises(AssertionError, match=message):
            select_device("mps")
        assert visible() == "-1"
        assert not caplog.records

    def test_whether_there_is_mps_is_torchs_to_say(self, monkeypatch):
        for answer in (True, False):
            backend = SimpleNamespace(is_available=lambda answer=answer: answer)
            monkeypatch.setattr(torch.backends, "mps", backend)
            assert device_module._mps_is_available() is answer
        monkeypatch.delattr(torch.backends, "mps")  # torch < 1.12
        assert device_module._mps_is_available() is False

    @pytest.mark.parametrize("device", ["cpu", "0,1"])
    def test_banner_without_a_line_break(self, gpus, message, device):
        select_device(device, newline=False)
        assert message().startswith(BANNER)
        assert message().endswith(("CPU", "16160.5MB)"))
        assert message().count("\n") == device.count(",")

    def test_date_stands_in_for_git(self, no_gpu, message, monkeypatch):
        monkeypatch.setattr(device_module, "git_describe", lambda: "")
        monkeypatch.setattr(device_module, "date_modified", lambda: "2021-3-26")
        select_device()
        assert message() == f"YOLOv5 🚀 2021-3-26 torch {torch.__version__} CPU\n"

    @pytest.mark.parametrize(
        "error", [FileNotFoundError, PermissionError, ValueError, UnicodeError, NameError]
    )
    def test_nothing_that_the_banner_needs_stops_it(self, gpus, message, monkeypatch, error):
        def refuse(*_):
            raise error("no such thing here")

        for name in ("git_describe", "date_modified"):
            monkeypatch.setattr(device_module, name, refuse)
        monkeypatch.setattr(torch.cuda, "get_device_properties", refuse)
        assert select_device("0,1") == torch.device("cuda:0")
        text = f"YOLOv5 🚀 torch {torch.__version__} "
        assert message() == f"{text}CUDA:0\n{' ' * len(text)} CUDA:1\n"

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
    def test_an_interrupt_does(self, no_gpu, monkeypatch, interrupt):
        def stop():
            raise interrupt

        monkeypatch.setattr(device_module, "git_describe", stop)
        with pytest.raises(interrupt):
            select_device()

    def test_more_gpus_than_there_are(self, gpus):
        with pytest.raises(AssertionError, match="^5 GPUs requested, of which CUDA sees 4$"):
            select_device("0,1,2,3,4")

    def test_windows_consoles_get_ascii(self, no_gpu, message, monkeypatch):
        monkeypatch.setattr("platform.system", lambda: "Windows")
        select_device()
        assert message() == f"YOLOv5  {CODE} torch {torch.__version__} CPU\n"

    def test_assertions_survive_optimised_python(self):
        program = (
            "import torch; torch.cuda.is_available = lambda: False\n"
            "from yolov5_utils.helpers.device import select_device\n"
            "try: select_device('0')\n"
            "except AssertionError as error: print(error)"
        )
        ran = python("-O", "-c", program)
        assert ran.stdout == "CUDA unavailable, invalid device 0 requested\n"


def git(folder: Path, *arguments: str) -> str:
    settings = ("user.name=A", "user.email=a@b.c", "commit.gpgSign=false", "tag.gpgSign=false")
    options = [word for setting in settings for word in ("-c", setting)]
    command = ["git", "-C", str(folder), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(params=["plain", "with space", "a'b\"c; touch broken $(touch worse)", "-C"])
def repository(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


@needs_git
class TestGitDescribe:
    def test_without_a_tag_it_is_the_commit(self, repository):
        assert git_describe(repository) == git(repository, "rev-parse", "--short", "HEAD")
        assert [p.name for p in repository.iterdir()] == [".git"]

    def test_with_a_tag_it_is_tag_distance_and_commit(self, repository):
        git(repository, "tag", "v5.0")  # a lightweight tag: --tags
        assert git_describe(str(repository)).startswith("v5.0-0-g")  # at the tag itself: --long
        git(repository, "commit", "-q", "--allow-empty", "-m", "second")
        head = git(repository, "rev-parse", "--short", "HEAD")
        assert git_describe(str(repository)) == f"v5.0-1-g{head}"

    def test_folder_inside_a_repository(self, repository):
        (repository / "utils").mkdir()
        assert git_describe(repository / "utils") == git_describe(repository) != ""

    def test_not_a_repository(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert git_describe(tmp_path) == ""
        assert git_describe(tmp_path / "missing") == ""
        assert capfd.readouterr() == ("", "")  # git's complaint is swallowed

    def test_default_is_the_folder_of_the_running_script(self, repository, tmp_path):
        script = repository / "train.py"
        script.write_text("from yolov5_utils.torch_utils import *\nprint(git_describe())\n")
        ran = python(script, folder=tmp_path)
        assert ran.stdout.strip() == git(repository, "rev-parse", "--short", "HEAD")


def test_git_describe_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_describe(tmp_path) == ""


@pytest.mark.parametrize("main", [SimpleNamespace(), SimpleNamespace(__file__="/no/such/file.zip")])
def test_without_a_running_file_they_speak_of_the_package(main, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", main)
    package = Path(device_module.__file__).parents[1]
    assert git_describe() == git_describe(package)
    assert date_modified() == date_modified(package / "__init__.py")
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command[2]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        git_describe()
    assert asked == [str(package)]


# Programs without the package's source: its byte code alone, as a frozen program has it, and then
# also without a file of any kind, an executable of which Python can name the path.
FROZEN = """
import sys; sys.path.insert(0, {folder!r})
from yolov5_utils import torch_utils
from yolov5_utils.helpers import device
assert torch_utils.__file__.endswith(".pyc"), torch_utils.__file__
for file in (device.__file__, "/nowhere/app/device.pyc", "nul\\0", None):
    device.__file__ = file
    print(torch_utils.select_device("cpu"), torch_utils.git_describe(), torch_utils.date_modified())
del device.__file__
sys.modules["__main__"].__file__ = b"bytes"
print(torch_utils.select_device("cpu"), torch_utils.git_describe(), torch_utils.date_modified())
sys.executable = None
print(torch_utils.select_device("cpu"), torch_utils.git_describe())
"""


def test_a_frozen_program(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    shutil.copytree(
        Path(device_module.__file__).parents[1],
        tmp_path / "yolov5_utils",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    compileall.compile_dir(tmp_path, quiet=2, legacy=True)
    for source in tmp_path.rglob("*.py"):
        source.unlink()
    ran = python("-c", FROZEN.format(folder=str(tmp_path)), folder=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("cpu") == 6


def test_names_that_no_file_can_have():
    assert git_describe("a\0b") == ""
    assert git_describe("\ud800") == ""


class TestDateModified:
    @pytest.mark.parametrize(("month", "day"), [(3, 6), (11, 26)])
    def test_no_leading_zeros(self, tmp_path, month, day):
        file = tmp_path / "a file"
        file.touch()
        when = datetime.datetime(2021, month, day, 12).timestamp()
        os.utime(file, (0, when))
        assert date_modified(file) == date_modified(str(file)) == f"2021-{month}-{day}"

    def test_default_is_the_running_file(self, tmp_path, monkeypatch):
        file = tmp_path / "train.py"
        file.touch()
        os.utime(file, (0, datetime.datetime(2020, 2, 29, 12).timestamp()))
        monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(file)))
        assert date_modified() == "2020-2-29"

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            date_modified(tmp_path / "missing")


@pytest.fixture
def cudnn():
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.deterministic
    with torch.random.fork_rng(devices=[]):
        yield flags
    flags.benchmark, flags.deterministic = before


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_init_torch_seeds(cudnn, seed):
    cudnn.benchmark = cudnn.deterministic = seed == 0
    init_torch_seeds(seed)
    assert (cudnn.benchmark, cudnn.deterministic) == ((False, True) if seed == 0 else (True, False))
    drawn = torch.rand(5)
    assert torch.equal(drawn, torch.rand(5, generator=torch.Generator().manual_seed(seed)))


def test_init_torch_seeds_default_is_zero(cudnn):
    init_torch_seeds()
    assert torch.initial_seed() == 0


class TestDeviceCount:
    @pytest.fixture
    def nvidia_smi(self, tmp_path, monkeypatch):
        """Writes an nvidia-smi that prints `text` where it is asked for a list."""

        def write(text, status=0):
            program = tmp_path / "nvidia-smi"
            listing = "".join(f"echo '{line}'\n" for line in text.splitlines())
            program.write_text(f'#!/bin/sh\n[ "$*" = -L ] || exit 9\n{listing}exit {status}\n')
            program.chmod(0o755)

        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("platform.system", lambda: "Linux")
        return write

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_one_line_is_one_gpu(self, nvidia_smi, count):
        nvidia_smi("".join(f"GPU {i}: A GPU (UUID: GPU-{i})\n" for i in range(count)))
        assert device_count() == count

    def test_hidden_gpus_count(self, nvidia_smi, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        nvidia_smi("GPU 0: A GPU (UUID: GPU-0)")
        assert device_count() == 1

    def test_complaints_are_no_gpus(self, nvidia_smi):
        nvidia_smi("NVIDIA-SMI has failed.\nMake sure that the driver is running.", status=9)
        assert device_count() == 0

    def test_without_nvidia_smi(self, nvidia_smi):
        assert device_count() == 0

    def test_other_systems(self, monkeypatch):
        monkeypatch.setattr("platform.system", lambda: "Darwin")
        with pytest.raises(AssertionError, match="only supported on Linux or Windows"):
            device_count()
