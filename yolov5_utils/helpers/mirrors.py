"""Mirrors of a model's modules: its forward code runs on shapes, without weights and products.

They have the modules' own classes and copies of their attributes, so the model's own code runs. Its
layers make an output of the right shape and compute nothing. What is not certain to have the shapes
and the outcome of a pass through a copy is `Uncertain`: classes and tensors that are not known,
hooks, and code that asks for values. Nothing of the model can be reached from a mirror.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache, partial
from operator import getitem
from types import FunctionType, MethodType, NoneType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import probe

Rule = Callable[..., Any]  # thop's: adds to total_ops of a module, given its inputs and output
Layer = Callable[[Tensor], Tensor]

# Where YOLOv5 has its modules: their forward code does nothing but compute.
_CLIENTS = frozenset(
    f"{package}models.{file}"
    for package in ("", "yolov5.")
    for file in ("common", "experimental", "yolo")
)
_CONTAINERS = (nn.Sequential, nn.ModuleList)
# Their outputs are as large as their inputs. Dropout draws no number, since nothing is in training.
_ELEMENTWISE = (
    *(nn.Dropout, nn.Hardswish, nn.Identity, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.ReLU6),
    *(nn.Sigmoid, nn.SiLU),
)
# They run as they are.
_WITHOUT_WEIGHTS = frozenset(
    (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.MaxPool2d, nn.Upsample, nn.ZeroPad2d)
)
# What copying a model and thop call of a module: one of its own may do anything.
METHODS = (
    *("__call__", "__deepcopy__", "__delattr__", "__eq__", "__getattr__", "__getattribute__"),
    *("__getstate__", "__hash__", "__new__", "__reduce__", "__reduce_ex__", "__setattr__"),
    *("__setstate__", "_call_impl", "apply", "buffers", "children", "eval", "modules"),
    *("named_buffers", "named_children", "named_modules", "named_parameters", "parameters"),
    *("register_buffer", "register_forward_hook", "register_forward_pre_hook", "train"),
)
# Nor may one stand in a module's own dict, nor what thop puts there.
_TAKEN = frozenset([*METHODS, "total_ops", "total_params"])
_MAPPINGS = (OrderedDict, dict)
_ATOMS = frozenset(
    [
        *(NoneType, bool, complex, float, int, str, bytes),
        *(torch.Size, torch.device, torch.dtype, torch.memory_format),
    ]
)


class Uncertain(Exception):
    """A copy of the model may show something else; the text says why."""


class Mirrors:
    """The modules of a model without their weights, to count one forward pass with thop's rules."""

    def __init__(self, rule_of: Callable[[type], Rule | None]) -> None:
        """`rule_of` gives thop's rule for a class of modules, None where it has none."""
        self._rule_of = rule_of
        self._rules: dict[type, Rule | None] = {}  # of the classes that were checked
        self._made: dict[int, nn.Module] = {}
        self._shared: set[int] = set()  # modules at several places, which thop counts several times
        self._passed: list[tuple[Rule | None, nn.Module, tuple[Any, ...], Any]] = []

    def counter(self, model: Any) -> Callable[[Tensor], float]:
        """A function that counts the multiply-adds of one image, once; it may be Uncertain too."""
        try:
            return partial(self._count, self._of(model))
        except RecursionError:
            raise Uncertain("attributes within attributes without end") from None

    def _count(self, mirror: nn.Module, image: Tensor) -> float:
        try:
            if image.device.type != "cpu" or image.dtype is not torch.float32:
                raise Uncertain("the image is not one of floats on the CPU")
            _on_shapes(mirror, image)
            operations = self._counted()
        finally:  # they refer to each other, and the model is not to live longer for that
            self._passed.clear()
            for made in self._made.values():
                vars(made).clear()
        if not operations.is_integer():  # then the order of its sums might tell
            raise Uncertain("thop's count is no whole number")
        return operations

    def _counted(self) -> float:
        """What thop's rules count for the layers that were passed."""
        tally = _Tally()
        for rule, module, inputs, output in self._passed:
            if any(type(x) is not Tensor or x.dtype is not torch.float32 for x in inputs):
                raise Uncertain("a layer's input is no tensor of floats")
            if rule is None:
                continue
            tally.of, before = module, tally.total_ops
            if rule(tally, inputs, output) is not None:
                raise Uncertain("thop's rule gives another output")
            if id(module) in self._shared and tally.total_ops != before:
                raise Uncertain("a module that is counted is at several places")
        return float(tally.total_ops)

    def _of(self, module: Any) -> nn.Module:
        """The mirror of a module and its parts."""
        if id(module) in self._made:
            self._shared.add(id(module))
            return self._made[id(module)]
        kind = type(module)
        rule = self._rules[kind] if kind in self._rules else self._check(kind)
        layer = _LAYERS[kind](module) if kind in _LAYERS else None
        mirror: nn.Module = object.__new__(kind)
        self._made[id(module)] = mirror
        members = vars(mirror)
        for name, value in vars(module).items():
            own_kind = type(value)
            if own_kind in _ATOMS:
                members[name] = value
            elif own_kind in _MAPPINGS and not value:  # most hooks, parts and tensors: none
                members[name] = own_kind()
            elif name == "_modules":
                members[name] = {key: part and self._of(part) for key, part in value.items()}
            elif name in ("_parameters", "_buffers"):
                own = value if layer is None else {}
                members[name] = {key: _copy_of(part) for key, part in own.items()}
            elif name.startswith("_") and "hooks" in name:
                raise Uncertain("a module has hooks")
            elif name == "forward" and type(value) is MethodType and value.__self__ is module:
                members[name] = MethodType(value.__func__, mirror)  # YOLOv5 chooses one so
            elif name != "forward" and _is_clients_function(value):
                members[name] = value
            else:
                members[name] = _attribute(value)
        if not _TAKEN.isdisjoint(members) or not _TAKEN.isdisjoint(members["_buffers"]):
            raise Uncertain("a module has an attribute of its own that thop or a copy uses")
        members["training"] = False  # as thop has it
        if layer is not None or kind in _WITHOUT_WEIGHTS:
            if "forward" in members or members["_modules"]:
                raise Uncertain(f"a {kind.__name__} with a forward or parts of its own")
            members["forward"] = self._passing(module, rule, layer or partial(kind.forward, mirror))
        return mirror

    def _check(self, kind: type) -> Rule | None:
        """thop's rule for a class of modules, None for nothing; Uncertain for an unknown class."""
        rule = self._rule_of(kind)
        if rule is not None and not getattr(rule, "__module__", "").startswith("thop."):
            raise Uncertain(f"thop's rule for {kind.__name__} is not its own")
        if getattr(rule, "__name__", "") == "zero_ops":
            rule = None
        if kind not in _LAYERS and kind not in _WITHOUT_WEIGHTS:
            if kind not in _CONTAINERS and not _is_clients(kind):
                raise Uncertain(f"modules of the class {kind.__name__} are not known")
            if rule is not None:
                raise Uncertain(f"thop has a rule for {kind.__name__}")
        self._rules[kind] = rule
        return rule

    def _passing(self, module: nn.Module, rule: Rule | None, layer: Layer) -> Callable[..., Any]:
        """A forward that notes what thop's rule looks at: later, since here shapes take longer."""
        passed = self._passed

        def forward(*inputs: Any) -> Any:
            output = layer(*inputs)
            passed.append((rule, module, inputs, output))
            return output

        return forward


class _Tally:
    """What thop's rules take for the module that they count in."""

    total_ops: Any = 0
    of: nn.Module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)


def _is_clients(kind: type) -> bool:
    """True for a class of YOLOv5's modules that is copied and counted as any other."""
    own = kind.__module__ in _CLIENTS and issubclass(kind, nn.Module)
    return own and all(
        getattr(kind, name, None) is getattr(nn.Module, name, None) for name in METHODS
    )


def _is_clients_function(value: Any) -> bool:
    """True for one that can reach no module but those it is given: segmentation models have one."""
    return type(value) is FunctionType and not value.__closure__ and value.__module__ in _CLIENTS


def _attribute(value: Any) -> Any:
    """An attribute of a mirror: whatever a forward pass could change is new."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind in (list, tuple, set):
        flat = _ATOMS.issuperset(map(type, value))  # most are
        return kind(value if flat else map(_attribute, value))
    if kind is dict:
        return {_attribute(key): _attribute(item) for key, item in value.items()}
    if kind is Tensor and (value.is_leaf or not value.requires_grad):  # others are not copied
        return _copy_of(value)
    raise Uncertain(f"an attribute is a {kind.__name__}")


def _copy_of(tensor: Tensor | None) -> Tensor | None:
    """A copy of a tensor of a module, which wants no gradient."""
    if tensor is None:
        return None
    if not _is_usual(tensor):
        raise Uncertain("a tensor is not a usual one on the CPU")
    return tensor.detach().clone()


def _is_usual(tensor: Any) -> bool:
    """True for a dense tensor on the CPU that is copied as any other."""
    return (
        type(tensor) in (nn.Parameter, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not vars(tensor)
    )


def _check_tensors(module: nn.Module, needed: str, **shapes: tuple[int, ...]) -> None:
    """Uncertain unless a layer's tensors are as torch needs them: float32 and of these shapes."""
    tensors = {**module._parameters, **module._buffers}
    counted = tensors.pop("num_batches_tracked", None)
    fits = tensors.keys() == shapes.keys() and (counted is None or _is_usual(counted))
    fits = fits and all(tensors[name] is not None for name in needed.split())
    fits = fits and all(
        tensor is None
        or (_is_usual(tensor) and tensor.dtype is torch.float32 and tensor.shape == shapes[name])
        for name, tensor in tensors.items()
    )
    if not fits:
        raise Uncertain(f"the tensors of a {type(module).__name__} are not as usual")


def _check_input(module: nn.Module, fits: bool) -> None:
    if not fits:
        raise Uncertain(f"an input that a {type(module).__name__} may refuse")


def _convolution(conv: Any) -> Layer:
    channels, made, groups = conv.in_channels, conv.out_channels, conv.groups
    sizes = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    kernel, stride, padding, dilation = sizes
    if conv.padding_mode != "zeros" or any(type(size) is not tuple for size in sizes):
        raise Uncertain("a convolution that pads in another way")
    numbers = (channels, made, groups, *kernel, *stride, *padding, *dilation)
    if {type(number) for number in numbers} != {int} or len(numbers) != 11:
        raise Uncertain("a convolution whose sizes are no numbers")
    if min(numbers) < 0 or 0 in (groups, *kernel, *stride, *dilation):
        raise Uncertain("a convolution whose sizes are out of range")
    if channels % groups or made % groups:
        raise Uncertain("a convolution whose groups are of different sizes")
    weight = (made, channels // groups, *kernel)
    _check_tensors(conv, "weight", weight=weight, bias=(made,))

    def layer(x: Tensor) -> Tensor:
        images, given, *sides = x.size()
        sides = [
            (side + 2 * around - spread * (size - 1) - 1) // step + 1
            for side, size, step, around, spread in zip(sides, *sizes, strict=True)
        ]
        _check_input(conv, given == channels and min(sides) > 0)
        return x.new_empty((images, made, *sides))

    return layer


def _batch_norm(bn: Any) -> Layer:
    channels = bn.num_features
    names = ("running_mean", "running_var", "weight", "bias")
    _check_tensors(bn, "running_mean running_var", **dict.fromkeys(names, (channels,)))

    def layer(x: Tensor) -> Tensor:
        _, given, *sides = x.size()
        _check_input(bn, given == channels and len(sides) == 2)
        return x

    return layer


def _linear(linear: Any) -> Layer:
    wide, made = linear.in_features, linear.out_features
    _check_tensors(linear, "weight", weight=(made, wide), bias=(made,))

    def layer(x: Tensor) -> Tensor:
        *sides, given = x.size()
        _check_input(linear, given == wide)
        return x.new_empty((*sides, made))

    return layer


def _elementwise(module: Any) -> Layer:
    return _itself


def _itself(x: Tensor) -> Tensor:
    return x


_LAYERS: dict[type, Callable[[Any], Layer]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.Linear: _linear,
}


class _NoValues(TorchFunctionMode):
    """Lets a forward pass call only what gives the same shapes whatever the values are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _SHAPES_ONLY or (func in _INDEXING and not _is_plain(args[1])):
            raise Uncertain(f"the forward pass calls {getattr(func, '__name__', func)}")
        return func(*args, **(kwargs or {}))


def _on_shapes(function: Callable[..., Any], *args: Any) -> None:
    """Call it where only such calls are let through.

    What a signal handler raises while the mode is entered or left leaves it behind otherwise, and
    every call of torch would be refused from then on.
    """
    before, mode = probe.function_modes(), _NoValues()
    try:
        with mode:
            function(*args)
    finally:
        if probe.function_modes() > before:
            mode.__exit__(None, None, None)


@cache
def every_call_is_seen() -> bool:
    """False where torch tells no mode of indexing, as before 2.0."""
    values, index = torch.zeros(1, device="cpu"), torch.zeros(1, dtype=torch.int64, device="cpu")
    try:
        _on_shapes(getitem, values, index)
    except Uncertain:
        return True
    return False


def _is_plain(index: Any) -> bool:
    """True for an index of numbers, slices, None and dots: a mask's result has any shape."""
    parts = index if type(index) is tuple else (index,)
    return all(part is Ellipsis or type(part) in (int, slice, NoneType) for part in parts)


_INDEXING = frozenset((Tensor.__getitem__, Tensor.__setitem__))
_METHODS_OF_SHAPES = (
    *("add", "chunk", "clone", "contiguous", "expand", "flatten", "float", "mul", "new_empty"),
    *("permute", "pow", "reshape", "sigmoid", "size", "split", "sub", "to", "unsqueeze", "view"),
    *("__add__", "__mul__", "__pow__", "__radd__", "__rmul__", "__rsub__", "__sub__"),
)
_SHAPES_ONLY = _INDEXING.union(
    (getattr(Tensor, name) for name in _METHODS_OF_SHAPES),
    (getattr(Tensor, name).__get__ for name in ("device", "dtype", "shape")),
    (torch.arange, torch.cat, torch.meshgrid, torch.stack),
    (F.adaptive_avg_pool2d, F.avg_pool2d, F.interpolate, F.max_pool2d, F.pad),
)
