"""Prints what checkpoints hold, as JSON: each entry in order, tensors by dtype, shape and hash.

describe.py CHECKPOINT...   Loads them in a process that cannot import yolov5_utils, without and
with weights_only; the classes that the latter has to be allowed are part of the description, and so
is every byte of the file but for dates, times and the folder of the run.
"""

import hashlib
import importlib
import json
import os
import pickletools
import re
import sys
import zipfile

import numpy
import torch
from torch import Tensor, nn

sys.modules["yolov5_utils"] = None  # any import of it from here on raises ImportError

IGNORED = ("date", "time")  # of the run
DATE = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?")
NUMBERS = [type(numpy.dtype(kind)) for kind in ("float32", "float64")]  # of a fitness


def describe(value, path, lines):
    """Append [path, content] of `value` and everything in it."""
    if isinstance(value, Tensor):
        content = hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
        lines.append([path, str(value.dtype), list(value.shape), value.requires_grad, content])
    elif isinstance(value, nn.Module):
        lines.append([path, f"{type(value).__module__}.{type(value).__qualname__}"])
        describe(vars(value), path, lines)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in IGNORED:
                describe(item, f"{path}.{key}", lines)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            describe(item, f"{path}.{number}", lines)
    else:
        lines.append([path, type(value).__name__, repr(value).replace(os.getcwd(), "HERE")])
    return lines


def raw(file):
    """A hash of the pickle, opcode by opcode, so that shared objects show, and of all tensors."""
    found = hashlib.sha256()
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            if name == ".data/serialization_id":  # a hash of the rest, dates included
                continue
            if name != "data.pkl":
                found.update(f"{name} {entry.file_size} {entry.CRC}".encode())
                continue
            for opcode, argument, _ in pickletools.genops(archive.read(entry)):
                if isinstance(argument, float):  # in the description; some are seconds
                    argument = "a number"
                if isinstance(argument, str):
                    argument = DATE.sub("DATE", argument.replace(os.getcwd(), "HERE"))
                if opcode.name not in ("FRAME", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
                    found.update(opcode.name.encode())
                found.update(repr(argument).encode())
    return found.hexdigest()


def resolved(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


described = {}
for file in sys.argv[1:]:
    lines = describe(torch.load(file, map_location="cpu", weights_only=False), "", [])
    classes = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    with torch.serialization.safe_globals([resolved(name) for name in classes] + NUMBERS):
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    if describe(checkpoint, "", []) != lines:
        raise SystemExit(f"{file} loads otherwise with weights_only")
    described[file] = {"classes": sorted(classes), "entries": lines, "raw": raw(file)}
json.dump(described, sys.stdout)
