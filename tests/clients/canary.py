"""Runs a client script with an EMA that is wrong by an ulp here and there: one lerp per tensor.

canary.py SCRIPT ARGUMENT...   The comparison of the runs must notice.
"""

import runpy
import sys
from pathlib import Path

import torch
from yolov5.utils import torch_utils


@torch.no_grad()
def update(self, model):
    self.updates += 1
    weight = 1 - self.decay(self.updates)
    source = torch_utils.de_parallel(model).state_dict()
    for key, value in self.ema.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(source[key], weight)


torch_utils.ModelEMA.update = update
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
runpy.run_path(sys.argv[0], run_name="__main__")
