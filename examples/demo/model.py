"""A small detector of YOLOv5's shape, built from the layers that the benchmarks have: a C3
backbone, SPPF, a PANet head, two strides. Knows nothing of training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.models import DetectionModel, Layer, Size, c3, concat_with, down

STRIDES = (8, 16)
# Width and height in pixels of the boxes that predictions start from, per stride. The drawn shapes
# are 11 to 42 pixels wide, about as wide as high.
ANCHORS = ((12.0, 12.0, 18.0, 18.0, 26.0, 26.0), (26.0, 26.0, 34.0, 34.0, 44.0, 44.0))
LAYOUT = (
    *(down(16, kernel=6), down(32), c3(32, 1), down(64), c3(64, 1)),
    *(down(128), c3(128, 1), Layer("SPPF", (-1,), 128, kernel=5)),
    *(Layer("Conv", (-1,), 64), Layer("Upsample"), concat_with(4), c3(64, 1, False)),
    *(down(64), concat_with(8), c3(128, 1, False), Layer("Detect", (11, 14))),
)
SHAPES_PER_PICTURE = 3.0  # what the objectness starts from, so that training need not unlearn 0.5


class Detector(DetectionModel):
    """Raw predictions per stride while training, decoded ones in eval mode.

    Takes float32 (pictures, 3, height, width), 0 to 1, sides a multiple of 16.
    """

    def __init__(self, names: tuple[str, ...], size: int, width: float) -> None:
        super().__init__(Size(1.0, width), LAYOUT, ANCHORS, len(names))
        self.names = list(names)
        self.stride = torch.tensor(STRIDES)
        self.anchors = self.model[-1].anchors
        for convolution, stride in zip(self.model[-1].m, STRIDES, strict=True):
            bias = convolution.bias.detach().view(-1, 5 + len(names))
            bias[:, 4] = math.log(SHAPES_PER_PICTURE / (size / stride) ** 2)  # few objects
            bias[:, 5:] = -math.log(len(names) - 0.99)  # of no class in particular

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        raw = super().forward(images)
        return raw if self.training else self.decode(raw)

    def decode(self, raw: list[Tensor]) -> Tensor:
        """(pictures, predictions, 5 + classes): centre, width, height in pixels, scores 0 to 1."""
        decoded = []
        for y, anchors, stride in zip(raw, self.anchors, STRIDES, strict=True):
            rows, columns = torch.meshgrid(
                torch.arange(y.shape[2]), torch.arange(y.shape[3]), indexing="ij"
            )
            y = y.sigmoid()
            cells = torch.stack((columns, rows), dim=-1)
            centre = (y[..., 0:2] * 2.0 - 0.5 + cells) * stride
            extent = (y[..., 2:4] * 2.0) ** 2 * anchors[:, None, None]
            decoded.append(torch.cat((centre, extent, y[..., 4:]), dim=-1).flatten(1, 3))
        return torch.cat(decoded, dim=1)


def build(names: tuple[str, ...], size: int, seed: int, width: float = 1.0) -> Detector:
    """A new Detector with weights from `seed` alone; the global random stream is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(names, size, width)
