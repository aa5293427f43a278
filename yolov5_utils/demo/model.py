"""A small detector of YOLOv5's published shape: C3 backbone, SPPF, PANet head, two strides.

Written from the architecture, so that the demo runs without YOLOv5; knows nothing of training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..torch_utils import fuse_conv_and_bn

# Width and height in pixels of the boxes that predictions start from, per stride. The drawn shapes
# are 11 to 42 pixels wide, about as wide as high.
ANCHORS = (((12.0, 12.0), (18.0, 18.0), (26.0, 26.0)), ((26.0, 26.0), (34.0, 34.0), (44.0, 44.0)))
STRIDES = (8, 16)
WIDTH = 16  # channels after the first convolution; every halving of the picture doubles them
SHAPES_PER_PICTURE = 3.0  # what the objectness starts from, so that training need not unlearn 0.5


class Conv(nn.Module):  # type: ignore[misc]
    """Convolution, batch norm and SiLU; `fuse` makes the first two one."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def fuse(self) -> None:
        """Replace convolution and batch norm by one convolution that computes both."""
        self.conv = fuse_conv_and_bn(self.conv, self.bn)
        self.bn = nn.Identity()


class Bottleneck(nn.Module):  # type: ignore[misc]
    """A 1×1 and a 3×3 convolution, with the input added where `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, 1)
        self.cv2 = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):  # type: ignore[misc]
    """Cross-stage block of three convolutions: one half goes through a bottleneck, one past it."""

    def __init__(self, inputs: int, outputs: int, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = Conv(inputs, half)
        self.cv2 = Conv(inputs, half)
        self.cv3 = Conv(outputs, outputs)
        self.m = Bottleneck(half, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


class SPPF(nn.Module):  # type: ignore[misc]
    """Spatial pyramid pooling: the same 5×5 maximum three times over, all four stages joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels // 2)
        self.cv2 = Conv(channels * 2, channels)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.cv1(x)]
        for _ in range(3):
            stages.append(self.pool(stages[-1]))
        return self.cv2(torch.cat(stages, dim=1))


class Detect(nn.Module):  # type: ignore[misc]
    """Raw predictions per stride, and the boxes they stand for."""

    def __init__(self, classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs = 5 + classes  # x, y, width, height, objectness, one score per class
        self.register_buffer("anchors", torch.tensor(ANCHORS))
        per_cell = len(ANCHORS[0])
        self.m = nn.ModuleList(nn.Conv2d(c, per_cell * self.outputs, 1) for c in channels)

    def start_rare(self, size: int) -> None:
        """Set the biases so that an untrained model expects few objects, no class in particular."""
        for convolution, stride in zip(self.m, STRIDES, strict=True):
            bias = convolution.bias.detach().view(-1, self.outputs)
            bias[:, 4] = math.log(SHAPES_PER_PICTURE / (size / stride) ** 2)
            bias[:, 5:] = -math.log(self.outputs - 5 - 0.99)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Per stride a tensor (pictures, anchors, rows, columns, 5 + classes) of raw numbers."""
        raw = []
        for x, convolution in zip(features, self.m, strict=True):
            y = convolution(x)
            pictures, _, rows, columns = y.shape
            y = y.view(pictures, -1, self.outputs, rows, columns)
            raw.append(y.permute(0, 1, 3, 4, 2).contiguous())
        return raw

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


class Detector(nn.Module):  # type: ignore[misc]
    """The whole network: raw predictions per stride while training, decoded ones in eval mode."""

    def __init__(self, names: tuple[str, ...], size: int, width: int = WIDTH) -> None:
        super().__init__()
        self.names = list(names)
        self.stride = torch.tensor(STRIDES)
        w = width
        self.stem = nn.Sequential(Conv(3, w, 6, 2), Conv(w, 2 * w, 3, 2), C3(2 * w, 2 * w))
        self.fine = nn.Sequential(Conv(2 * w, 4 * w, 3, 2), C3(4 * w, 4 * w))
        self.coarse = nn.Sequential(Conv(4 * w, 8 * w, 3, 2), C3(8 * w, 8 * w), SPPF(8 * w))
        self.lateral = Conv(8 * w, 4 * w)
        self.up = C3(8 * w, 4 * w, shortcut=False)
        self.down = Conv(4 * w, 4 * w, 3, 2)
        self.out = C3(8 * w, 8 * w, shortcut=False)
        self.detect = Detect(len(names), (4 * w, 8 * w))
        self.detect.start_rare(size)

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """images: float32 (pictures, 3, height, width), 0 to 1, sides a multiple of 16."""
        fine = self.fine(self.stem(images))
        lateral = self.lateral(self.coarse(fine))
        fine = self.up(torch.cat((F.interpolate(lateral, scale_factor=2.0), fine), dim=1))
        coarse = self.out(torch.cat((self.down(fine), lateral), dim=1))
        raw = self.detect([fine, coarse])
        if self.training:
            return raw
        return self.detect.decode(raw)

    def fuse(self) -> Detector:
        """Fuse every convolution with its batch norm, in place."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fuse()
        return self


def build(names: tuple[str, ...], size: int, seed: int, width: int = WIDTH) -> Detector:
    """A new Detector with weights from `seed` alone; the global random stream is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(names, size, width)
