"""What two runs left behind, put beside each other: every file, every save, every name."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Differ between two stock runs: tensorboard's carry the time, the curves are drawn beside a thread.
UNSTABLE = ("events.out.tfevents", "_curve.png")
COLOURS = ("red", "green", "blue")  # the classes of dataset.py
UNSEEDED = {"5.0.10": (".jpg",)}  # draws its boxes in colours that differ from run to run


def contents(folder: Path, describe: Callable[..., str], ignored: tuple[str, ...] = ()) -> dict:
    """Every file in a folder: tables without times, checkpoints as `describe` says, else a hash."""
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part in file.name for part in UNSTABLE)
    )
    checkpoints = [file for file in files if file.suffix == ".pt"]
    found = {}
    home = folder.parents[1]  # where the client ran
    entries = json.loads(describe(*checkpoints)) if checkpoints else {}
    for file in files:
        name = str(file.relative_to(folder))
        if file.suffix == ".pt":
            found[name] = entries[str(file)]
        elif file.suffix == ".csv":
            found[name] = table(file.read_text())
        elif file.suffix in ignored:
            found[name] = "not compared"
        else:
            content = file.read_bytes().replace(os.fsencode(home), b"HERE")
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def table(text: str) -> list:
    """The rows of a results file, without ultralytics' column of seconds."""
    head, *rows = csv.reader(io.StringIO(text))
    kept = [number for number, title in enumerate(head) if title.strip() != "time"]
    return [[row[number].strip() for number in kept] for row in (head, *rows)]


def metrics(output: str) -> list[str]:
    """The lines of what a client says that give its figures, of a class each or of sparsity."""
    titles = [["all"], *([colour] for colour in COLOURS)]
    lines = output.splitlines()
    return [
        line
        for line in lines
        if line.split()[:1] in titles or ("sparsity" in line and "yolov5_utils" not in line)
    ]


# What differs between two stock runs: seconds, speeds, the date, time and process before what torch
# logs, and bars that are drawn again and again.
_TIMES = re.compile(
    r"(?<=^[DIWEC])\d{4} \d\d:\d\d:\d\d\.\d+ \d+"
    r"|\d+(\.\d+)?\s*(?=ms|s\b|it/s|s/it|GB?/s|MB/s|hours|minutes)|\d+:\d\d"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def said(output: str, home: Path) -> list[str]:
    """The lines of what a client says, without the overlay's own, times, bars and folders."""
    lines = _ESCAPES.sub("", output).replace(str(home), "HERE").replace("\r", "\n").splitlines()
    return [
        _TIMES.sub("#", line).rstrip()
        for line in lines
        if line.strip() and "yolov5_utils" not in line and not _is_bar(line)
    ]


def _is_bar(line: str) -> bool:
    if "image access" in line:  # ultralytics' word for how fast it has read some
        return True
    return "it/s" in line or "s/it" in line or re.search(r"\d+%[|:]|━|─", line) is not None


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
