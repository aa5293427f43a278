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

_FIELDS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_AMOUNTS = "_reversed_padding_repeated_twice"
_IMMUTABLE = (bool, int, str, type(None))
_CONTAINERS = (dict, OrderedDict, set)

_NOTHING: dict[str, Any] = {}
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
# What is read of the two modules, and what may stand between.
_READ = frozenset(
    (
        *(*_FIELDS, "weight", "bias", "padding_mode", _AMOUNTS),
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

    >>> conv, bn, image = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8).eval(), torch.rand(1, 3, 8, 8)
    >>> with torch.no_grad():
    ...     fused = fuse_conv_and_bn(conv, bn)
    >>> torch.allclose(fused(image), bn(conv(image)), atol=1e-5)
    True
    """
    fused = fuse_one(conv, bn)
    return reference.fuse_conv_and_bn(conv, bn) if fused is None else fused


def fuse_one(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d | None:
    """Fuse one pair without a random number, or None, once it was noted why, where torch must."""
    reason, fused, backend = _fuse([conv], [bn])
    if reason is not None:
        OPERATION.note_torch(reason)
        return None
    OPERATION.calls[backend] += 1
    return fused[0]


def fuse_in_c(convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d]) -> list[nn.Conv2d] | None:
    """Fuse all pairs with one call, or None, with nothing noted, where it refuses one."""
    reason, fused, backend = _fuse(convs, bns)
    if reason is not None:
        return None
    OPERATION.calls[backend] += len(convs)
    return [
        reference.fuse_conv_and_bn(conv, bn) if made is None else made
        for conv, bn, made in zip(convs, bns, fused, strict=True)
    ]


def _fuse(
    convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d]
) -> tuple[str | None, list[nn.Conv2d | None], str]:
    """Why not all pairs can be fused with one call, or None; the convolutions; the backend.

    Of the convolutions the reference must make those that are None. Nothing is counted.
    """
    gradient = any(map(_wants_gradient, convs, bns))
    reason = "a gradient is wanted of the result" if gradient else refusal()
    if reason is None and not all(map(are_plain, convs, bns)):
        reason = "attributes of the modules' own kind, which are to be read once"
    if reason is not None:
        return reason, [], ""
    if convs and all(map(fuse_gpu.is_on_gpu, convs)):
        backend, (reason, fused) = "CUDA", _fuse_on_gpu(convs, bns)
    else:
        backend, (reason, fused) = "C", _fuse_on_cpu(convs, bns)
    if verify.ON and reason is None:
        for conv, bn, made in zip(convs, bns, fused, strict=True):
            if made is not None:
                verify.fuse(conv, bn, made)
    return reason, fused, backend


def _fuse_on_gpu(
    convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d]
) -> tuple[str | None, list[nn.Conv2d | None]]:
    reason = _other_products("cuda")
    return fuse_gpu.fuse(convs, bns, _make) if reason is None else (reason, [])


def _fuse_on_cpu(
    convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d]
) -> tuple[str | None, list[nn.Conv2d | None]]:
    prototype = convolution_prototype()
    if prototype is None:
        return "nn.Conv2d has members that are not known", []
    if not all(map(_rounds_as_torch, bns)):
        return "this torch rounds 16-bit numbers as C does not", []
    if not all(map(_pads_as_usual, convs)):
        if len(convs) > 1:
            return "padding by which convolutions differ in more than sizes", []
        prototype = _construct(convs[0])
    reason, fused = _native.run(_native._C.fuse, convs, bns, prototype)
    return reason, fused or []


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
    reason = _other_products("cpu")
    if reason is not None:
        return reason
    if probe.in_forward_mode():
        return "inside forward-mode differentiation"
    return None


# Kind of device -> whether autocast is on, and whether matrix products may use a shorter type.
_PRODUCTS = {
    "cpu": (probe.autocast("cpu"), probe.lower_precision("mkldnn")),
    "cuda": (probe.autocast("cuda"), probe.lower_precision("cuda")),
}


def _other_products(kind: str) -> str | None:
    """Why the original's matrix products are not those of its tensors' type, or None."""
    autocast_is_on, precision_is_lowered = _PRODUCTS[kind]
    if autocast_is_on():
        return "autocast is on"
    if precision_is_lowered():
        return "matrix products run at a lower precision"
    return None


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
    reason, fused = _native.run(_native._C.fuse, [conv], [bn], convolution_prototype())
    if reason is not None:
        return None
    ours = fused[0]
    try:
        with torch.random.fork_rng(devices=[]):
            theirs = reference.fuse_conv_and_bn(conv, bn)
    except RuntimeError as error:
        if not probe.says_not_implemented(error):
            raise
        return False  # not all of it there is in float16; the call itself says so
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
    """As _construct, without gradients: by C where it can, which takes a fraction of the time."""
    prototype = convolution_prototype()
    if prototype is not None and _pads_as_usual(conv):
        reason, made = _native.run(_native._C.new_convolution, conv, prototype, device)
        if reason is None:
            return cast(nn.Conv2d, made)
    return _construct(conv, device).requires_grad_(False)


@functools.cache
def convolution_prototype() -> nn.Conv2d | None:
    """What C makes every nn.Conv2d like: one that was constructed, less what each has of its own.

    C makes containers and tuples anew, as the constructor does, which a pickle shows; None where a
    member is neither one nor immutable.
    """
    like: Any = SimpleNamespace(**_SMALLEST, out_channels=1)
    prototype, another = (_construct(like, torch.device("cpu")) for _ in range(2))
    members = prototype.__dict__
    if members.get(_AMOUNTS) != (2, 2, 1, 1) or list(members["_parameters"]) != ["weight", "bias"]:
        return None
    members["_parameters"].clear()
    members.update(dict.fromkeys((*_FIELDS, _AMOUNTS)))
    known = all(
        type(value) in _IMMUTABLE
        or (type(value) in _CONTAINERS and not value)
        or (type(value) is tuple and value is not another.__dict__[name])
        for name, value in members.items()
    )
    return prototype if known else None


def _check(conv: Any, bn: Any) -> None:
    """The call itself, which leaves its arguments alone; torch's exceptions pass through."""
    reason, _, _ = _fuse([conv], [bn])
    if reason is not None:
        reference.fuse_conv_and_bn(conv, bn)
        raise _native.Unsupported(reason)


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
