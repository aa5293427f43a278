"""What a model is set up with before training. Must not import torchvision until it is needed."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

_INPLACE_ACTIVATIONS = (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6)


def initialize_weights(model: nn.Module) -> None:
    """Give every BatchNorm2d YOLOv5's eps and momentum, and make its activations work in place.

    Exact types alone (no subclass, no SyncBatchNorm, no SiLU); weights stay as they are.
    Source: YOLOv5 5.0.
    """
    for module in model.modules():
        kind = type(module)
        if kind is nn.BatchNorm2d:
            module.eps = 1e-3
            module.momentum = 0.03
        elif kind in _INPLACE_ACTIVATIONS:
            module.inplace = True


def load_classifier(name: str = "resnet101", n: int = 2) -> Any:
    """A torchvision classifier with ImageNet weights and a new, zero, last layer of `n` classes.

    `name` is a model of torchvision.models whose last layer is `fc` (ResNet, ResNeXt, ...);
    weights are downloaded where torchvision has not cached them. The input it expects is RGB,
    (batch, 3, 224, 224), scaled to 0..1, less ImageNet's mean (0.485, 0.456, 0.406), over its
    standard deviation (0.229, 0.224, 0.225).

    KeyError for a name torchvision lacks, AttributeError for a model without `fc`,
    ModuleNotFoundError without torchvision. Source: YOLOv5 5.0.
    """
    from torchvision import models

    build = models.__dict__[name]
    if "weights" in inspect.signature(build).parameters:
        # Those that `pretrained=True` stands for; DEFAULT would be newer ones for some models.
        model = build(weights="IMAGENET1K_V1")
    else:  # torchvision < 0.13
        model = build(pretrained=True)

    if not hasattr(model, "fc"):
        raise AttributeError(
            f"load_classifier: name={name!r} has no last layer 'fc'; "
            "allowed are models that have one, such as 'resnet101'"
        )
    features = model.fc.weight.shape[1]
    model.fc.bias = nn.Parameter(torch.zeros(n))
    model.fc.weight = nn.Parameter(torch.zeros(n, features))
    model.fc.out_features = n
    return model
