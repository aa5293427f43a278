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

from compare import HERE, UNSEEDED, contents, differences, metrics, said
from environment import Environment, run
from releases import Client

OURS = ("-m", "yolov5_utils")
SMALLER = ("width_multiple: 0.50", "width_multiple: 0.25")  # YOLOv5s to YOLOv5n


class Run(NamedTuple):
    """One finished process, and what the recorder wrote of it."""

    output: str
    code: int
    seconds: float
    saves: list[dict]  # at each torch.save: the file's name and the averages
    end: dict  # at exit: surfaces, copies, package
    home: Path  # where it ran


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
        return Run(process.stdout, process.returncode, seconds, saves, end, self.folder)

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
    form: str = "file"  # how the client is named: by its file, its module or its program
    before: tuple[str, ...] = ()  # arguments of the interpreter before the client
    variables: tuple[tuple[str, str], ...] = ()
    launcher: tuple[str, ...] = ()  # what starts the client, with the overlay or without
    stock_before: tuple[str, ...] = ()  # in place of `before`, without the overlay

    def stock(self, desk: Desk, what: str) -> list[str]:
        return [*self.launcher, *self.stock_before, *target(desk, what, self.form)]

    def ours(self, desk: Desk, what: str) -> list[str]:
        program, *arguments = target(desk, what, self.form)
        if self.form == "program":  # which the package itself finds beside the interpreter
            program = Path(program).name
        return [*self.launcher, *self.before, program, *arguments]


def target(desk: Desk, what: str, form: str = "file") -> list[str]:
    """What to run as arguments of the interpreter: a script of ours, or the client in a form."""
    programs = desk.environment.folder / "bin"
    name = what.removeprefix("yolov5.")
    if what.endswith(".py"):
        return [str(HERE / what)]
    if what == "yolo":  # the program is all that there is of ultralytics
        return [str(programs / "yolo")]
    if form == "module":
        return ["-m", what]
    if form == "program":
        return [str(programs / "yolov5"), name]
    return [str(desk.environment.package(desk.client) / f"{name}.py")]


AUTO = str(HERE / "auto.py")
MODULE = "python -m yolov5_utils -m MODULE"
ONE_RANK = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
ROUTES = {
    route.name: route
    for route in (
        Route("python -m yolov5_utils SCRIPT", before=OURS),
        Route(MODULE, "module", OURS),
        Route("python -m yolov5_utils PROGRAM", "program", OURS),
        Route("torchrun -m yolov5_utils SCRIPT", before=OURS, launcher=ONE_RANK),
        Route("YOLOV5_UTILS_OVERLAY=1", variables=(("YOLOV5_UTILS_OVERLAY", "1"),)),
        Route("import yolov5_utils.auto, first", "module", (AUTO, "first")),
        Route(
            "import yolov5_utils.auto, late", "module", (AUTO, "late"), stock_before=(AUTO, "never")
        ),
    )
}
# The route of a client's every job; test_routes.py sends one job of each client down the others.
ROUTE_OF = {
    "yolov5 7.0.14": "python -m yolov5_utils SCRIPT",
    "yolov5 6.2.3": "python -m yolov5_utils -m MODULE",
    "yolov5 6.1.9": "YOLOV5_UTILS_OVERLAY=1",
    "yolov5 6.0.7": "import yolov5_utils.auto, late",
    "yolov5 5.0.10": "import yolov5_utils.auto, first",
    "ultralytics 8.4.100": "python -m yolov5_utils PROGRAM",
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
            "output": tuple(said(run.output, run.home) for run in (self.ours, self.stock)),
            "random": (self.ours.end["random"], self.stock.end["random"]),
            "counts": (self.ours.end["counts"], self.stock.end["counts"]),
            "modules": (self._other_modules(), {}),
            "surfaces": (self.ours.end["surfaces"], self.stock.end["surfaces"]),
            "copies": (self.ours.end["copies"], self.stock.end["copies"]),
        }
        return [text for name, pair in parts.items() for text in differences(*pair, path=name)]

    def _other_modules(self) -> dict[str, str]:
        """Modules that only one of the two runs has imported."""
        ours, stock = ({*run.end["modules"]} for run in (self.ours, self.stock))
        return {name: "only ours" if name in ours else "only stock" for name in ours ^ stock}


class Pair:
    """Two desks of one client, one stock, one overlaid, by `route` unless another is said.

    Each job runs once on both, by each route that is asked for.
    """

    def __init__(self, environment: Environment, client: Client, route: Route, work: Path) -> None:
        self.client = client
        self.route = route
        self.stock = Desk(environment, client, work / "stock")
        self.ours = Desk(environment, client, work / "ours")
        self._done: dict[tuple[str, str], Outcome] = {}

    def job(self, name: str, route: Route | None = None) -> Outcome:
        """Run a job of the client on both desks at the same time, or give the earlier outcome."""
        route = route or self.route
        if (name, route.name) not in self._done:
            if name != "train":  # whose weights the other jobs load
                self.job("train")
            what, arguments = self.client.jobs[name]
            folder = output_folder(arguments)
            for desk in (self.stock, self.ours):  # clients give a folder that is there a number
                shutil.rmtree(desk.folder / "runs" / folder, ignore_errors=True)
            stock = [*route.stock(self.stock, what), *arguments]
            ours = [*route.ours(self.ours, what), *arguments]
            self._done[name, route.name] = self.both(stock, ours, folder, route)
            if name == "train":
                for desk in (self.stock, self.ours):
                    desk.run([HERE / "liven.py", desk.environment.package(self.client)])
        return self._done[name, route.name]

    def both(
        self,
        stock: list,
        ours: list,
        folder: str,
        route: Route | None = None,
        **options: object,
    ) -> Outcome:
        """Run two commands at the same time, a core each: what they left in `runs/folder`."""
        variables = {**options, **dict((route or self.route).variables)}
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(self.stock.run, stock, **options)
            second = pool.submit(self.ours.run, ours, **variables)
        files = self.stock.contents(folder), self.ours.contents(folder)
        return Outcome(first.result(), second.result(), *files)


def output_folder(arguments: list[str]) -> str:
    """The name of the folder below runs/ that a client with these arguments writes to."""
    words = [word.removeprefix("save_dir=runs/") for word in arguments]
    return words[words.index("--name") + 1] if "--name" in words else words[-1]
