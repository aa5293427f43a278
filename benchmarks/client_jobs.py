"""Runs in the clients' environment, stock or under our launcher: times real jobs of YOLOv5.

client_jobs.py CFG IMGSZ   Prints JSON: per job the seconds in all, those in the hot callables of
the client's torch_utils, whichever they are by then, and the calls that ran in this package's C.
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
from yolov5.utils.general import strip_optimizer

sys.path[0] = os.path.dirname(yolov5.__file__)  # as in the client's own scripts; not this folder
REPEATS = 10
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


def calls_in_c():
    ops = sys.modules.get("yolov5_utils.ops")  # never imported by a stock run
    return {name: path.calls["C"] for name, path in ops.OPERATIONS.items()} if ops else {}


def measure(job, repeats=REPEATS):
    """The quickest of some calls: seconds in all, of these in hot callables, and calls in C."""
    global hot_seconds
    best = None
    for _ in range(repeats):
        hot_seconds = 0.0
        before = calls_in_c()
        begin = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            job()
        seconds = time.perf_counter() - begin
        called = {name: calls - before[name] for name, calls in calls_in_c().items()}
        if best is None or seconds < best[0]:
            best = [seconds, hot_seconds, {name: calls for name, calls in called.items() if calls}]
    return best


def load_and_prune(who):
    """Two jobs with the checkpoint, in the mode of the caller."""
    found = {f"load and fuse, as {who}": measure(lambda: attempt_load(weights, device="cpu"))}
    fresh = [attempt_load(weights, device="cpu", fuse=False) for _ in range(REPEATS)]
    found[f"prune a loaded model, as {who}"] = measure(lambda: prune(fresh.pop(), 0.3))
    return found


@torch_utils.smart_inference_mode()
def load_prune_and_detect():
    """The same in the mode that detect.py and val.py run in, and a detection."""
    found = load_and_prune("detect.py and val.py do")
    fused = attempt_load(weights, device="cpu")
    found["detect, augmented, one image"] = measure(lambda: fused(image, augment=True))
    return found


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
for name in ("fuse_conv_and_bn", "model_info", "scale_img"):
    setattr(yolo, name, timed(getattr(yolo, name)))
prune = timed(torch_utils.prune)
torch.manual_seed(3)
weights = os.path.abspath("random.pt")  # a bare name would be looked up on a hub
model = yolo.Model(os.path.join(os.path.dirname(yolo.__file__), cfg), ch=3, nc=80)
torch.save({"model": model}, weights)
strip_optimizer(weights)  # float16 and without gradients, as every released checkpoint
image = torch.rand(1, 3, imgsz, imgsz)
jobs = load_and_prune("torch.hub does") | load_prune_and_detect()
jobs["train one epoch, validate"] = measure(train, 1)
print("\n" + json.dumps(jobs))
