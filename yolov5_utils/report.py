"""What is installed and which way each hot path runs: the facts behind `info`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from . import _C, __version__, _native, overlay
from .switches import ALL as SWITCHES


def facts(ask_gpus: bool = False) -> dict[str, Any]:
    """Everything `info` prints, as plain dicts, lists, strings and numbers.

    Changes nothing, but with `ask_gpus` starts CUDA on every GPU to see whether the CUDA library
    runs there.
    """
    build = _C.info()
    return {
        "package": {
            "name": "yolov5-torch-utils",
            "version": __version__,
            "location": str(Path(__file__).resolve().parent),
        },
        "build": build,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": {"torch": torch.get_num_threads(), "pool": _pool(build)},
        "cuda_library": cuda_library(ask_gpus),
        "switches": {switch.name: switch.read() for switch in SWITCHES},
        "hot_paths": hot_paths(),
        "overlay": {
            "installed": overlay.installed(),
            "modules": [record._asdict() for record in overlay.status()],
        },
    }


def cuda_library(ask_gpus: bool = False) -> dict[str, Any]:
    """What became of the CUDA library: path, problem, what it was built for, and GPUs if asked.

    `gpus` has for each GPU that torch can use its name, and why the library does not run there or
    None; it is empty if nobody asked.
    """
    info = _C.cuda_info()
    gpus = {}
    if ask_gpus and torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            problem = _C.cuda_info(number)["problem"]
            gpus[f"cuda:{number}"] = {
                "name": torch.cuda.get_device_name(number),
                "problem": problem,
            }
    path = str(_native.CUDA_LIBRARY) if _native.CUDA_LIBRARY.exists() else None
    return {"path": path, **info, "gpus": gpus}


def hot_paths() -> dict[str, dict[str, Any]]:
    """For each hot path: the way it runs ("C" or "torch"), why, and this process's calls so far.

    `calls` counts calls by way taken, `reasons` why calls that could have run in C took torch.
    """
    level = _C.info()["level"]
    result = {}
    for operation, path in _native.HOT_PATHS.items():
        refusal = _native.refusal(operation)
        result[operation] = {
            "way": "torch" if refusal else "C",
            "why": refusal or f"dense CPU tensors, level {level}; {_elsewhere()}",
            "calls": _native.calls(operation),
            "reasons": dict(path.reasons),
        }
    return result


def _elsewhere() -> str:
    """In words, what runs the calls that are not for the CPU."""
    if _C.cuda_info()["problem"] is None:
        return "the CUDA library for those of one GPU; torch for all others"
    return "torch for all others"


def as_json() -> str:
    """`facts()` as indented JSON."""
    return json.dumps(facts(ask_gpus=True), indent=2)


def as_text() -> str:
    """`facts()` as a table to read."""
    all_facts = facts(ask_gpus=True)
    rows: list[tuple[str, str]] = [
        ("package", "{name} {version} in {location}".format(**all_facts["package"])),
        ("python", all_facts["python"]),
        ("torch", all_facts["torch"]),
        ("threads", f"{all_facts['threads']['torch']}, {all_facts['threads']['pool']}"),
        ("CUDA library", _library(all_facts["cuda_library"])),
    ]
    for name, gpu in all_facts["cuda_library"]["gpus"].items():
        rows.append((f"{name}, {gpu['name']}", gpu["problem"] or "the CUDA library runs here"))
    rows += [(f"build: {key}", _words(value)) for key, value in all_facts["build"].items()]
    rows += [(name, value or "(not set)") for name, value in all_facts["switches"].items()]
    for operation, path in all_facts["hot_paths"].items():
        rows.append((f"hot path {operation}", f"{path['way']}: {path['why']}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _library(library: dict[str, Any]) -> str:
    """In words, what the CUDA library is or why there is none."""
    if library["problem"]:
        return str(library["problem"])
    toolkit = f"{library['toolkit'] // 1000}.{library['toolkit'] % 1000 // 10}"
    where = "" if library["gpus"] else "; this torch sees no GPU"
    return f"built with CUDA {toolkit} for {library['architectures']}{where}"


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
