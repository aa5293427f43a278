"""Every hot path on a Python thread with a stack of 64 KiB, the smallest that Python gives, where
torch's own operations have room. They run in a process of their own, which a full stack ends."""

from __future__ import annotations

import pytest

from ..support import python

CHILD = """
import sys, threading
import torch
from torch import nn
from yolov5_utils import _native, reference, torch_utils
from yolov5_utils.ops import fuse_model as fuse_models
from yolov5_utils.ops import prune as prunes
from yolov5_utils.ops.ema import update_modules

torch.manual_seed(0)


def deep(depth):
    model = nn.Linear(1, 1).requires_grad_(False)
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


def layers():
    return nn.Sequential(*(nn.Conv2d(64, 64, 3) for _ in range(3))).requires_grad_(False)


def pair():
    return nn.Conv2d(64, 64, 3, bias=False).requires_grad_(False), nn.BatchNorm2d(64).eval()


def quiet_pair():
    conv, bn = pair()
    return conv, bn.requires_grad_(False)


image, wide = torch.rand(1, 3, 300, 400), torch.rand(1, 3, 40, 9000)
many = torch.rand(2, 20, 60, 60)
last = image.contiguous(memory_format=torch.channels_last)
equal = layers()
for layer in equal:
    layer.weight.data.copy_(torch.randint(-9, 9, layer.weight.shape))
CALLS = {
    "scale_img": lambda: torch_utils.scale_img(image, 0.83),
    "scale_img, wide": lambda: torch_utils.scale_img(wide, 0.83),
    "scale_img, channels last": lambda: torch_utils.scale_img(last, 0.83),
    "scale_img, many channels": lambda: torch_utils.scale_img(many, 0.5),
    "ema": lambda: update_modules(layers(), layers(), 0.5),
    "ema, deep": lambda: update_modules(deep(190), deep(190), 0.5),
    "ema, deep, torch": lambda: reference.ema_update(deep(190), deep(190), 0.5),
    "sparsity": lambda: torch_utils.sparsity(layers()),
    "sparsity, deep": lambda: torch_utils.sparsity(deep(190)),
    "prune": lambda: prunes.prune(layers(), 0.3),
    "prune, ties": lambda: prunes.prune(equal, 0.3, ties="torch"),
    "fuse": lambda: torch_utils.fuse_conv_and_bn(*quiet_pair()),
    "time_synchronized": torch_utils.time_synchronized,
}
names, threads = sys.argv[2:], int(sys.argv[1])
torch.set_num_threads(threads)
_native._C.configure(parallel_bytes=0, gil_bytes=0)
for name in names:
    CALLS[name]()  # what is loaded or tried on first use may need more
threading.stack_size(64 << 10)
for name in names:
    print("calls", name, flush=True)
    finished = []
    thread = threading.Thread(target=lambda: finished.append(CALLS[name]()))
    thread.start()
    thread.join()
    assert finished
print("all done")
"""
NAMES = {
    "flat": (
        *("scale_img", "scale_img, wide", "scale_img, channels last", "scale_img, many channels"),
        *("ema", "sparsity", "prune", "prune, ties", "fuse", "time_synchronized"),
    ),
    "deep": ("ema, deep, torch", "sparsity, deep", "ema, deep"),
}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", NAMES)
def test_on_a_small_stack(kind: str, threads: int) -> None:
    done = python("-c", CHILD, str(threads), *NAMES[kind])
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    assert done.stdout.splitlines()[-1] == "all done"
