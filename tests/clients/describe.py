"""Prints what checkpoints hold, as JSON: each entry in order, tensors by dtype, shape and hash.

describe.py CHECKPOINT...   Loads them in a process that cannot import yolov5_utils.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.modules["yolov5_utils"] = None  # any import of it from here on raises ImportError

IGNORED = ("date",)  # the time of the run


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
        lines.append([path, type(value).__name__, repr(value)])
    return lines


described = {}
for file in map(Path, sys.argv[1:]):
    checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    described[file.name] = describe(checkpoint, "", [])
json.dump(described, sys.stdout)
