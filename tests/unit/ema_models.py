"""What the tests of ModelEMA share: a model with every kind of entry, the original loop beside an
update, and the comparison of everything that may or may not have moved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import ModelEMA

from ..support import assert_same_bits, original


class Net(nn.Module):
    """Everything a YOLOv5 model's state holds: convolutions, norms, anchors, a hidden grid."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Identity(), nn.Linear(4, 4)])
        self.register_buffer("anchors", torch.rand(3, 2, generator=generator))
        self.register_buffer("grid", torch.rand(4, generator=generator), persistent=False)
        self.register_buffer("complex", torch.ones(2, dtype=torch.complex64))
        self.register_buffer("none", None)
        for tensor in [*self.parameters(), self.bn.running_mean, self.bn.running_var]:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator))


def averaged(model: nn.Module | None = None) -> tuple[Any, ModelEMA]:
    """A model, by default with every kind of entry, and an average of it."""
    model = Net() if model is None else model
    return model, ModelEMA(model)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def assert_state(model: nn.Module, expected: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        if not isinstance(value, Tensor):
            assert state[key] == value
        elif value.dtype.is_floating_point and value.layout is torch.strided:
            assert_same_bits(state[key], value)


def check(ema: ModelEMA, model: nn.Module, way: str = "C") -> None:
    """One update against the original loop on copies, and which way it took."""
    expected = copy.deepcopy(ema.ema)
    bare = model.module if type(model) is nn.DataParallel else model
    original(expected, bare, ema.decay(ema.updates + 1))
    hidden = {k: v.clone() for k, v in ema.ema.named_buffers()}
    untouched, before = snapshot(model), OPERATIONS["ema"].counted()
    ema.update(model)
    after = OPERATIONS["ema"].counted()
    assert {name for name in after if after[name] > before[name]} == {way}
    assert_state(ema.ema, expected.state_dict())
    assert_state(model, untouched)
    for key in ("grid", "bn.num_batches_tracked"):
        if key in hidden:
            assert torch.equal(dict(ema.ema.named_buffers())[key], hidden[key])


def trained(model: nn.Module, seed: int = 1) -> nn.Module:
    """The model after some steps: other values everywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.dtype.is_floating_point:
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor))
            elif tensor.dtype == torch.int64:
                tensor.add_(7)
    return model


def fails(ema: ModelEMA, model: nn.Module, error: type[Exception], match: str) -> None:
    """The update raises, as the original does, and leaves everything as it was."""
    with pytest.raises(error):
        original(copy.deepcopy(ema.ema), model, ema.decay(1))
    expected, updates = snapshot(ema.ema), ema.updates
    with pytest.raises(error, match=match):
        ema.update(model)
    assert_state(ema.ema, expected)
    assert ema.updates == updates
