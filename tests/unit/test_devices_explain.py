"""explain for tensors of a GPU, and of its stand-in: the way of the call that follows, which is not
made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import yolov5_utils
from yolov5_utils.commands import explain
from yolov5_utils.torch_utils import (
    ModelEMA,
    fuse_conv_and_bn,
    prune,
    scale_img,
    sparsity,
)

from ..support import takes
from .devices import Device
from .test_devices import convolutions, pair

CALLS: dict[str, tuple[Callable[[torch.device], tuple[Any, ...]], Callable[..., Any]]] = {
    "ema": (
        lambda place: (ModelEMA(convolutions(1).to(place)), convolutions(2).to(place)),
        lambda average, model: average.update(model),
    ),
    "sparsity": (lambda place: (convolutions(1).to(place),), sparsity),
    "prune": (lambda place: (convolutions(1).to(place), 0.3), prune),
    "scale_img": (lambda place: (torch.rand(1, 3, 99, 130, device=place), 0.83), scale_img),
    "fuse": (
        lambda place: tuple(m.to(place) for m in pair((16, 7), torch.float32, 1)),
        fuse_conv_and_bn,
    ),
}


@pytest.mark.parametrize("operation", CALLS)
def test_explained_and_then_taken(
    device: Device,
    operation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not device.real:  # its tensors say that they are on the CPU
        monkeypatch.setattr(explain, "_gpu_of", lambda _: torch.device("cuda", 0))
    make, call = CALLS[operation]
    given = make(device.place)
    state = [
        value.clone()
        for module in given
        if isinstance(module, nn.Module)
        for value in module.state_dict().values()
    ]
    with takes(operation, calls=0):
        row = yolov5_utils.explain(operation, *given)
    assert (row.name, row.way) == (operation, device.way), row
    if device.way == "CUDA":
        assert row.why == "the CUDA library on cuda:0"
    after = [v for m in given if isinstance(m, nn.Module) for v in m.state_dict().values()]
    assert all(torch.equal(old, new) for old, new in zip(state, after, strict=True))
    with takes(operation, device.way):
        call(*given)


def test_what_the_library_leaves_to_torch(device: Device) -> None:
    image = torch.rand(1, 3, 99, 130, device=device.place).double()
    row = yolov5_utils.explain("scale_img", image, 0.83)
    assert row.way == "torch"
    assert "float32" in row.why or device.way == "torch"
