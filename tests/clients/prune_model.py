"""Prunes a trained model as users do by the tutorial: prune_model.py --name FOLDER

Half of AMOUNT times the weights of a layer is no whole number: how it is rounded shows.
"""

import os
import sys

import torch
from yolov5.utils import torch_utils

AMOUNT = 1228.5 / 4096  # of the 4,096 weights of a 64x64 convolution: 1,228 and not 1,229

folder = os.path.join("runs", sys.argv[2])
model = torch.load("runs/train/weights/last.pt", map_location="cpu")["model"].float()
print(f"sparsity before {torch_utils.sparsity(model)!r}")
torch_utils.prune(model, AMOUNT)
print(f"sparsity after {torch_utils.sparsity(model)!r}")
os.makedirs(folder)
torch.save({"model": model}, os.path.join(folder, "pruned.pt"))
