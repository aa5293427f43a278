"""Module trees with the shapes of YOLOv5 v7.0 n/s/m/l/x (80 classes), built from one table.

What the benchmarks time is the walk over modules and the bytes of their tensors, so names, nesting,
dtypes and counts are those of the published models; the values are random. Must not know the
package under test.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

CLASSES = 80
# Anchor sizes in pixels of the three output scales; the Detect layer holds them in its buffer.
Anchors = tuple[tuple[float, ...], ...]
ANCHORS: Anchors = (
    (10.0, 13.0, 16.0, 30.0, 33.0, 23.0),
    (30.0, 61.0, 62.0, 45.0, 59.0, 119.0),
    (116.0, 90.0, 156.0, 198.0, 373.0, 326.0),
)


class Size(NamedTuple):
    """How a model scales the layout below."""

    depth: float  # times the number of bottlenecks in a C3 block
    width: float  # times the number of channels


SIZES = {
    "n": Size(0.33, 0.25),
    "s": Size(0.33, 0.50),
    "m": Size(0.67, 0.75),
    "l": Size(1.00, 1.00),
    "x": Size(1.33, 1.25),
}


class Layer(NamedTuple):
    """One row of the layout."""

    kind: str
    sources: tuple[int, ...] = (-1,)  # indices of the layers read, -1 is the one before
    channels: int = 0  # output channels before scaling
    kernel: int = 1
    stride: int = 1
    repeats: int = 1  # bottlenecks of a C3 before scaling
    shortcut: bool = True  # bottlenecks of a C3 add their input


def down(channels: int, kernel: int = 3) -> Layer:
    """A Conv that halves height and width."""
    return Layer("Conv", (-1,), channels, kernel, stride=2)


def c3(channels: int, repeats: int, shortcut: bool = True) -> Layer:
    """A C3 block."""
    return Layer("C3", (-1,), channels, repeats=repeats, shortcut=shortcut)


def concat_with(source: int) -> Layer:
    """The layer before, joined with that of index `source`."""
    return Layer("Concat", (-1, source))


LAYOUT = (
    # backbone: layers 0 to 9
    *(down(64, kernel=6), down(128), c3(128, 3), down(256), c3(256, 6)),
    *(down(512), c3(512, 9), down(1024), c3(1024, 3), Layer("SPPF", (-1,), 1024, kernel=5)),
    # head: up to the two finer scales, 10 to 17, and back down, 18 to 23
    *(Layer("Conv", (-1,), 512), Layer("Upsample"), concat_with(6), c3(512, 3, False)),
    *(Layer("Conv", (-1,), 256), Layer("Upsample"), concat_with(4), c3(256, 3, False)),
    *(down(256), concat_with(14), c3(512, 3, False)),
    *(down(512), concat_with(10), c3(1024, 3, False)),
    Layer("Detect", (17, 20, 23)),
)


class Counts(NamedTuple):
    """What a built model must contain."""

    entries: int  # of the state dict
    float_entries: int
    float_elements: int
    parameters: int  # elements
    parameter_tensors: int
    convolutions: int
    batch_norms: int
    modules: int  # distinct ones: the activation is one object
    visits: int  # modules a state_dict walk visits: shared ones at every place


# Parameters, distinct modules and visits are the totals YOLOv5 prints for v7.0 and v6.x.
EXPECTED = {
    "n": Counts(349, 292, 1_881_679, 1_872_157, 177, 60, 57, 214, 270),
    "s": Counts(349, 292, 7_254_415, 7_235_389, 177, 60, 57, 214, 270),
    "m": Counts(481, 402, 21_227_343, 21_190_557, 243, 82, 79, 291, 369),
    "l": Counts(613, 512, 46_623_759, 46_563_709, 309, 104, 101, 368, 468),
    "x": Counts(745, 622, 86_838_223, 86_749_405, 375, 126, 123, 445, 567),
}


class Conv(nn.Module):
    """Convolution without bias, batch norm, activation."""

    activation = nn.SiLU()  # one object in the whole model, as in v7.0

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        # The first layer's kernel of 6 goes with a padding of 2.
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = self.activation

    def forward(self, x: Tensor) -> Tensor:
        """Feature map of `outputs` channels."""
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """The same once `conv` computes `bn` too."""
        return self.act(self.conv(x))


class Bottleneck(nn.Module):
    """A 1×1 and a 3×3 Conv, with the input added where `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels, 1)
        self.cv2 = Conv(channels, channels, 3)
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Feature map of the input's shape."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """Two branches of half the channels, one through bottlenecks, joined by a third Conv."""

    def __init__(self, inputs: int, outputs: int, repeats: int, shortcut: bool) -> None:
        super().__init__()
        hidden = outputs // 2
        self.cv1 = Conv(inputs, hidden)
        self.cv2 = Conv(inputs, hidden)
        self.cv3 = Conv(2 * hidden, outputs)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        """Feature map of `outputs` channels."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    """Spatial pyramid: one max pool applied three times in a row, all stages joined."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs // 2
        self.cv1 = Conv(inputs, hidden)
        self.cv2 = Conv(4 * hidden, outputs)
        self.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map of `outputs` channels."""
        stages = [self.cv1(x)]
        for _ in range(3):
            stages.append(self.m(stages[-1]))
        return self.cv2(torch.cat(stages, 1))


class Concat(nn.Module):
    """Joins feature maps along the channels."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        """One map with the channels of all."""
        return torch.cat(maps, 1)


class Detect(nn.Module):
    """One 1×1 convolution with bias per scale, and the anchors as a buffer."""

    def __init__(self, channels: list[int], anchors: Anchors, classes: int) -> None:
        super().__init__()
        self.values = classes + 5  # box, objectness, classes
        self.register_buffer("anchors", torch.tensor(anchors).view(len(anchors), -1, 2))
        outputs = self.values * self.anchors.shape[1]
        self.m = nn.ModuleList(nn.Conv2d(count, outputs, 1) for count in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Per scale (batch, anchors, height, width, values), undecoded as in training."""
        outputs = []
        for convolution, x in zip(self.m, maps, strict=True):
            batch, _, height, width = x.shape
            y = convolution(x).view(batch, -1, self.values, height, width)
            outputs.append(y.permute(0, 1, 3, 4, 2).contiguous())
        return outputs


class DetectionModel(nn.Module):
    """The whole tree: `model` is the sequence of the layout's layers."""

    def __init__(
        self,
        size: Size,
        layout: tuple[Layer, ...] = LAYOUT,
        anchors: Anchors = ANCHORS,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        self.layout = layout
        layers: list[nn.Module] = []
        channels: list[int] = []
        for layer in layout:
            inputs = [channels[source] for source in layer.sources] if channels else [3]
            module, outputs = (
                (Detect(inputs, anchors, classes), 0)
                if layer.kind == "Detect"
                else _build_layer(layer, inputs, size)
            )
            layers.append(module)
            channels.append(outputs)
        self.model = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Raw predictions of each scale for (batch, 3, height, width) images."""
        maps: list[Tensor] = []
        result = images
        for layer, module in zip(self.layout, self.model, strict=True):
            inputs = [maps[source] for source in layer.sources] if maps else [images]
            result = module(inputs if layer.kind in ("Concat", "Detect") else inputs[0])
            maps.append(result)
        return result


def _build_layer(layer: Layer, inputs: list[int], size: Size) -> tuple[nn.Module, int]:
    """The module of one row of the layout, and its output channels."""
    outputs = math.ceil(layer.channels * size.width / 8) * 8
    if layer.kind == "Conv":
        return Conv(inputs[0], outputs, layer.kernel, layer.stride), outputs
    if layer.kind == "C3":
        repeats = max(round(layer.repeats * size.depth), 1)
        return C3(inputs[0], outputs, repeats, layer.shortcut), outputs
    if layer.kind == "SPPF":
        return SPPF(inputs[0], outputs, layer.kernel), outputs
    if layer.kind == "Upsample":
        return nn.Upsample(scale_factor=2, mode="nearest"), inputs[0]
    return Concat(), sum(inputs)


def build(name: str, *, seed: int = 0, half_once: bool = False) -> DetectionModel:
    """YOLOv5 v7.0 `name` (one of SIZES) with seeded values, its counts checked; ValueError else.

    Running statistics and batch norm parameters are not their initial 0 and 1. With `half_once`
    every float went through float16 and back, as in a released checkpoint. The global random
    stream is left as it was.
    """
    if name not in SIZES:
        raise ValueError(f"model: got {name!r}, allowed are {', '.join(SIZES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DetectionModel(SIZES[name])
        _randomise_norms(model)
    if half_once:
        model.half().float()
    counted = count(model)
    if counted != EXPECTED[name]:
        raise AssertionError(f"model {name}: counted {counted}, expected {EXPECTED[name]}")
    return model


def _randomise_norms(model: nn.Module) -> None:
    """Give every batch norm values of a trained one's magnitude."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.2, 2.0)
                module.num_batches_tracked.fill_(1000)


def count(model: nn.Module) -> Counts:
    """The counts of `model`."""
    state = model.state_dict()
    floats = [value for value in state.values() if value.dtype.is_floating_point]
    parameters = list(model.parameters())
    modules = list(model.modules())
    return Counts(
        entries=len(state),
        float_entries=len(floats),
        float_elements=sum(value.numel() for value in floats),
        parameters=sum(parameter.numel() for parameter in parameters),
        parameter_tensors=len(parameters),
        convolutions=sum(isinstance(module, nn.Conv2d) for module in modules),
        batch_norms=sum(isinstance(module, nn.BatchNorm2d) for module in modules),
        modules=len(modules),
        visits=sum(1 for _ in model.named_modules(remove_duplicate=False)),
    )


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of the tree with every floating tensor cut to two elements.

    A hot path spends on it what it spends on anything but elements: walk, checks, calls. Two
    elements and not one, because a one-element tensor takes a check of its own.
    """

    def cut(value: Tensor) -> Tensor:
        return value.detach().flatten()[:2].clone().view(2, *(1,) * (value.dim() - 1))

    # Cut in the copy's memo, so that a large model is not copied in full first.
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(cut(parameter), parameter.requires_grad)
    for buffer in model.buffers():
        if buffer.dtype.is_floating_point:
            memo[id(buffer)] = cut(buffer)
    return deepcopy(model, memo)
