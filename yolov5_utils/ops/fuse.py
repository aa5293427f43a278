"""fuse_conv_and_bn: a convolution and its batch norm as one convolution."""

from __future__ import annotations

import functools
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from .. import _native, probe, reference, verify
from ..operation import Operation, small_layers
from ..originals import Originals
from . import fuse_gpu

# Kinds of a pattern's entries, and the numbers of the fields: as csrc/python/fused_module.h and
# fusion.h have them.
_CONSTANT, _NEW, _PARAMETERS, _REVERSED_PADDING, _COPY, _FIELD = 0, 1, 2, 3, 4, 16
_FIELDS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_CONSTANT_TYPES = (bool, int, str, tuple, type(None))
_CONTAINERS = (dict, OrderedDict, set)

Pattern = tuple[tuple[str, int, Any], ...]

_NOTHING: dict[str, Any] = {}
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
# What is read of the two modules, and what may stand between.
_READ = frozenset(
    (
        *(*_FIELDS, "weight", "bias", "padding_mode", "_reversed_padding_repeated_twice"),
        *("running_mean", "running_var", "eps", "_parameters", "_buffers"),
        *("__getattr__", "__getattribute__", "__dict__"),
    )
)
_SMALLEST = {
    "in_channels": 1,
    "kernel_size": (1, 1),
    "stride": (1, 1),
    "padding": (1, 2),
    "dilation": (1, 1),
    "groups": 1,
}

# Rows and eps of what is tried in 16-bit types: the ends of torch's vectors among the rows, and an
# eps that lies between two numbers of the type; then what was found, by type.
_TRIED = ((1, 1e-3), (7, 1e-3), (333, 1e-3), (333, 1e-5), (64, 0.0513))
_AGREES: dict[torch.dtype, bool] = {}


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """A new nn.Conv2d with a bias that computes bn(conv(x)) of inference.

    Any floating dtype, shared by both; the result has the default dtype, is contiguous and shares
    no memory with the inputs, which stay as they are. It wants no gradient, unless grad mode is on
    and an input wants one: then gradients flow to the inputs. RuntimeError, AttributeError and
    TypeError come from torch, for inputs that do not fit. Paths: C on CPU tensors, the CUDA library
    on those of one GPU, otherwise torch. Source of the semantics: YOLOv5 of July 2021; `dilation`
    is kept as in 7.0, and so is `padding_mode`. What hooks, or a subclass's own forward, do beside
    nn.Conv2d's is not in the result, as it is not in the original's.
    """
    fused = fuse_one(conv, bn)
    return reference.fuse_conv_and_bn(conv, bn) if fused is None else fused


def fuse_one(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d | None:
    """Fuse one pair without a random number, or None, once it was noted why, where torch must."""
    reason = "a gradient is wanted of the result" if _wants_gradient(conv, bn) else refusal()
    if reason is None and not are_plain(conv, bn):
        reason = "attributes of the modules' own kind, which are to be read once"
    if reason is not None:
        OPERATION.note_torch(reason)
        return None
    if fuse_gpu.is_on_gpu(conv):
        reason, made = fuse_gpu.fuse([conv], [bn], _make)
        if reason is not None:
            OPERATION.note_torch(reason)
            return None
        OPERATION.calls["CUDA"] += 1
        return made[0]
    pattern = convolution_pattern() if _pads_as_usual(conv) else _pattern_like(conv)
    if pattern is None:
        OPERATION.note_torch("nn.Conv2d has members that are not known")
        return None
    if not _rounds_as_torch(bn):
        OPERATION.note_torch("this torch rounds 16-bit numbers as C does not")
        return None
    reason, fused = _native.run(_native._C.fuse, [conv], [bn], pattern)
    if reason is not None:
        OPERATION.note_torch(reason)
        return None
    OPERATION.calls["C"] += 1
    verify.fuse(conv, bn, fused[0])
    return cast(nn.Conv2d, fused[0])


def are_plain(conv: Any, bn: Any) -> bool:
    """True for modules whose attributes are where nn.Module keeps them, so that a look is nothing.

    A parametrization computes the weight each time somebody looks.
    """
    if type(conv) is nn.Conv2d and type(bn) is nn.BatchNorm2d:
        return True
    return all(
        isinstance(module, base)
        and all(
            _READ.isdisjoint(vars(kind))
            for kind in type(module).__mro__[: type(module).__mro__.index(base)]
        )
        for module, base in ((conv, nn.Conv2d), (bn, _BATCH_NORM))
    )


def _wants_gradient(conv: Any, bn: Any) -> bool:
    """True where autograd records the original's operations: C would find it out, but late."""
    if torch.is_grad_enabled():
        for module in (conv, bn):
            weight = getattr(module, "_parameters", _NOTHING).get("weight")
            if weight is not None and weight.requires_grad:
                return True
    return False


def refusal() -> str | None:
    """Why no call can run in C at the moment, or None; C judges the modules and tensors."""
    reason = OPERATION.originals.replaced()
    if reason is not None:
        return reason
    if torch_module.__dict__.get("_global_parameter_registration_hooks"):
        return "a global registration hook is set"
    if _autocast_is_on():
        return "autocast is on"
    if _precision_is_lowered():
        return "float32 matrix products run at a lower precision"
    if probe.in_forward_mode():
        return "inside forward-mode differentiation"
    return None


def fuse_in_c(convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d]) -> list[nn.Conv2d] | None:
    """Fuse all pairs with one call of C, or None, with nothing noted, where it refuses one."""
    if OPERATION.refusal() or refusal() or not all(map(are_plain, convs, bns)):
        return None
    if convs and all(map(fuse_gpu.is_on_gpu, convs)):
        return _fuse_all_on_gpu(convs, bns)
    pattern = convolution_pattern()
    if (
        pattern is None
        or not all(map(_pads_as_usual, convs))
        or not all(map(_rounds_as_torch, bns))
    ):
        return None
    try:
        fused = _native._C.fuse(convs, bns, pattern)
    except _native.Unsupported:
        return None
    OPERATION.calls["C"] += len(convs)
    for conv, bn, made in zip(convs, bns, fused, strict=True):
        verify.fuse(conv, bn, made)
    return fused


def _fuse_all_on_gpu(convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d]) -> list[nn.Conv2d] | None:
    reason, made = fuse_gpu.fuse(convs, bns, _make)
    if reason is not None:
        return None
    OPERATION.calls["CUDA"] += len(convs)
    return [
        reference.fuse_conv_and_bn(conv, bn) if fused is None else fused
        for conv, bn, fused in zip(convs, bns, made, strict=True)
    ]


_autocast_is_on = probe.autocast("cpu")
_precision_is_lowered = probe.lower_precision("mkldnn")


def _rounds_as_torch(bn: Any) -> bool:
    """Whether C has this torch's bits in the type of the batch norm; 16-bit ones are tried first.

    There eps is rounded before it is added, and who knows what a release rounds.
    """
    variance = bn._buffers.get("running_var")
    dtype = getattr(variance, "dtype", None)
    if dtype is not torch.float16 and dtype is not torch.bfloat16:
        return True
    if dtype not in _AGREES:
        answers = [_agrees(dtype, rows, eps) for rows, eps in _TRIED]
        if None in answers:
            return True  # so C will refuse the call itself
        _AGREES[dtype] = all(answers)
    return _AGREES[dtype]


def _agrees(dtype: torch.dtype, rows: int, eps: float) -> bool | None:
    """Whether a small pair of this type has the same bits in C and in torch; None: C refuses."""
    like: Any = SimpleNamespace(**_SMALLEST, out_channels=rows)
    cpu = torch.device("cpu")
    conv = _construct(like, cpu).requires_grad_(False)
    bn = nn.BatchNorm2d(rows, eps=eps, device=cpu).requires_grad_(False)
    steps = torch.linspace(0, 1, rows, device=cpu)
    for tensor, start in ((bn.weight, 0.5), (bn.bias, -1), (bn.running_mean, 1), (conv.bias, 2)):
        tensor.copy_(start + steps)  # type: ignore[operator, union-attr]
    bn.running_var.copy_(0.1 * steps**4)  # type: ignore[union-attr]
    conv.weight.copy_((1.1 - steps).view(conv.weight.shape))
    conv, bn = conv.to(dtype), bn.to(dtype)
    reason, fused = _native.run(_native._C.fuse, [conv], [bn], convolution_pattern())
    if reason is not None:
        return None
    ours = fused[0]
    try:
        with torch.random.fork_rng(devices=[]):
            theirs = reference.fuse_conv_and_bn(conv, bn)
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        return False  # torch before 2.1 has not got all of it in float16: the call itself says so
    return torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def _pads_as_usual(conv: Any) -> bool:
    """True for padding in numbers, with zeros: nothing but the sizes tells such modules apart."""
    usual = getattr(conv, "padding_mode", "zeros") == "zeros"
    return usual and type(getattr(conv, "padding", None)) is not str


def _construct(conv: nn.Conv2d, device: torch.device | None = None) -> nn.Conv2d:
    """The module that the original constructs, but without random numbers; errors as there.

    Its parameters are on the default device, or on `device`.
    """
    module = nn.Conv2d.__new__(nn.Conv2d)
    module.__dict__["reset_parameters"] = lambda: None
    sizes = {name: getattr(conv, name) for name in _FIELDS}
    place: dict[str, Any] = {} if device is None else {"device": device}
    mode = reference.padding_mode(conv)
    nn.Conv2d.__init__(module, **sizes, bias=True, padding_mode=mode, **place)
    del module.__dict__["reset_parameters"]
    reference.keep_padding(module, conv)
    return module


def _make(conv: nn.Conv2d, device: torch.device) -> nn.Conv2d:
    """As _construct, without gradients: after the pattern, which takes a fraction of the time."""
    fields = [getattr(conv, name) for name in _FIELDS]
    pattern = convolution_pattern()
    if pattern is None or not _pads_as_usual(conv) or not _are_usual(*fields):
        return _construct(conv, device).requires_grad_(False)
    in_channels, out_channels, kernel_size, _, padding, _, groups = fields
    shape = (out_channels, in_channels // groups, *kernel_size)
    weight, bias = torch.empty(shape, device=device), torch.empty(out_channels, device=device)
    module = nn.Conv2d.__new__(nn.Conv2d)
    members = module.__dict__
    for name, kind, value in pattern:
        if kind == _CONSTANT:
            members[name] = value
        elif kind == _NEW:
            members[name] = value()
        elif kind == _COPY:
            members[name] = tuple(value[i] for i in range(len(value)))
        elif kind == _PARAMETERS:
            members[name] = parameters = value()
            parameters["weight"] = nn.Parameter(weight, requires_grad=False)
            parameters["bias"] = nn.Parameter(bias, requires_grad=False)
        elif kind == _REVERSED_PADDING:
            members[name] = (padding[1], padding[1], padding[0], padding[0])
        else:
            members[name] = fields[kind - _FIELD]
    return module


def _are_usual(
    in_channels: Any,
    out_channels: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> bool:
    """True for sizes as a constructor leaves them, with padding in numbers."""
    numbers = (in_channels, out_channels, groups)
    sizes = ((kernel_size, 1), (stride, 1), (dilation, 1), (padding, 0))
    return (
        all(type(number) is int and number > 0 for number in numbers)
        and in_channels % groups == 0 == out_channels % groups
        and all(
            type(size) is tuple
            and len(size) == 2
            and all(type(number) is int and number >= least for number in size)
            for size, least in sizes
        )
    )


@functools.cache
def convolution_pattern() -> Pattern | None:
    """How to make any nn.Conv2d, read off a constructed one."""
    like: Any = SimpleNamespace(**_SMALLEST, out_channels=1)
    padding = _construct(like).__dict__.get("_reversed_padding_repeated_twice", (2, 2, 1, 1))
    return _pattern_like(like, general=True) if padding == (2, 2, 1, 1) else None


def _pattern_like(conv: nn.Conv2d, general: bool = False) -> Pattern | None:
    """How to make the module that the original constructs, or with `general` one of other sizes.

    Containers are made anew, and tuples where the constructor does, which a pickle shows; None
    where a member is neither one nor immutable.
    """
    module, another = _construct(conv), _construct(conv).__dict__
    entries: list[tuple[str, int, Any]] = []
    for name, value in module.__dict__.items():
        kind = type(value)
        if name == "_parameters" and list(value) == ["weight", "bias"]:
            entries.append((name, _PARAMETERS, kind))
        elif general and name in _FIELDS:
            entries.append((name, _FIELD + _FIELDS.index(name), None))
        elif name == "_reversed_padding_repeated_twice" and (general or kind is list):
            entries.append((name, _REVERSED_PADDING if general else _CONSTANT, value))
        elif kind in _CONTAINERS and not value:
            entries.append((name, _NEW, kind))
        elif kind is tuple and value is not another[name]:
            entries.append((name, _COPY, value))
        elif kind in _CONSTANT_TYPES:
            entries.append((name, _CONSTANT, value))
        else:
            return None
    return tuple(entries)


def _check(conv: Any, bn: Any) -> None:
    """The call itself, which leaves its arguments alone, with nothing counted."""
    calls, reasons = dict(OPERATION.calls), dict(OPERATION.reasons)
    try:
        fuse_conv_and_bn(conv, bn)
        new = [why for why, count in OPERATION.reasons.items() if count != reasons.get(why)]
    finally:
        OPERATION.calls.update(calls)
        OPERATION.reasons.clear()
        OPERATION.reasons.update(reasons)
    if new:
        raise _native.Unsupported(new[0])


OPERATION = Operation(
    "fuse",
    ("fuse_conv_and_bn",),
    "fuse",
    Originals(
        ("nn", "Conv2d Parameter"),
        ("nn.Conv2d", "__init__ reset_parameters requires_grad_ to"),
        (
            "nn.Module",
            "__setattr__ __getattr__ register_parameter parameters named_parameters "
            "_named_members named_modules _apply children named_children",
        ),
        ("nn.init", "kaiming_uniform_ uniform_ _calculate_fan_in_and_fan_out"),
        ("", "diag mm sqrt zeros"),
        (
            "Tensor",
            "uniform_ clone view reshape div mul copy_ size to __add__ __radd__ __sub__",
        ),
    ),
    small_layers,
    fuse_conv_and_bn,
    reference.fuse_conv_and_bn,
    _check,
)
