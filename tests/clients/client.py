"""The real client: an environment with PyPI's yolov5 and this package, and runs of it.

Every process runs in the environment's own interpreter; the caller's needs nothing but pytest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TORCH = ("torch==2.14.1", "torchvision==0.29.1")
# pkg_resources, which YOLOv5 7.0 imports, left setuptools in release 81; the package builds with 64
# and later.
CLIENT = ("yolov5==7.0.14", "setuptools>=64,<81", "wheel")
TRAINING = shlex.split(
    "--weights= --cfg yolov5n.yaml --imgsz 64 --epochs 2 --batch-size 8 --seed 3 --device cpu "
    "--workers 0 --save-period 1 --noplots --project runs --name train"
)
DETECTION = shlex.split(
    "--imgsz 320 --conf-thres 0.001 --max-det 50 --device cpu --save-txt --save-conf "
    "--project runs --name detect"
)
OURS = ("-m", "yolov5_utils")
CANARY = (str(HERE / "canary.py"),)


class Environment:
    """A virtual environment with the client, its dependencies and this package as it is now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"

    def install(self, work: Path) -> None:
        """Make the environment, unless it is there, and install this package into it anew."""
        wanted = hashlib.sha256(" ".join(TORCH + CLIENT).encode()).hexdigest()
        stamp = self.folder / "client-installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            self._install_client(work)
            stamp.write_text(wanted)
        self._install_package(work)

    def _install_client(self, work: Path) -> None:
        if not self.python.exists():
            run([sys.executable, "-m", "venv", str(self.folder)])
        arguments = shlex.split(os.environ.get("PIP_ARGS", ""))
        self.pip("install", *arguments, *TORCH)
        constraints = work / "constraints.txt"  # so that no dependency brings another torch
        constraints.write_text("\n".join(TORCH) + "\n")
        self.pip("install", "-c", str(constraints), *CLIENT)
        if subprocess.run([self.python, "-c", "import cv2"], capture_output=True).returncode:
            # A machine without a display has no libGL; the headless build needs none.
            self.pip("uninstall", "-y", "opencv-python")
            self.pip("install", "--no-deps", "--force-reinstall", "opencv-python-headless")

    def _install_package(self, work: Path) -> None:
        """From a copy of the sources: a build leaves things behind in its folder."""
        copy = work / "package"
        left_out = shutil.ignore_patterns(".*", "build", "dist", "*.so", "*.egg-info", "runs")
        shutil.copytree(ROOT, copy, ignore=left_out)
        self.pip("install", "--no-deps", "--no-build-isolation", "--force-reinstall", str(copy))

    def pip(self, *arguments: str) -> None:
        run([self.python, "-m", "pip", *arguments])

    def client(self) -> Path:
        """The folder of the installed yolov5 package."""
        code = "import importlib.util as u; print(u.find_spec('yolov5').origin)"
        return Path(run([self.python, "-c", code]).strip()).parent


class Training(NamedTuple):
    """What one training run left behind."""

    folder: Path
    output: str
    saves: list[dict]  # at each torch.save: the file's name and the averages
    end: dict  # what the recorder wrote at exit
    results: str


class Job:
    """A data set, and runs of the client on it, in a folder of their own."""

    def __init__(self, environment: Environment, work: Path) -> None:
        self.environment = environment
        self.client = environment.client()
        self.work = work
        self.home = work / "home"
        self._prepare_home()
        self.data = work / "data"
        self._run(work, [str(HERE / "dataset.py"), str(self.data)])

    def train(self, name: str, *through: str) -> Training:
        """Train, stock or `through` a launcher: the interpreter's arguments before the script."""
        folder = self.work / name
        folder.mkdir()
        record = folder / "record.jsonl"
        script = [str(self.client / "train.py"), "--data", str(self.data / "data.yaml"), *TRAINING]
        output = self._run(folder, [*through, *script], STDOUT, RECORD=str(record))
        *saves, end = [json.loads(line) for line in record.read_text().splitlines()]
        results = (folder / "runs" / "train" / "results.csv").read_text()
        return Training(folder, output, saves, end, results)

    def describe(self, training: Training) -> dict[str, list]:
        """Every checkpoint of a run, by file name: all its entries, tensors by hash."""
        files = sorted((training.folder / "runs" / "train" / "weights").glob("*.pt"))
        arguments = [str(HERE / "describe.py"), *map(str, files)]
        described: dict[str, list] = json.loads(self._run(training.folder, arguments))
        return described

    def detect(self, training: Training, *through: str) -> Path:
        """Detect on the client's own photograph with the run's last checkpoint: the folder."""
        weights = training.folder / "runs" / "train" / "weights" / "last.pt"
        script = [str(self.client / "detect.py"), "--weights", str(weights), *DETECTION]
        picture = str(self.client / "data" / "images" / "bus.jpg")
        self._run(training.folder, [*through, *script, "--source", picture])
        return training.folder / "runs" / "detect"

    def _prepare_home(self) -> None:
        """A home folder with the fonts that the client would download."""
        self.home.mkdir()
        code = "import matplotlib; print(matplotlib.get_data_path())"
        fonts = Path(run([self.environment.python, "-c", code]).strip()) / "fonts" / "ttf"
        for name in ("Arial.ttf", "Arial.Unicode.ttf"):
            shutil.copy(fonts / "DejaVuSans.ttf", self.home / name)

    def _run(self, folder: Path, arguments: list[str], stderr: int = PIPE, **variables: str) -> str:
        """Run the environment's python with the shims, one thread, and no way to install things."""
        settings = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "YOLOV5_CONFIG_DIR": str(self.home),
            "YOLO_CONFIG_DIR": str(self.home),
            "MPLCONFIGDIR": str(self.home),
            "PYTHONPATH": str(HERE / "shims"),
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # 7.0 saves whole models
            "YOLOv5_AUTOINSTALL": "false",
            "WANDB_MODE": "disabled",
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **variables,
        }
        command = [self.environment.python, *arguments]
        return run(command, cwd=folder, env=settings, stderr=stderr)


def run(command: list, **options: object) -> str:
    """Run a command: its standard output. RuntimeError with all it said where it fails."""
    words = [str(part) for part in command]
    process = subprocess.run(
        words, stdout=PIPE, text=True, check=False, **{"stderr": PIPE, **options}
    )
    if process.returncode:
        said = f"{process.stdout}\n{process.stderr or ''}"
        raise RuntimeError(f"exit code {process.returncode}: {shlex.join(words)}\n{said}")
    return process.stdout


def differences(ours: object, stock: object, path: str = "") -> list[str]:
    """Where two structures of lists, dicts (in order) and plain values differ, in words."""
    if type(ours) is not type(stock):
        return [f"{path}: {type(ours).__name__}, stock {type(stock).__name__}"]
    if isinstance(ours, dict):
        if list(ours) != list(stock):
            return [f"{path}: keys {list(ours)}, stock {list(stock)}"]
        pairs = [(key, ours[key], stock[key]) for key in ours]
    elif isinstance(ours, list):
        if len(ours) != len(stock):
            return [f"{path}: {len(ours)} entries, stock {len(stock)}"]
        pairs = [(number, *items) for number, items in enumerate(zip(ours, stock, strict=True))]
    else:
        return [] if ours == stock else [f"{path}: {ours}, stock {stock}"]
    return [text for key, *items in pairs for text in differences(*items, path=f"{path}/{key}")]
