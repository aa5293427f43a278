"""Hands the fused model to torch's exporters and its compiler: export_model.py --name FOLDER

What each of them makes of it is written into runs/FOLDER, for comparison byte for byte.
"""

import os
import sys

import torch
from yolov5.models.experimental import attempt_load
from yolov5.utils.torch_utils import scale_img

IMGSZ = 96  # not a power of two: the scaled images have odd sizes


class Augmented(torch.nn.Module):
    """The model with test-time augmentation, which scales its images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(image, augment=True)[0]


def save(name, value):
    torch.save(value, os.path.join(folder, f"{name}.pt"))


folder = os.path.join("runs", sys.argv[2])
os.makedirs(folder)
torch.manual_seed(11)
image = torch.rand(1, 3, IMGSZ, IMGSZ)
model = attempt_load("runs/train/weights/live.pt", device="cpu", inplace=True, fuse=True)
for parameter in model.parameters():
    parameter.requires_grad_(False)
augmented = Augmented(model)
with torch.no_grad():
    save("eager", [model(image)[0], augmented(image)])
    for name, module in (("plain", model), ("augmented", augmented)):
        traced = torch.jit.trace(module, image, strict=False, check_trace=False)
        with open(os.path.join(folder, f"{name}.txt"), "w", encoding="utf-8") as file:
            file.write(str(traced.inlined_graph))
        output = traced(image)
        save(f"traced-{name}", output[0] if name == "plain" else output)
        onnx = os.path.join(folder, f"{name}.onnx")
        torch.onnx.export(module, image, onnx, opset_version=17, dynamo=False)
    torch.compiler.reset()
    save("compiled-plain", torch.compile(model, backend="aot_eager")(image)[0])
    # Not the augmented model: compiled, stock 7.0 gives it another shape than it has when eager.
    scaled = torch.compile(lambda x: scale_img(x, 0.83, gs=32), backend="aot_eager", fullgraph=True)
    save("compiled-scaled", scaled(image))
