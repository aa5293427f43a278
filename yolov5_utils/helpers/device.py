"""Which device a run uses, how many GPUs there are, what the banner says, and the random seeds.

Must not know the C extension, nor start CUDA when imported.
"""

from __future__ import annotations

import datetime
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from .. import probe

logger = logging.getLogger("yolov5_utils.torch_utils")


def _running_file() -> Path:
    """The file that runs as `__main__`, or where there is none (-c, notebooks) the package's.

    In a frozen program neither may be on the disk: there it is the program itself.
    """
    package = globals().get("__file__")
    candidates = [
        getattr(sys.modules.get("__main__"), "__file__", None),
        package and Path(package).parent.parent / "__init__.py",
        package,
    ]
    # A zip application names a file that is none.
    found = (file for file in candidates if file and os.path.isfile(file))
    return Path(next(found, sys.executable or ""))


def date_modified(path: str | os.PathLike[str] | None = None) -> str:
    """The day a file was last written, local time, without leading zeros: '2021-3-26'.

    `path` defaults to the file that runs as `__main__`, else the package's, else the program.
    FileNotFoundError for a path that does not exist. Source: YOLOv5 5.0, where the default is
    torch_utils.py.

    >>> year, month, day = date_modified(torch.__file__).split("-")
    """
    path = _running_file() if path is None else path
    day = datetime.date.fromtimestamp(os.stat(path).st_mtime)
    return f"{day.year}-{day.month}-{day.day}"


def git_describe(path: str | os.PathLike[str] | None = None) -> str:
    """What `git describe --tags --long --always` says of a folder: 'v5.0-5-g3e25f1e'.

    `path` (any characters, no shell is involved) defaults to the folder of the file that runs as
    `__main__`, else the package's. Empty where the folder is in no git repository, does not exist,
    or git is not installed. Source: YOLOv5 5.0, where the default is the folder of torch_utils.py.

    >>> git_describe("/folder/that/is/not/there")
    ''
    """
    folder = _running_file().parent if path is None else path
    command = ["git", "-C", os.fspath(folder), "describe", "--tags", "--long", "--always"]
    try:
        said = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except (OSError, ValueError):  # no git; a name that no file can have
        return ""
    return said.stdout.decode(errors="replace").strip() if said.returncode == 0 else ""


def _requested(device: str | int | torch.device | None) -> str:
    """`device` as one word: '' (automatic), 'cpu', 'mps', 'cuda', or GPU numbers such as '0,2'."""
    if device is None:
        return ""
    if isinstance(device, torch.device) and device.type in ("cpu", "mps"):
        return device.type  # also with an index, 'cpu:0'
    return str(device).strip().lower().replace("cuda:", "")


def select_device(
    device: str | int | torch.device | None = "",
    batch_size: int | None = None,
    newline: bool = True,
) -> torch.device:
    """Restrict the process to the requested GPUs (or none), log a banner, return the device to use.

    `device` is '' or None (GPU 0 where there is one, otherwise the CPU), 'cpu', 'mps', one or more
    GPU numbers ('0', '0,2,3', 1, 'cuda:1', torch.device('cuda', 1)), or 'cuda' (the first visible
    GPU); upper case and spaces around it do not matter. GPU numbers, and '-1' for 'cpu' and 'mps',
    are put into CUDA_VISIBLE_DEVICES, where they stay also when an error is raised, and so the
    result is always torch.device('cuda:0'), torch.device('cpu') or torch.device('mps').
    `batch_size` (images) is checked when several GPUs are listed; None, 0 and less are not.
    `newline` False leaves out the line break at the banner's end.

    AssertionError for a requested GPU where CUDA (or MPS) is unavailable, for more GPUs than CUDA
    sees, and for a batch size that the number of listed GPUs does not divide; for nothing that only
    the banner needs, which leaves out what it cannot learn. Source: YOLOv5 of July 2021 (5.0 takes
    text alone; `newline` is from 6.1, 'mps' from 6.2, where it means the CPU when MPS is
    unavailable).

    >>> select_device("cpu")
    device(type='cpu')
    """
    code = probe.answer(git_describe) or probe.answer(date_modified)
    banner = " ".join(["YOLOv5 🚀", *([code] if code else []), f"torch {torch.__version__} "])
    wanted = _requested(device)
    if wanted in ("cpu", "mps"):
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif wanted:
        if wanted != "cuda":
            os.environ["CUDA_VISIBLE_DEVICES"] = wanted
        require(torch.cuda.is_available(), f"CUDA unavailable, invalid device {wanted} requested")

    if wanted == "mps":
        require(_mps_is_available(), "MPS unavailable, invalid device mps requested")
        used = "mps"
        banner += "MPS\n"
    elif wanted != "cpu" and torch.cuda.is_available():
        numbers = ["0"] if wanted in ("", "cuda") else wanted.split(",")
        count = len(numbers)
        require(
            count == 1 or not batch_size or batch_size < 0 or batch_size % count == 0,
            f"batch-size {batch_size} not multiple of GPU count {count}",
        )
        used = "cuda:0"
        banner += _gpu_lines(numbers, indent=len(banner) + 1)
    else:
        used = "cpu"
        banner += "CPU\n"
    if platform.system() == "Windows":  # its consoles cannot print the emoji
        banner = banner.encode("ascii", "ignore").decode()
    logger.info(banner if newline else banner.rstrip())
    return torch.device(used)


def _mps_is_available() -> bool:
    backend = getattr(torch.backends, "mps", None)  # from torch 1.12 on
    return backend is not None and backend.is_available()


def device_count() -> int:
    """The number of NVIDIA GPUs in the machine that nvidia-smi lists; 0 where it fails.

    Whatever CUDA_VISIBLE_DEVICES says, and without starting CUDA. AssertionError on systems other
    than Linux and Windows. Source: YOLOv5 6.2 (6.1: Linux alone).

    >>> device_count() >= 0
    True
    """
    require(
        platform.system() in ("Linux", "Windows"),
        "device_count() only supported on Linux or Windows",
    )
    try:
        said = subprocess.run(
            ["nvidia-smi", "-L"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return 0
    return len(said.stdout.splitlines()) if said.returncode == 0 else 0


def require(condition: bool, text: str) -> None:
    """An assertion that `python -O` keeps: YOLOv5's callers catch AssertionError."""
    if not condition:
        raise AssertionError(text)


def _gpu_lines(numbers: list[str], indent: int) -> str:
    """One line per requested GPU; CUDA numbers the visible ones from 0, in the order requested."""
    seen = torch.cuda.device_count()
    require(len(numbers) <= seen, f"{len(numbers)} GPUs requested, of which CUDA sees {seen}")
    lines = []
    for position, number in enumerate(numbers):
        gpu = probe.answer(torch.cuda.get_device_properties, position)
        size = probe.answer(lambda gpu=gpu: f" ({gpu.name}, {gpu.total_memory / 1024**2}MB)")
        lines.append(f"CUDA:{number}{size or ''}\n")
    return (" " * indent).join(lines)


def init_torch_seeds(seed: int = 0) -> None:
    """Seed torch on every device and set cuDNN: deterministic for seed 0, else the fastest.

    Source: YOLOv5 5.0.

    >>> init_torch_seeds(7)
    >>> torch.initial_seed()
    7
    """
    torch.manual_seed(seed)
    reproducible = seed == 0
    torch.backends.cudnn.benchmark = not reproducible
    torch.backends.cudnn.deterministic = reproducible
