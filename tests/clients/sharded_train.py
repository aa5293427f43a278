"""Trains a YOLOv5 that FSDP2 has sharded, and leaves best.pt: sharded_train.py --name FOLDER"""

import os
import sys

import torch
import torch.distributed as dist
import yolov5.utils.torch_utils as torch_utils
from torch.distributed.fsdp import fully_shard
from yolov5.models.yolo import Model

from yolov5_utils import ShardedEMA
from yolov5_utils.torch_utils import copy_attr

STEPS, BATCH, IMGSZ = 3, 2, 64

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(5)  # the same model on every rank
config = os.path.join(os.path.dirname(torch_utils.__file__), "..", "models", "yolov5n.yaml")
model, plain = Model(config, ch=3, nc=3).train(), Model(config, ch=3, nc=3)
for layer in model.model:
    fully_shard(layer)
fully_shard(model)
average = ShardedEMA(model)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
torch.manual_seed(7 + rank)
for _ in range(STEPS):
    loss = sum((level**2).mean() for level in model(torch.rand(BATCH, 3, IMGSZ, IMGSZ)))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    average.update(model)
model.names = {0: "a", 1: "b", 2: "c"}
average.update_attr(model, include=["names", "nc", "stride", "yaml"])
whole = average.full_state_dict()
if rank == 0:
    plain.load_state_dict(whole)
    copy_attr(plain, average.attributes)
    folder = os.path.join("runs", sys.argv[2])
    os.makedirs(folder)
    content = {"ema": plain.half(), "model": None, "updates": average.updates, "epoch": -1}
    torch.save(content, os.path.join(folder, "best.pt"))
dist.destroy_process_group()
