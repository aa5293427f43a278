"""Trains a YOLOv5 on gloo ranks, as the client's train.py does on GPUs: ddp_train.py --name FOLDER

Every rank draws its own batches; rank 0 keeps the average of the wrapped model, and saves.
"""

import os
import sys

import torch
import torch.distributed as dist
import yolov5.utils.torch_utils as torch_utils
from torch.nn.parallel import DistributedDataParallel
from yolov5.models.yolo import Model

STEPS, BATCH, IMGSZ = 3, 2, 64

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(5)  # the same model on every rank
config = os.path.join(os.path.dirname(torch_utils.__file__), "..", "models", "yolov5n.yaml")
model = DistributedDataParallel(Model(config, ch=3, nc=3).train())
average = torch_utils.ModelEMA(model) if rank == 0 else None
optimizer = torch_utils.smart_optimizer(model, "SGD", 0.01, 0.9, 5e-4)
torch.manual_seed(7 + rank)
for _ in range(STEPS):
    loss = sum((level**2).mean() for level in model(torch.rand(BATCH, 3, IMGSZ, IMGSZ)))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if average is not None:
        average.update(model)
with torch_utils.torch_distributed_zero_first(rank):
    if average is not None:
        folder = os.path.join("runs", sys.argv[2])
        os.makedirs(folder)
        content = {"ema": average.ema, "updates": average.updates, "model": model.module}
        torch.save(content, os.path.join(folder, "last.pt"))
dist.destroy_process_group()
