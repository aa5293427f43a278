"""The drop-in for YOLOv5's utils/torch_utils.py: every name of that file, of every release.

Must hold no code of its own beyond looking names up.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .distributed import launched_as, smart_DDP, torch_distributed_zero_first
from .helpers.device import (
    date_modified,
    device_count,
    git_describe,
    init_torch_seeds,
    logger,
    select_device,
)
from .helpers.inspection import find_modules, intersect_dicts, load_thop, model_info, profile
from .helpers.training import (
    EarlyStopping,
    initialize_weights,
    load_classifier,
    reshape_classifier_output,
    smart_amp_autocast,
    smart_hub_load,
    smart_inference_mode,
    smart_optimizer,
    smart_resume,
    smartCrossEntropyLoss,
)
from .ops.ema import ModelEMA
from .ops.fuse import fuse_conv_and_bn
from .ops.prune import prune
from .ops.scale_img import scale_img
from .ops.sparsity import sparsity
from .ops.time_synchronized import time_synchronized
from .ops.time_synchronized import time_synchronized as time_sync  # its name from 6.0 on
from .parallel import copy_attr, de_parallel, is_parallel

__all__ = [
    "EarlyStopping",
    "ModelEMA",
    "copy_attr",
    "date_modified",
    "de_parallel",
    "device_count",
    "find_modules",
    "fuse_conv_and_bn",
    "git_describe",
    "init_torch_seeds",
    "initialize_weights",
    "intersect_dicts",
    "is_parallel",
    "load_classifier",
    "logger",
    "model_info",
    "profile",
    "prune",
    "reshape_classifier_output",
    "scale_img",
    "select_device",
    "smartCrossEntropyLoss",
    "smart_DDP",
    "smart_amp_autocast",
    "smart_hub_load",
    "smart_inference_mode",
    "smart_optimizer",
    "smart_resume",
    "sparsity",
    "time_sync",
    "time_synchronized",
    "torch_distributed_zero_first",
]

# What the original file has as attributes because it imports them; found when touched.
_INCIDENTAL = {
    "DDP": "torch.nn.parallel:DistributedDataParallel",
    "F": "torch.nn.functional",
    "LOGGER": "yolov5_utils.helpers.device:logger",
    "Path": "pathlib:Path",
    "contextmanager": "contextlib:contextmanager",
    "cudnn": "torch.backends.cudnn",
    "datetime": "datetime",
    "deepcopy": "copy:deepcopy",
    "dist": "torch.distributed",
    "logging": "logging",
    "math": "math",
    "nn": "torch.nn",
    "os": "os",
    "platform": "platform",
    "subprocess": "subprocess",
    "time": "time",
    "torch": "torch",
    "torchvision": "torchvision",
    "warnings": "warnings",
}


def __getattr__(name: str) -> Any:
    if name == "thop":
        return load_thop()
    if name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        return launched_as(name)
    if name not in _INCIDENTAL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _INCIDENTAL[name].partition(":")
    try:
        found = import_module(module)
    except ImportError as error:  # hasattr() must answer where torchvision is not installed
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {error}") from error
    return getattr(found, attribute) if attribute else found
