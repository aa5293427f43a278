"""What the package is compared with: YOLOv5's own formulas, and the best known other ways.

Must not know the package under test.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

DECAY = 0.9999


class OriginalEMA:
    """YOLOv5's average: per floating entry of the state dict a product in place and a sum."""

    def __init__(self, model: nn.Module) -> None:
        self.ema = deepcopy(model).eval().requires_grad_(False)
        self.updates = 0

    def decay(self) -> float:
        """The decay of this update, ramped up as in YOLOv5."""
        self.updates += 1
        return DECAY * (1 - math.exp(-self.updates / 2000))

    def update(self, model: nn.Module) -> None:
        """Average `model` into `ema`."""
        with torch.no_grad():
            decay = self.decay()
            new = model.state_dict()
            for key, value in self.ema.state_dict().items():
                if value.dtype.is_floating_point:
                    value *= decay
                    value += (1 - decay) * new[key].detach()


class ForeachEMA(OriginalEMA):
    """The same walks with one `_foreach_lerp_`: fewer calls, other bits (a fused blend)."""

    def update(self, model: nn.Module) -> None:
        """Average `model` into `ema`."""
        with torch.no_grad():
            decay = self.decay()
            new = model.state_dict()
            floating = [
                (value, new[key])
                for key, value in self.ema.state_dict().items()
                if value.dtype.is_floating_point
            ]
            averages, sources = zip(*floating, strict=True)
            torch._foreach_lerp_(averages, sources, 1 - decay)


class KeptListsEMA(OriginalEMA):
    """The newest of its kind, as ultralytics has it since 8.4.110: the tensors are looked up at the
    first update and trusted ever after, and one `_foreach_lerp_` averages them.

    Whatever replaces a tensor later (`.half()`, `load_state_dict(assign=True)`) goes unnoticed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.lists: tuple[list[Tensor], list[Tensor]] | None = None

    def update(self, model: nn.Module) -> None:
        """Average `model` into `ema`."""
        with torch.no_grad():
            decay = self.decay()
            if self.lists is None:
                averages, new = self.ema.state_dict(), model.state_dict()
                keys = [key for key, value in averages.items() if value.dtype.is_floating_point]
                self.lists = [averages[key] for key in keys], [new[key] for key in keys]
            torch._foreach_lerp_(*self.lists, 1 - decay)


def averaged_model(model: nn.Module) -> Callable[[nn.Module], None]:
    """The update function of torch's own AveragedModel, buffers included as YOLOv5 has them."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # torch 2.1

    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    return average.update_parameters


def timm_average(model: nn.Module) -> Callable[[nn.Module], None] | None:
    """The update function of timm's ModelEmaV3, or None where timm is not installed."""
    module = _timm_module()
    return None if module is None else module.ModelEmaV3(model, decay=DECAY).update


def _timm_module() -> Any:
    """timm.utils.model_ema, loaded alone: importing timm needs torchvision, this file does not."""
    try:
        path = importlib.metadata.distribution("timm").locate_file("timm/utils/model_ema.py")
    except importlib.metadata.PackageNotFoundError:
        return None
    spec = importlib.util.spec_from_file_location("timm_model_ema", str(path))
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def averages(model: nn.Module) -> dict[str, Callable[[nn.Module], object]]:
    """The ways to update an average of the model, each with an average of its own.

    The first is the original; the others round differently, so they could not replace it. timm's
    is left out where timm is not installed.
    """
    ways = {
        "original (mul_, mul, add_)": OriginalEMA(model).update,
        "_foreach_lerp_, kept lists": KeptListsEMA(model).update,
        "_foreach_lerp_ + 2 walks": ForeachEMA(model).update,
        "torch AveragedModel, multi_avg": averaged_model(model),
        "timm ModelEmaV3": timm_average(model),
    }
    return {name: update for name, update in ways.items() if update is not None}


def original_sparsity(model: nn.Module) -> Tensor:
    """YOLOv5's formula: a comparison and a sum per parameter, added up in the default dtype."""
    elements, zeros = 0.0, 0.0
    for parameter in model.parameters():
        elements += parameter.numel()
        zeros += (parameter == 0).sum()
    return zeros / elements  # type: ignore[return-value]


def count_nonzero_sparsity(model: nn.Module) -> float:
    """The share of zeros through torch.count_nonzero, one call per parameter."""
    elements, nonzero = 0, torch.zeros((), dtype=torch.int64)
    for parameter in model.parameters():
        elements += parameter.numel()
        nonzero += torch.count_nonzero(parameter)
    return 1 - nonzero.item() / elements


def original_prune(model: nn.Module, amount: float) -> None:
    """YOLOv5's formula: torch's pruning by magnitude, made permanent, per convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            torch_prune.l1_unstructured(module, name="weight", amount=amount)
            torch_prune.remove(module, "weight")


def partition_prune(model: nn.Module, amount: float) -> None:
    """np.partition, a SIMD quickselect where NumPy has one, for the threshold; then a mask.

    Only weights of magnitudes above the k-th, counted from 1, are kept.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.data
            magnitude = weight.abs()
            count = round(amount * weight.numel())
            if count:
                kth = np.partition(magnitude.view(-1).numpy(), count - 1)[count - 1]
                module.weight.data = weight * (magnitude > float(kth))


def original_fuse(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """YOLOv5's formula: a constructed Conv2d, a diagonal matrix times the weight."""
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=True,
    )
    fused = fused.requires_grad_(False).to(conv.weight.device)
    root = torch.sqrt(bn.eps + bn.running_var)
    diagonal = torch.diag(bn.weight.div(root))
    rows = conv.weight.clone().view(conv.out_channels, -1)
    fused.weight.copy_(torch.mm(diagonal, rows).view(fused.weight.shape))
    zeros = torch.zeros(conv.weight.size(0), device=conv.weight.device)
    bias = zeros if conv.bias is None else conv.bias
    moved = bn.bias - bn.weight.mul(bn.running_mean).div(torch.sqrt(bn.running_var + bn.eps))
    fused.bias.copy_(torch.mm(diagonal, bias.reshape(-1, 1)).reshape(-1) + moved)
    return fused


def fuse_in_place(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
    """The least that torch operations can do: the weight multiplied where it is, a bias set.

    No new module, no new memory for the weight, other roundings. The module must have no bias.
    """
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    conv.weight.mul_(scale.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(bn.bias - bn.running_mean * scale, requires_grad=False)


def original_scale_img(img: Tensor, ratio: float, gs: int = 32) -> Tensor:
    """YOLOv5's formula: bilinear interpolation, then padding to multiples of gs."""
    height, width = img.shape[2:]
    size = (int(height * ratio), int(width * ratio))
    img = F.interpolate(img, size=size, mode="bilinear", align_corners=False)
    height, width = (math.ceil(x * ratio / gs) * gs for x in (height, width))
    return F.pad(img, [0, width - size[1], 0, height - size[0]], value=0.447)


def original_time_synchronized() -> float:
    """YOLOv5's two lines: wait for the GPU where there is one, then read the clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.time()
