"""What torchrun told this process, and DistributedDataParallel as YOLOv5 wants it."""

from __future__ import annotations

import os

import torch
from torch import nn

from ..helpers.device import require

_WITHOUT_LAUNCHER = {"LOCAL_RANK": -1, "RANK": -1, "WORLD_SIZE": 1}


def launched_as(name: str) -> int:
    """What torchrun says of this process: its LOCAL_RANK, its RANK (-1 without) or WORLD_SIZE (1).

    Read from the environment now. KeyError for another name, ValueError for what is no number.
    Source: YOLOv5 6.2, which reads them when torch_utils.py is imported.
    """
    return int(os.environ.get(name, _WITHOUT_LAUNCHER[name]))


def smart_DDP(model: nn.Module) -> nn.parallel.DistributedDataParallel:
    """`model`, which is on GPU number LOCAL_RANK, wrapped for training by all processes.

    Its graph must be the same in every step. AssertionError on torch 1.12.0, with which YOLOv5 does
    not train this way; torch's own errors without a process group, and for a model that is not on
    that GPU. Source: YOLOv5 6.2.

    >>> model = smart_DDP(model)  # doctest: +SKIP
    """
    require(
        torch.__version__ != "1.12.0",
        "torch==1.12.0 cannot train with DDP, allowed is any other release; "
        "see https://github.com/ultralytics/yolov5/issues/8395",
    )
    here = launched_as("LOCAL_RANK")
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[here], output_device=here, static_graph=True
    )
