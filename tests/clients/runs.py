"""Runs of a client: stock, and with the overlay in place by one of its routes, side by side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from compare import HERE, UNSEEDED, contents, differences, metrics
from environment import Environment, run
from releases import Client

OURS = ["-m", "yolov5_utils"]
SMALLER = ("width_multiple: 0.50", "width_multiple: 0.25")  # YOLOv5s to YOLOv5n


class Run(NamedTuple):
    """One finished process, and what the recorder wrote of it."""

    output: str
    code: int
    seconds: float
    saves: list[dict]  # at each torch.save: the file's name and the averages
    end: dict  # at exit: surfaces, copies, package


class Desk:
    """A folder to run one client in: data, fonts and whatever earlier runs left there."""

    def __init__(self, environment: Environment, client: Client, folder: Path) -> None:
        self.environment = environment
        self.client = client
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        code = "import matplotlib; print(matplotlib.get_data_path())"
        fonts = Path(run([environment.python, "-c", code]).strip()) / "fonts" / "ttf"
        for name in ("Arial.ttf", "Arial.Unicode.ttf"):  # which clients would download
            shutil.copy(fonts / "DejaVuSans.ttf", self.home / name)
        run([environment.python, HERE / "dataset.py", folder / "data"])
        small = environment.package(client) / "models" / "yolov5s.yaml"
        if small.exists():
            (folder / "small.yaml").write_text(small.read_text().replace(*SMALLER))

    def run(self, arguments: list, code: int = 0, **variables: str) -> Run:
        """Run the environment's python with the shims, one thread, and no way to install things.

        RuntimeError where the process ends with another exit code than `code`.
        """
        record = self.folder / "record.jsonl"
        record.unlink(missing_ok=True)
        command = [str(part) for part in (self.environment.python, *arguments)]
        begin = time.perf_counter()
        process = subprocess.run(
            command,
            cwd=self.folder,
            env={**self._settings(), "RECORD": str(record), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - begin
        if process.returncode != code:
            raise RuntimeError(f"exit code {process.returncode}: {command}\n{process.stdout}")
        lines = record.read_text().splitlines() if record.exists() else []
        records = [json.loads(line) for line in lines]
        saves = [line for line in records if "save" in line]
        ends = [
            line for line in records if "package" in line
        ]  # torchrun itself writes an empty one
        end = next((line for line in ends if line["surfaces"]), {})
        return Run(process.stdout, process.returncode, seconds, saves, end)

    def contents(self, name: str) -> dict:
        """Everything in the folder that a job of this name has written to."""
        ignored = UNSEEDED.get(self.client.name.partition(" ")[2], ())
        return contents(self.folder / "runs" / name, self._describe, ignored)

    def _describe(self, *files: Path) -> str:
        command = [self.environment.python, HERE / "describe.py", *files]
        return run(command, cwd=self.folder, env=self._settings())

    def take_weights(self, other: Desk) -> None:
        """Copy another desk's training, so that jobs here start from the same bits."""
        shutil.copytree(other.folder / "runs" / "train", self.folder / "runs" / "train")

    def _settings(self) -> dict[str, str]:
        path = [str(HERE / "shims"), self.environment.path(self.client)]
        programs = [HERE / "shims" / "bin", self.environment.folder / "bin"]
        return {
            "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
            "HOME": str(self.home),
            "YOLOV5_CONFIG_DIR": str(self.home),
            "YOLO_CONFIG_DIR": str(self.home),
            "MPLCONFIGDIR": str(self.home),
            "PYTHONPATH": os.pathsep.join(part for part in path if part),
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # up to 7.0 whole models are saved
            "YOLOv5_AUTOINSTALL": "false",
            "WANDB_MODE": "disabled",
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "1",
        }


class Route(NamedTuple):
    """A way to get the overlay into a process, as the table names it."""

    name: str
    module: bool = False  # the client is named as a module, not as a file
    before: tuple[str, ...] = ()  # arguments of the interpreter before the client
    variables: tuple[tuple[str, str], ...] = ()

    def command(self, desk: Desk, what: str) -> list[str]:
        return [*self.before, *target(desk, what, self.module)]


def target(desk: Desk, what: str, module: bool) -> list[str]:
    """A program as arguments of the interpreter: a script of ours, a client's file, -m MODULE."""
    if what.endswith(".py"):
        return [str(HERE / what)]
    if what == "yolo":
        return ["-m", "ultralytics.cfg"] if module else [str(desk.environment.folder / "bin/yolo")]
    if module:
        return ["-m", what]
    return [str(desk.environment.package(desk.client) / f"{what.partition('.')[2]}.py")]


AUTO = str(HERE / "auto.py")
ROUTES = {
    route.name: route
    for route in (
        Route("python -m yolov5_utils SCRIPT", before=("-m", "yolov5_utils")),
        Route("python -m yolov5_utils -m MODULE", True, ("-m", "yolov5_utils")),
        Route("YOLOV5_UTILS_OVERLAY=1", variables=(("YOLOV5_UTILS_OVERLAY", "1"),)),
        Route("import yolov5_utils.auto, first", True, (AUTO, "first")),
        Route("import yolov5_utils.auto, late", True, (AUTO, "late")),
    )
}


# Every client by one route, every route by one client at least; torchrun is in test_ddp.py.
ROUTE_OF = {
    "yolov5 7.0.14": "python -m yolov5_utils SCRIPT",
    "yolov5 6.2.3": "python -m yolov5_utils -m MODULE",
    "yolov5 6.1.9": "YOLOV5_UTILS_OVERLAY=1",
    "yolov5 6.0.7": "import yolov5_utils.auto, late",
    "yolov5 5.0.10": "import yolov5_utils.auto, first",
    "ultralytics 8.4.190": "YOLOV5_UTILS_OVERLAY=1",
}


class Outcome(NamedTuple):
    """A job done twice: what to compare, and how long it took."""

    stock: Run
    ours: Run
    stock_files: dict
    our_files: dict

    def row(self, client: str, route: str, job: str) -> list[str]:
        """The job's line in the table of results."""
        entries = [file for file in self.our_files.values() if isinstance(file, dict)]
        tensors = sum(
            entry[1].startswith("torch.") for file in entries for entry in file["entries"]
        )
        averages = sum(bool(save["averages"]) for save in self.ours.saves)
        counts = {"files": len(self.our_files), "tensors": tensors, "averages": averages}
        compared = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        calls = {name: ways["C"] for name, ways in self.ours.end["package"]["calls"].items()}
        called = ", ".join(f"{name} {count}" for name, count in calls.items() if count) or "none"
        equal = "**no**" if self.differences() else "yes"
        seconds = [f"{run.seconds:.1f}" for run in (self.stock, self.ours)]
        return [client, route, job, equal, compared, called, *seconds]

    def differences(self) -> list[str]:
        """Where the overlaid run differs from the stock one; nothing where all bits are equal."""
        parts = {
            "files": (self.our_files, self.stock_files),
            "saves": (self.ours.saves, self.stock.saves),
            "figures": (metrics(self.ours.output), metrics(self.stock.output)),
            "surfaces": (self.ours.end["surfaces"], self.stock.end["surfaces"]),
            "copies": (self._shared_copies(), self.stock.end["copies"]),
        }
        return [text for name, pair in parts.items() for text in differences(*pair, path=name)]

    def _shared_copies(self) -> dict:
        """Our copies of the callables without right ones in modules that are __main__ in stock."""
        known = self.stock.end["copies"]
        return {
            module: [copy for copy in found if copy in known.get(module, []) or not copy[2]]
            for module, found in self.ours.end["copies"].items()
        }


class Pair:
    """Two desks of one client, one stock, one overlaid by a route; each job runs once on both."""

    def __init__(self, environment: Environment, client: Client, route: Route, work: Path) -> None:
        self.client = client
        self.route = route
        self.stock = Desk(environment, client, work / "stock")
        self.ours = Desk(environment, client, work / "ours")
        self._done: dict[str, Outcome] = {}

    def job(self, name: str) -> Outcome:
        """Run a job of the client on both desks at the same time, or give the earlier outcome."""
        if name not in self._done:
            if name != "train":  # whose weights the other jobs load
                self.job("train")
            what, arguments = self.client.jobs[name]
            folder = output_folder(arguments)
            stock = [*target(self.stock, what, self.route.module), *arguments]
            ours = [*self.route.command(self.ours, what), *arguments]
            self._done[name] = self.both(stock, ours, folder)
            if name == "train":
                for desk in (self.stock, self.ours):
                    desk.run([HERE / "liven.py", desk.environment.package(self.client)])
        return self._done[name]

    def both(self, stock: list, ours: list, folder: str, **options: object) -> Outcome:
        """Run two commands at the same time, a core each: what they left in `runs/folder`."""
        variables = {**options, **dict(self.route.variables)}
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(self.stock.run, stock, **options)
            second = pool.submit(self.ours.run, ours, **variables)
        files = self.stock.contents(folder), self.ours.contents(folder)
        return Outcome(first.result(), second.result(), *files)


def output_folder(arguments: list[str]) -> str:
    """The name of the folder below runs/ that a client with these arguments writes to."""
    words = [word.removeprefix("save_dir=runs/") for word in arguments]
    return words[words.index("--name") + 1] if "--name" in words else words[-1]
