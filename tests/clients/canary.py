"""Runs a client script with one hot path slightly wrong: canary.py FAULT SCRIPT ARGUMENT...

The comparison of the runs must notice every one of them. lerp: an average that is wrong by an ulp
here and there. pad: images padded with a little too dark a grey. round: prune rounds half up.
"""

import runpy
import sys
from pathlib import Path

import torch
from torch.nn.utils import prune as pruning
from yolov5.utils import torch_utils


@torch.no_grad()
def lerp(self, model):
    self.updates += 1
    weight = 1 - self.decay(self.updates)
    source = torch_utils.de_parallel(model).state_dict()
    for key, value in self.ema.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(source[key], weight)


def padded(img, ratio=1.0, same_shape=False, gs=32):
    result = stock_scale_img(img, ratio, same_shape, gs)
    if ratio != 1.0:
        height, width = (int(size * ratio) for size in img.shape[2:])
        result[:, :, height:] = 0.446
        result[:, :, :, width:] = 0.446
    return result


def rounded(model, amount=0.3):
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            count = int(amount * module.weight.numel() + 0.5)
            pruning.l1_unstructured(module, name="weight", amount=count)
            pruning.remove(module, "weight")


stock_scale_img = torch_utils.scale_img
fault, *sys.argv = sys.argv[1:]
if fault == "lerp":
    torch_utils.ModelEMA.update = lerp
elif fault == "pad":
    for module in list(sys.modules.values()):  # importing yolov5 has spread copies by now
        if getattr(module, "__dict__", {}).get("scale_img") is stock_scale_img:
            module.scale_img = padded
elif fault == "round":
    torch_utils.prune = rounded
sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
runpy.run_path(sys.argv[0], run_name="__main__")
