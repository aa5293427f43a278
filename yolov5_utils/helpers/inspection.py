"""Looking at models: their size and speed, their parts, their attributes.

thop, which counts operations, is optional: it is looked for when a count is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import probe
from ..ops.time_synchronized import time_synchronized
from .counting import stand_in
from .device import logger, select_device


def load_thop() -> Any:
    """The thop package, or None where it is not installed."""
    try:
        import thop
    except ImportError:
        return None
    return thop


def _giga_operations(model: Any, inputs: tuple[Tensor, ...]) -> float:
    """1e9 floating point operations (two per multiply-add) of one forward pass, counted by thop.

    Raises whatever thop or the model does; of thop nothing stays in the model, then neither.
    """
    thop = load_thop()
    if thop is None:
        raise ImportError("thop is not installed")
    with _cleared_of_thop(list(model.modules())):
        multiply_adds: float = thop.profile(model, inputs=inputs, verbose=False)[0]
    return multiply_adds / 1e9 * 2


@contextmanager
def _cleared_of_thop(modules: list[nn.Module]) -> Iterator[None]:
    """Take from `modules` the hooks and buffers that thop leaves, and put back what it replaced.

    It leaves buffers in every module that has children, gives all modules the mode of the outermost
    one, and cleans nothing up after an error.
    """
    before = [
        (module.training, set(module._forward_hooks), _thop_buffers(module)) for module in modules
    ]
    try:
        yield
    finally:
        for module, (training, hooks, buffers) in zip(modules, before, strict=True):
            for hook in set(module._forward_hooks) - hooks:
                del module._forward_hooks[hook]
            for name in _thop_buffers(module):
                delattr(module, name)
            for name, (value, persistent) in buffers.items():
                module.register_buffer(name, value, persistent)
            module.training = training


def _thop_buffers(module: nn.Module) -> dict[str, tuple[Tensor | None, bool]]:
    """The buffers of a module that thop makes or overwrites, and whether each is persistent."""
    return {
        name: (module._buffers[name], name not in module._non_persistent_buffers_set)
        for name in ("total_ops", "total_params")
        if name in module._buffers
    }


def profile(
    x: Tensor | list[Tensor] | None = None,
    ops: Callable[..., Any] | list[Any] | tuple[Any, ...] | None = None,
    n: int | None = None,
    device: torch.device | str | None = None,
    *,
    input: Tensor | list[Tensor] | None = None,
) -> list[list[Any] | None] | None:
    """Print a table of parameters, GFLOPs and mean forward and backward time (ms) of operations.

    `x` is the floating point input, `ops` one module or callable or several, `n` the number of
    runs (default 100), `device` where they run (default: GPU 0, else the CPU). GFLOPs are 0 without
    thop, the backward time nan where there is nothing to differentiate. `x` on that device is made
    to require gradients, modules are moved to it (and to half precision for half `x`), and
    gradients are left in both; the modules' state stays as it is otherwise.

    Inputs named `input`, and lists of them, mean the form of 6.0 and later: `n` is 10, `device`
    goes through `select_device` unless it is a torch.device, the table has a column of GPU memory
    (GB, reserved), an operation that fails where it runs prints its error, and the result is a list
    with [parameters, GFLOPs, GB, forward ms, backward ms, input shape, output shape], or None for a
    failure, per input and operation.

    TypeError for no input, two, or no `ops`; ValueError for n < 1. In the first form an error of an
    operation passes through. Source: YOLOv5 5.0, and 6.2 for the second form.

    >>> ops = [nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 1)]
    >>> results = profile([torch.rand(1, 3, 16, 16)], ops, n=1, device=torch.device("cpu"))
    <BLANKLINE>
    ...
    >>> [row[0] for row in results]  # the parameters
    [224, 32]
    """
    if (x is None) == (input is None) or ops is None:
        raise TypeError("profile: needed are ops and one of the arguments x and input")
    if n is not None and n < 1:
        raise ValueError(f"profile: n={n}, allowed are numbers of runs from 1")
    ops = list(ops) if isinstance(ops, (list, tuple)) else [ops]
    if input is not None or isinstance(x, list):
        inputs = x if input is None else input
        return _profile_many(inputs if isinstance(inputs, list) else [inputs], ops, n or 10, device)

    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    place = torch.device(device) if isinstance(device, str) else device
    tensor: Any = x.to(place)  # type: ignore[union-attr]
    tensor.requires_grad = True
    cuda = place.type == "cuda"
    gpu = probe.answer(torch.cuda.get_device_properties, 0, otherwise="") if cuda else ""
    print(torch.__version__, place.type, gpu)
    print(
        f"\n{'Params':>12}{'GFLOPs':>12}{'forward (ms)':>16}{'backward (ms)':>16}"
        f"{'input':>24}{'output':>24}"
    )
    for op in ops:
        parameters, giga, forward_ms, backward_ms, shape_in, shape_out = _measure(
            tensor, _placed(op, tensor), n or 100
        )
        print(
            f"{parameters:12}{giga:12.4g}{forward_ms:16.4g}{backward_ms:16.4g}"
            f"{shape_in!s:>24}{shape_out!s:>24}"
        )
    return None


def _profile_many(
    inputs: list[Any], ops: list[Any], n: int, device: torch.device | str | None
) -> list[list[Any] | None]:
    """`profile` as from 6.0 on: a row and a result for every operation on every input."""
    place = device if isinstance(device, torch.device) else select_device(device)
    print(
        f"{'Params':>12}{'GFLOPs':>12}{'GPU_mem (GB)':>14}{'forward (ms)':>14}{'backward (ms)':>14}"
        f"{'input':>24}{'output':>24}"
    )
    results: list[list[Any] | None] = []
    for x in inputs:
        x = x.to(place)
        x.requires_grad = True
        for op in ops:
            op = _placed(op, x)
            try:
                parameters, giga, forward_ms, backward_ms, *shapes = _measure(
                    x, op, n, later_form=True
                )
                cuda = torch.cuda.is_available()
                memory_gb = torch.cuda.memory_reserved() / 1e9 if cuda else 0
                results.append([parameters, giga, memory_gb, forward_ms, backward_ms, *shapes])
                print(
                    f"{parameters:12}{giga:12.4g}{memory_gb:>14.3f}{forward_ms:14.4g}"
                    f"{backward_ms:14.4g}{shapes[0]!s:>24}{shapes[1]!s:>24}"
                )
            except Exception as error:  # most likely out of memory: the next one may fit
                print(error)
                results.append(None)
            torch.cuda.empty_cache()
    return results


def _placed(op: Any, x: Tensor) -> Any:
    """`op` on the device and in the precision of `x`; what these raise passes through."""
    op = op.to(x.device) if hasattr(op, "to") else op
    return op.half() if hasattr(op, "half") and x.dtype is torch.float16 else op


def _measure(x: Tensor, op: Any, n: int, later_form: bool = False) -> tuple[Any, ...]:
    """What a row of `profile` shows: parameters, GFLOPs, mean ms forward, backward, the shapes.

    `later_form`: outputs that are lists of tensors have a backward pass as well. An error of `op`
    passes through.
    """
    try:
        giga = _giga_operations(op, (x,))
    except Exception:  # no thop, or an operation that it cannot count
        giga = 0
    forward_ms, backward_ms = 0.0, 0.0
    for _ in range(n):
        start = time_synchronized()
        y = op(x)
        middle = time_synchronized()
        try:
            whole = sum(part.sum() for part in y) if later_form and isinstance(y, list) else y
            whole.sum().backward()
            end = time_synchronized()
        except Exception:  # a list of outputs, or nothing that requires a gradient
            end = float("nan")
        forward_ms += (middle - start) * 1000 / n
        backward_ms += (end - middle) * 1000 / n
    parameters = sum(p.numel() for p in op.parameters()) if isinstance(op, nn.Module) else 0
    shape_out = tuple(y.shape) if isinstance(y, Tensor) else "list"
    return parameters, giga, forward_ms, backward_ms, tuple(x.shape), shape_out


def model_info(
    model: nn.Module,
    verbose: bool = False,
    img_size: float | list[float] | tuple[float, ...] = 640,
    *,
    imgsz: float | list[float] | tuple[float, ...] | None = None,
    detailed: bool | None = None,
) -> None:
    """Log the number of layers, parameters and gradients of a model, and its GFLOPs.

    Layers are all modules, the model included. GFLOPs are for one image of `img_size` pixels (one
    number, or height and width), of as many channels as the model's `yaml` says (`ch`, default 3)
    or, of a model without, its first parameter's second dimension. They are left out without thop,
    for a model that cannot be copied and where the forward pass fails. `verbose` also prints a row
    per parameter. The model is not changed. `imgsz` (6.2 and later) and `detailed` (2026) are other
    names of `img_size` and `verbose`. Source: YOLOv5 of July 2021 (5.0 spells GFLOPS), and 6.2 for
    models without `yaml`, such as classifiers.

    >>> model_info(nn.Linear(2, 2))  # logs "Model Summary: 1 layers, 6 parameters, 6 gradients"
    """
    verbose = verbose if detailed is None else detailed
    img_size = img_size if imgsz is None else imgsz
    if verbose:
        _print_parameters(model)
    layers = len(list(model.modules()))
    parameters = sum(map(_numel, model.parameters()))
    gradients = sum(_numel(p) for p in model.parameters() if p.requires_grad)
    try:
        suffix = f", {_image_gflops(model, img_size):.1f} GFLOPs"
    except Exception:  # reporting must never stop a run
        suffix = ""
    logger.info(
        f"Model Summary: {layers} layers, {parameters} parameters, {gradients} gradients{suffix}"
    )


def _numel(parameter: nn.Parameter) -> int:
    """Its elements; none of a lazy one that has not seen an input yet."""
    return int(probe.answer(parameter.numel, otherwise=0))


def _print_parameters(model: nn.Module) -> None:
    """Print the table of `model_info`: one row per parameter."""
    print(
        f"{'layer':>5} {'name':>40} {'gradient':>9} {'parameters':>12} "
        f"{'shape':>20} {'mu':>10} {'sigma':>10}"
    )
    for row, (name, parameter) in enumerate(model.named_parameters()):
        name = name.replace("module_list.", "")
        shape = probe.answer(lambda p=parameter: list(p.shape), otherwise="?")
        # No number where torch has none, as of integers or on the meta device.
        mean, deviation = (
            probe.answer(lambda p=parameter, of=of: of(p.detach()).item(), otherwise=float("nan"))
            for of in (torch.mean, torch.std)
        )
        print(
            f"{row:5} {name:>40} {parameter.requires_grad!s:>9} {_numel(parameter):12g} "
            f"{shape!s:>20} {mean:10.3g} {deviation:10.3g}"
        )


def _image_gflops(model: Any, img_size: Any) -> float:
    """GFLOPs for one image: counted on one stride by one stride, scaled up to `img_size`."""
    stride = max(int(model.stride.max()), 32) if hasattr(model, "stride") else 32
    first = next(model.parameters())
    settings = getattr(model, "yaml", None)  # 5.0's first layer has four channels for each of them
    channels = settings.get("ch", 3) if isinstance(settings, Mapping) else first.shape[1]
    image = torch.zeros((1, channels, stride, stride), device=first.device)
    giga = _giga_operations(stand_in(model, load_thop()), (image,))  # a forward pass leaves traces
    if not isinstance(img_size, (list, tuple)):
        img_size = (img_size, img_size)
    return float(giga * img_size[0] / stride * img_size[1] / stride)


def find_modules(model: Any, mclass: type | tuple[type, ...] = nn.Conv2d) -> list[int]:
    """Positions in `model.module_list` of the modules that are instances of `mclass`.

    AttributeError for a model without `module_list`. Source: YOLOv5 5.0.

    >>> model = nn.Module()
    >>> model.module_list = nn.ModuleList([nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)])
    >>> find_modules(model)
    [0, 2]
    """
    return [at for at, module in enumerate(model.module_list) if isinstance(module, mclass)]


def intersect_dicts(
    da: Mapping[str, Any], db: Mapping[str, Any], exclude: Iterable[str] = ()
) -> dict[str, Any]:
    """The entries of `da` whose key is in `db` too with a value of the same shape.

    A key that contains any text of `exclude` is left out; values and order are those of `da`.
    Source: YOLOv5 5.0.

    >>> state = {"a": torch.ones(1), "b": torch.ones(2)}
    >>> intersect_dicts(state, {"a": torch.zeros(1), "b": torch.zeros(3)})
    {'a': tensor([1.])}
    """
    return {
        key: value
        for key, value in da.items()
        if key in db and not any(text in key for text in exclude) and value.shape == db[key].shape
    }
