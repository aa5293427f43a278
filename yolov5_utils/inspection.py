"""Looking at models: their size and speed, their parts, their attributes.

thop, which counts operations, is optional: it is looked for when a count is wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .ops.time_synchronized import time_synchronized

logger = logging.getLogger(f"{__package__}.torch_utils")


def load_thop() -> Any:
    """The thop package, or None where it is not installed."""
    try:
        import thop
    except ImportError:
        return None
    return thop


def _giga_operations(model: Any, inputs: tuple[Tensor, ...]) -> float:
    """1e9 floating point operations (two per multiply-add) of one forward pass, counted by thop.

    On a copy: thop leaves its counters behind as buffers. Raises whatever thop or the model does.
    """
    thop = load_thop()
    if thop is None:
        raise ImportError("thop is not installed")
    multiply_adds: float = thop.profile(deepcopy(model), inputs=inputs, verbose=False)[0]
    return multiply_adds / 1e9 * 2


def profile(
    x: Tensor,
    ops: Callable[..., Any] | list[Any] | tuple[Any, ...],
    n: int = 100,
    device: torch.device | str | None = None,
) -> None:
    """Print a table of parameters, GFLOPs and mean forward and backward time (ms) of operations.

    `x` is the floating point input, `ops` one module or callable or several, `n` the number of
    runs, `device` where they run (default: GPU 0, else the CPU). GFLOPs are 0 without thop, the
    backward time nan where there is nothing to differentiate. `x` on that device is made to
    require gradients, modules are moved to it (and to half precision for half `x`), and gradients
    are left in both; the modules' state stays as it is otherwise.

    ValueError for n < 1; an error of an operation passes through. Source: YOLOv5 5.0.
    """
    if n < 1:
        raise ValueError(f"profile: n={n}, allowed are numbers of runs from 1")
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    place = torch.device(device) if isinstance(device, str) else device
    x = x.to(place)
    x.requires_grad = True
    gpu = torch.cuda.get_device_properties(0) if place.type == "cuda" else ""
    print(torch.__version__, place.type, gpu)
    print(
        f"\n{'Params':>12}{'GFLOPs':>12}{'forward (ms)':>16}{'backward (ms)':>16}"
        f"{'input':>24}{'output':>24}"
    )
    for op in ops if isinstance(ops, (list, tuple)) else [ops]:
        op = op.to(place) if hasattr(op, "to") else op
        op = op.half() if hasattr(op, "half") and x.dtype is torch.float16 else op
        _profile_one(x, op, n)


def _profile_one(x: Tensor, op: Any, n: int) -> None:
    """Print one row of `profile`."""
    try:
        giga = _giga_operations(op, (x,))
    except Exception:  # no thop, or an operation that it cannot count
        giga = 0.0
    forward_ms, backward_ms = 0.0, 0.0
    for _ in range(n):
        start = time_synchronized()
        y = op(x)
        middle = time_synchronized()
        try:
            y.sum().backward()
            end = time_synchronized()
        except Exception:  # a list of outputs, or nothing that requires a gradient
            end = float("nan")
        forward_ms += (middle - start) * 1000 / n
        backward_ms += (end - middle) * 1000 / n
    parameters = sum(p.numel() for p in op.parameters()) if isinstance(op, nn.Module) else 0
    shape_in = str(tuple(x.shape))
    shape_out = str(tuple(y.shape)) if isinstance(y, Tensor) else "list"
    print(
        f"{parameters:12}{giga:12.4g}{forward_ms:16.4g}{backward_ms:16.4g}"
        f"{shape_in:>24}{shape_out:>24}"
    )


def model_info(
    model: nn.Module, verbose: bool = False, img_size: float | list[float] | tuple[float, ...] = 640
) -> None:
    """Log the number of layers, parameters and gradients of a model, and its GFLOPs.

    Layers are all modules, the model included. GFLOPs are for one image of `img_size` pixels (one
    number, or height and width); they are left out without thop and for a model that is not
    YOLOv5's (no `yaml`, or a forward pass that fails). `verbose` also prints a row per parameter.
    The model is not changed. Source: YOLOv5 of July 2021 (5.0 spells GFLOPS).
    """
    if verbose:
        _print_parameters(model)
    layers = len(list(model.modules()))
    parameters = sum(p.numel() for p in model.parameters())
    gradients = sum(p.numel() for p in model.parameters() if p.requires_grad)
    try:
        suffix = f", {_image_gflops(model, img_size):.1f} GFLOPs"
    except Exception:  # reporting must never stop a run
        suffix = ""
    logger.info(
        f"Model Summary: {layers} layers, {parameters} parameters, {gradients} gradients{suffix}"
    )


def _print_parameters(model: nn.Module) -> None:
    """Print the table of `model_info`: one row per parameter."""
    print(
        f"{'layer':>5} {'name':>40} {'gradient':>9} {'parameters':>12} "
        f"{'shape':>20} {'mu':>10} {'sigma':>10}"
    )
    for row, (name, parameter) in enumerate(model.named_parameters()):
        name = name.replace("module_list.", "")
        mean, deviation = parameter.detach().mean().item(), parameter.detach().std().item()
        print(
            f"{row:5} {name:>40} {parameter.requires_grad!s:>9} {parameter.numel():12g} "
            f"{list(parameter.shape)!s:>20} {mean:10.3g} {deviation:10.3g}"
        )


def _image_gflops(model: Any, img_size: Any) -> float:
    """GFLOPs for one image: counted on one stride by one stride, scaled up to `img_size`."""
    stride = max(int(model.stride.max()), 32) if hasattr(model, "stride") else 32
    device = next(model.parameters()).device
    image = torch.zeros((1, model.yaml.get("ch", 3), stride, stride), device=device)
    giga = _giga_operations(model, (image,))
    if not isinstance(img_size, (list, tuple)):
        img_size = (img_size, img_size)
    return float(giga * img_size[0] / stride * img_size[1] / stride)


def find_modules(model: Any, mclass: type | tuple[type, ...] = nn.Conv2d) -> list[int]:
    """Positions in `model.module_list` of the modules that are instances of `mclass`.

    AttributeError for a model without `module_list`. Source: YOLOv5 5.0.
    """
    return [at for at, module in enumerate(model.module_list) if isinstance(module, mclass)]


def intersect_dicts(
    da: Mapping[str, Any], db: Mapping[str, Any], exclude: Iterable[str] = ()
) -> dict[str, Any]:
    """The entries of `da` whose key is in `db` too with a value of the same shape.

    A key that contains any text of `exclude` is left out; values and order are those of `da`.
    Source: YOLOv5 5.0.
    """
    return {
        key: value
        for key, value in da.items()
        if key in db and not any(text in key for text in exclude) and value.shape == db[key].shape
    }
