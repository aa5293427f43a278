"""info: what is installed, and which backend runs each hot path in this process."""

from __future__ import annotations

import importlib.util
import json
import platform
import site
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import _C, __version__, _native, install_hint, overlay
from ..helpers import counting
from ..ops import OPERATIONS
from ..overlay import Record
from ..overlay.fingerprint import NotRecognised, examine
from ..overlay.known_callables import HOT
from ..overlay.replacements import RECORDS
from ..switches import ALL as SWITCHES
from . import notebook
from .explain import of_the_package


class HotPath(NamedTuple):
    """The backend of a usual call, why, and this process's calls so far."""

    way: str  # "C", "torch", or "error" where such a call raises
    why: str
    calls: dict[str, int]  # by backend
    reasons: dict[str, int]  # why calls that could have run in C took torch


class Counts(NamedTuple):
    """The calls of model_info in this process so far."""

    calls: dict[str, int]  # by what thop counted in
    reasons: dict[str, int]  # why it counted in a copy


class CudaLibrary(NamedTuple):
    """What became of the CUDA library."""

    path: str | None
    problem: str | None  # why it cannot be used
    architectures: str | None  # what it was built for
    toolkit: int
    gpus: dict[str, dict[str, str | None]]  # by device, if asked: its name, and the problem there


class Overlay(NamedTuple):
    """What `patch()` did in this process."""

    installed: bool
    start_up_file: bool  # whether YOLOV5_UTILS_OVERLAY=1 works with this installation
    modules: list[Record]


class Facts(NamedTuple):
    """Everything that `python -m yolov5_utils info` prints; its text is that table."""

    package: dict[str, str]
    other_copies: list[str]  # of the package, which Python would find without this one
    build: _C.Info
    python: str
    torch: str
    threads: dict[str, int | str]
    cuda_library: CudaLibrary
    switches: dict[str, str]
    hot_paths: dict[str, HotPath]
    model_info: Counts
    overlay: Overlay
    clients: list[Record]

    def __repr__(self) -> str:
        rows = as_rows(self)
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _repr_html_(self) -> str:
        return notebook.table(as_rows(self))

    def as_json(self) -> str:
        """The same as indented JSON."""
        return json.dumps(_plain(self), indent=2)


def info(ask_gpus: bool = False) -> Facts:
    """What is installed, how it was built, which backend runs each hot path, and the calls so far.

    Changes nothing, but with `ask_gpus` starts CUDA on every GPU to see whether the CUDA library
    runs there. The result prints as the table of `python -m yolov5_utils info`; its fields are
    package, other_copies, build, python, torch, threads, cuda_library, switches, hot_paths (each
    with way, why, calls and reasons), model_info, overlay and clients; `as_json()` has them all.

    >>> yolov5_utils.info().hot_paths["ema"].way
    'C'
    """
    build = _C.info()
    return Facts(
        package={
            "name": install_hint.NAME,
            "version": __version__,
            "location": str(Path(_native.__file__).resolve().parent),
        },
        other_copies=list(dict.fromkeys(_other_copies())),
        build=build,
        python=platform.python_version(),
        torch=str(torch.__version__),
        threads={"torch": torch.get_num_threads(), "pool": _pool(build)},
        cuda_library=cuda_library(ask_gpus),
        switches={switch.name: switch.read() for switch in SWITCHES},
        hot_paths=hot_paths(),
        model_info=Counts(dict(counting.RECORD.calls), dict(counting.RECORD.reasons)),
        overlay=Overlay(overlay.installed(), _start_up_file(), overlay.status()),
        clients=list(clients()),
    )


def cuda_library(ask_gpus: bool = False) -> CudaLibrary:
    """What became of the CUDA library.

    `gpus` has for each GPU that torch can use its name, and why the library does not run there or
    None; it is empty if nobody asked.
    """
    told = _C.cuda_info()
    gpus = {}
    if ask_gpus and torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            problem = _C.cuda_info(number)["problem"]
            gpus[f"cuda:{number}"] = {
                "name": torch.cuda.get_device_name(number),
                "problem": problem,
            }
    path = str(_native.CUDA_LIBRARY) if _native.CUDA_LIBRARY.exists() else None
    return CudaLibrary(path, told["problem"], told["architectures"], told["toolkit"], gpus)


def hot_paths() -> dict[str, HotPath]:
    """The hot paths by name; a usual call of each is tried, and not counted."""
    result = {}
    for name, operation in OPERATIONS.items():
        found = of_the_package(name, operation, ())
        counted = operation.counted(), dict(operation.reasons)
        result[name] = HotPath(found.way, found.why, *counted)
    return result


def clients() -> Iterator[Record]:
    """What the overlay would do to each client that a Python started here would find.

    The client's file is read, not run: in utils/ of this folder, and in the installed packages.
    """
    for name in overlay.CLIENTS:
        package, *rest = name.split(".")
        folder = Path("utils") if package == "utils" else _folder(package)
        file = folder.joinpath(*rest).with_suffix(".py") if folder is not None else None
        if file is not None and file.is_file():
            yield _record(name, file.resolve())


def _folder(package: str) -> Path | None:
    """The folder of a package, here or installed, which is not imported; None if there is none."""
    try:
        specs = PathFinder.find_spec(package, [""]), importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    files = (spec.origin for spec in specs if spec is not None)
    return next((Path(file).parent for file in files if file is not None), None)


def _record(name: str, file: Path) -> Record:
    try:
        found = examine(importlib.util.decode_source(file.read_bytes()))
    except NotRecognised as why:
        return Record(name, str(file), None, (), {"module": str(why)})
    except (OSError, UnicodeError, SyntaxError, LookupError) as error:  # SyntaxError: its encoding
        return Record(name, str(file), None, (), {"module": f"cannot be read: {error}"})
    left = dict(found.left)
    for hot in found.forms:
        reason = RECORDS[HOT[hot].operation].refusal()
        if reason is not None:
            left[hot] = reason
    replaced = tuple(hot for hot in found.forms if hot not in left)
    return Record(name, str(file), found.release, replaced, left)


def _other_copies() -> Iterator[str]:
    """The folders on the import path that hold the package, but for this one."""
    for entry in sys.path:
        folder = Path(entry, "yolov5_utils").resolve()
        if folder != Path(_native.__file__).resolve().parent and (folder / "__init__.py").is_file():
            yield str(folder)


def _start_up_file() -> bool:
    """True where the installed package brought the file that YOLOV5_UTILS_OVERLAY=1 works with."""
    folder = Path(_native.__file__).resolve().parents[1]
    read_at_start = {Path(path).resolve() for path in sys.path if path in _site_folders()}
    return folder in read_at_start and (folder / "yolov5_utils_overlay.pth").is_file()


def _site_folders() -> list[str]:
    return [*site.getsitepackages(), site.getusersitepackages()]


def _plain(value: Any) -> Any:
    """Records as dicts, also inside of others."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def as_rows(facts: Facts) -> list[tuple[str, str]]:
    """A table to read."""
    rows = [
        ("package", "{name} {version} in {location}".format(**facts.package)),
        *(("another copy", f"{folder} is not used") for folder in facts.other_copies),
        ("python", facts.python),
        ("torch", facts.torch),
        ("threads", f"{facts.threads['torch']}, {facts.threads['pool']}"),
        ("CUDA library", _library(facts.cuda_library)),
    ]
    for name, gpu in facts.cuda_library.gpus.items():
        rows.append((f"{name}, {gpu['name']}", gpu["problem"] or "the CUDA library runs here"))
    rows += [(f"build: {key}", _words(value)) for key, value in facts.build.items()]
    rows += [(name, value or "(not set)") for name, value in facts.switches.items()]
    for operation, path in facts.hot_paths.items():
        rows.append((f"hot path {operation}", f"{path.way}: {path.why}{_called(path)}"))
    counted = _called(facts.model_info)
    rows.append(("model_info", f"thop's rules on shapes, else in a copy of the model{counted}"))
    hook = facts.overlay
    rows.append(("overlay", "installed" if hook.installed else "not installed in this process"))
    by_file = "works" if hook.start_up_file else "has no effect: no start-up file beside it"
    rows.append(("YOLOV5_UTILS_OVERLAY=1", by_file))
    for record in hook.modules:
        rows.append((f"client {record.module}", _fate(record, "replaced")))
    for record in facts.clients:
        rows.append((f"found here: {record.module}", _fate(record, "would be replaced")))
    return rows


def _called(path: HotPath | Counts) -> str:
    """The calls so far in words, nothing where there were none."""
    calls = ", ".join(f"{way} {count}" for way, count in path.calls.items() if count)
    reasons = "".join(f"; {reason} ({count})" for reason, count in path.reasons.items())
    return f"; calls: {calls}{reasons}" if calls else ""


def _fate(record: Record, verb: str) -> str:
    """One line on what becomes of a client's module."""
    parts = [record.release] if record.release else []
    if record.replaced:
        parts.append(f"{verb}: {', '.join(record.replaced)}")
    parts += [why if name == "module" else f"{name}: {why}" for name, why in record.left.items()]
    return "; ".join(parts)


def _library(library: CudaLibrary) -> str:
    """In words, what the CUDA library is or why there is none."""
    if library.problem:
        return library.problem
    toolkit = f"{library.toolkit // 1000}.{library.toolkit % 1000 // 10}"
    where = "" if library.gpus else "; this torch sees no GPU"
    return f"built with CUDA {toolkit} for {library.architectures}{where}"


def _pool(build: _C.Info) -> str:
    """In words, whose threads large calls use."""
    if not build["thread_pool"]:
        return "calls stay on one thread: this torch lends no thread pool"
    megabytes = build["parallel_bytes"] >> 20
    return f"torch's own thread pool for calls that move {megabytes} MiB or more"


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
