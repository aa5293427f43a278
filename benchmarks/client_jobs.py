"""Runs in the clients' environment, stock or under our launcher: times real jobs of YOLOv5.

client_jobs.py CFG IMGSZ   Prints JSON: per job the seconds in all, and in the hot callables of the
client's torch_utils, whichever they are by then. Knows nothing of this package.
"""

import contextlib
import functools
import io
import json
import os
import sys
import time

import torch
import yolov5.train
from yolov5.models import yolo
from yolov5.models.experimental import attempt_load
from yolov5.utils import torch_utils

sys.path[0] = os.path.dirname(yolov5.__file__)  # as in the client's own scripts; not this folder
REPEATS = 3
cfg, imgsz = sys.argv[1], int(sys.argv[2])
hot_seconds = 0.0


def timed(function):
    @functools.wraps(function)
    def wrapper(*arguments, **keywords):
        global hot_seconds
        begin = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            hot_seconds += time.perf_counter() - begin

    return wrapper


def measure(job, repeats=REPEATS):
    """The quickest of some calls: seconds in all, and of these in hot callables."""
    global hot_seconds
    best = None
    for _ in range(repeats):
        hot_seconds = 0.0
        begin = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            job()
        found = [time.perf_counter() - begin, hot_seconds]
        best = found if best is None or found[0] < best[0] else best
    return best


def train():
    yolov5.train.run(
        data="data/data.yaml",
        weights="",
        cfg=cfg,
        imgsz=imgsz // 2,
        epochs=1,
        batch_size=8,
        device="cpu",
        workers=0,
        noplots=True,
        project="runs",
        name="epoch",
        exist_ok=True,
    )


torch_utils.ModelEMA.update = timed(torch_utils.ModelEMA.update)
for name in ("fuse_conv_and_bn", "scale_img"):
    setattr(yolo, name, timed(getattr(yolo, name)))
prune = timed(torch_utils.prune)
torch.manual_seed(3)
weights = os.path.abspath("random.pt")  # a bare name would be looked up on a hub
model = yolo.Model(os.path.join(os.path.dirname(yolo.__file__), cfg), ch=3, nc=80)
torch.save({"model": model.half(), "ema": None, "optimizer": None, "epoch": -1}, weights)
image = torch.rand(1, 3, imgsz, imgsz)
fused = attempt_load(weights, device="cpu")
fresh = [
    attempt_load(weights, device="cpu", fuse=False) for _ in range(REPEATS)
]  # pruned once each
jobs = {
    "load and fuse": measure(lambda: attempt_load(weights, device="cpu")),
    "prune a loaded model": measure(lambda: prune(fresh.pop(), 0.3)),
}
with torch.no_grad():
    jobs["detect, augmented, one image"] = measure(lambda: fused(image, augment=True))
jobs["train one epoch, validate"] = measure(train, 1)
print("\n" + json.dumps(jobs))
