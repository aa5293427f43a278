"""Logs the size of every model that a release has: size_models.py --name FOLDER [CFG…]

As built and as fused, at the default and at another image size, and of classifiers where the
release has them; all the settings files of its models folder unless some are named.
"""

import inspect
import os
import sys
from copy import deepcopy
from pathlib import Path

import torch
from yolov5.models import yolo
from yolov5.utils import torch_utils

folder = Path("runs", sys.argv[2])
os.makedirs(folder)
root = Path(inspect.getfile(yolo)).parent
files = sorted([*root.glob("yolov5?.yaml"), *root.glob("segment/yolov5?-seg.yaml")])
for file in files:
    if sys.argv[3:] and file.stem not in sys.argv[3:]:
        continue
    torch.manual_seed(3)
    segments = "segment" in file.parts
    model = (yolo.SegmentationModel if segments else yolo.Model)(str(file))
    models = [model]
    if hasattr(yolo, "ClassificationModel") and not segments:
        models.append(yolo.ClassificationModel(model=deepcopy(model), nc=7, cutoff=10))
    for model in models:
        names = [f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items()]
        torch_utils.model_info(model, False, 320)
        torch_utils.model_info(model, False, [640, 320])
        model.eval().fuse()
        torch_utils.model_info(model)
        print(len(names), torch.rand(1))
