"""The environment of the real clients: one torch, the releases side by side, this package.

Every client process runs in the environment's own interpreter; the caller's needs nothing but
pytest.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

from releases import CLIENTS, Client

ROOT = Path(__file__).resolve().parents[2]
TORCH = ("torch==2.14.1", "torchvision==0.29.1")
# These two and all that they need. pkg_resources, which YOLOv5 7.0 imports, left setuptools in
# release 81; the package builds with 64 and later. The oldest releases import IPython.
WITH_DEPENDENCIES = ("yolov5==7.0.14", "ultralytics==8.4.190")
MARKER = ".made-by-yolov5-utils"  # as tools/marker.sh has it: what make made, make may clean
EXTRAS = ("setuptools>=64,<81", "wheel", "ipython", "onnx", "onnxscript")


class Environment:
    """A virtual environment with the clients, their dependencies and this package as it is now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.releases = folder / "releases"

    def install(self, work: Path) -> None:
        """Make the environment, unless it is there, and install this package into it anew."""
        requirements = [client.requirement for client in CLIENTS.values()]
        wanted = " ".join((*TORCH, *WITH_DEPENDENCIES, *EXTRAS, *requirements))
        wanted = hashlib.sha256(wanted.encode()).hexdigest()
        stamp = self.folder / "clients-installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            self._take_folder(stamp)
            self._install_clients(work)
            stamp.write_text(wanted)
        self._install_package(work)

    def path(self, client: Client) -> str | None:
        """The folder to put on PYTHONPATH for a release, None for one of the environment's own."""
        if client.requirement in WITH_DEPENDENCIES:
            return None
        return str(self.releases / client.requirement)

    def package(self, client: Client) -> Path:
        """The folder of the client's installed package."""
        folder = self.path(client)
        if folder is None:
            code = f"import importlib.util as u; print(u.find_spec({client.package!r}).origin)"
            return Path(run([self.python, "-c", code]).strip()).parent
        return Path(folder) / client.package

    def pip(self, *arguments: str) -> None:
        run([self.python, "-m", "pip", *arguments])

    def _take_folder(self, stamp: Path) -> None:
        """Mark a new folder as ours; RuntimeError for one that holds something of others."""
        if not self.folder.exists() or not any(self.folder.iterdir()):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MARKER).touch()
        elif not stamp.exists() and not (self.folder / MARKER).exists():
            raise RuntimeError(f"{self.folder} holds something, and these tests did not make it")

    def _install_clients(self, work: Path) -> None:
        if not self.python.exists():
            run([sys.executable, "-m", "venv", str(self.folder)])
        arguments = shlex.split(os.environ.get("CLIENTS_PIP_ARGS", ""))
        self.pip("install", *arguments, *TORCH)
        constraints = work / "constraints.txt"  # so that no dependency brings another torch
        constraints.write_text("\n".join(TORCH) + "\n")
        self.pip("install", "-c", str(constraints), *WITH_DEPENDENCIES, *EXTRAS)
        for client in CLIENTS.values():
            folder = self.path(client)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
                self.pip("install", "--no-deps", "--target", folder, client.requirement)
        if subprocess.run([self.python, "-c", "import cv2"], capture_output=True).returncode:
            # A machine without a display has no libGL; the headless build needs none.
            self.pip("uninstall", "-y", "opencv-python")
            self.pip("install", "--no-deps", "--force-reinstall", "opencv-python-headless")

    def _install_package(self, work: Path) -> None:
        """From a wheel of a copy of the sources: a build leaves things behind in its folder."""
        copy = work / "package"
        left_out = shutil.ignore_patterns(".*", "build", "dist", "*.so", "*.egg-info", "runs")
        shutil.copytree(ROOT, copy, ignore=left_out)
        without_cuda = {**os.environ, "YOLOV5_UTILS_CUDA": "0"}  # the clients run on the CPU
        options = ("--no-deps", "--no-build-isolation", "--force-reinstall")
        run([self.python, "-m", "pip", "install", *options, str(copy)], env=without_cuda)


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
