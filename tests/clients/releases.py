"""The clients: which release, how it is installed, how its jobs are run, what the overlay replaces.

Knows nothing of pytest; no client file is touched.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

DETECT = "--conf-thres 0.001 --device cpu --save-txt --save-conf --imgsz 160 --max-det 50"
VALIDATE = "--conf-thres 0.001 --device cpu --save-txt --save-conf --imgsz 64 --batch-size 8"
TRAIN = "--weights= --imgsz 64 --epochs 2 --batch-size 8 --device cpu --workers 0"
HOT = ("ModelEMA.update", "fuse_conv_and_bn", "prune", "scale_img", "sparsity")


class Client(NamedTuple):
    """One release of one client."""

    name: str  # as the table calls it, and the folder it is installed in
    requirement: str  # for pip
    jobs: dict[str, tuple[str, list[str]]]  # name -> what is run (module), with which arguments
    hot: tuple[str, ...]  # what the overlay has to replace
    updates: int  # of the average in two epochs of 32 pictures in batches of 8, where it is in C

    @property
    def package(self) -> str:
        return self.requirement.partition("==")[0]

    @property
    def torch_utils(self) -> str:
        return f"{self.package}.utils.torch_utils"


def _yolov5(release: str, training: str) -> Client:
    """A release of PyPI's yolov5: its own train.py, val.py and detect.py, and a script of ours."""
    weights = "--weights runs/train/weights/live.pt --project runs"
    data = "--data data/data.yaml"
    runs = {
        "train": ("train", f"{data} --project runs --name train {TRAIN} {training}"),
        "validate": ("val", f"{data} {weights} --name val {VALIDATE}"),
        "detect": ("detect", f"{weights} --name detect --source data/images/val {DETECT}"),
        "detect, augmented": (
            "detect",
            f"{weights} --name augmented --source data/images/val {DETECT} --augment",
        ),
    }
    jobs = {name: (f"yolov5.{file}", shlex.split(words)) for name, (file, words) in runs.items()}
    jobs["prune"] = ("prune_model.py", ["--name", "prune"])
    return Client(
        f"yolov5 {release}", f"yolov5=={release}", jobs, (*HOT, "time_sync", "model_info"), 8
    )


def _ultralytics(release: str, hot: tuple[str, ...], updates: int) -> Client:
    """A release of ultralytics: its console command's function, a YOLOv8 model."""
    weights = "model=runs/train/weights/live.pt device=cpu"
    shown = f"source=data/images/val conf=0.001 imgsz=160 save_txt save_conf {weights} max_det=50"
    training = "model=yolov8n.yaml data=data/data.yaml imgsz=64 epochs=2 batch=8 workers=0 "
    training += "device=cpu amp=False plots=False save_period=1 seed=3 "
    training += "nbs=8 save_dir=runs/train"  # nbs: an update of the average for every batch of 8
    runs = {
        "train": f"detect train {training}",
        "validate": f"detect val data=data/data.yaml imgsz=64 batch=8 workers=0 save_txt save_conf "
        f"plots=False {weights} save_dir=runs/val",
        "detect": f"detect predict {shown} save_dir=runs/detect",
        "detect, augmented": f"detect predict {shown} augment=True save_dir=runs/augmented",
    }
    jobs = {name: ("yolo", shlex.split(words)) for name, words in runs.items()}
    return Client(f"ultralytics {release}", f"ultralytics=={release}", jobs, hot, updates)


SEEDED = "--seed 3 --save-period 1 --noplots"
CLIENTS = {
    client.name: client
    for client in (
        _yolov5("7.0.14", f"--cfg yolov5n.yaml {SEEDED}"),
        _yolov5("6.2.3", f"--cfg yolov5n.yaml {SEEDED}"),
        _yolov5("6.1.9", f"--cfg yolov5n.yaml {SEEDED}"),
        _yolov5("6.0.7", "--cfg yolov5n.yaml --save-period 1"),
        # It has no yolov5n: the smallest by its own means.
        _yolov5("5.0.10", "--cfg small.yaml"),
        # The last whose average is no lerp, and whose fuse in place multiplies matrices.
        _ultralytics(
            "8.4.100", ("ModelEMA.update", "fuse_conv_and_bn", "scale_img", "time_sync"), 8
        ),
        _ultralytics("8.4.190", ("scale_img",), 0),
    )
}
