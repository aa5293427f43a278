"""The replacements: the clients' own parameters, texts and results, with the work done in C.

Where C cannot do a call, torch does it: in the client's original, or in the package's operations,
which are the original's. Where somebody replaced what the original calls, in torch or among the
names of the client's file, the original runs. Imported once a client's torch_utils has executed, so
torch is loaded.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from itertools import repeat
from operator import itemgetter
from types import FunctionType
from typing import Any

import torch

from ..helpers import counting
from ..operation import Operation
from ..ops import OPERATIONS
from ..ops import fuse as ops_fuse
from ..ops import prune as ops_prune
from ..ops import scale_img as ops_scale_img
from ..ops import sparsity as ops_sparsity
from ..ops import time_synchronized as ops_time_synchronized
from ..ops.ema import update_counted
from ..originals import MODULES
from ..switches import VERBOSE
from . import random_stream
from .fingerprint import global_names
from .known_callables import (
    HOT,
    Form,
    FuseForm,
    InfoForm,
    PruneForm,
    ScaleForm,
    SparsityForm,
    TimeForm,
    UpdateForm,
)

Function = Callable[..., Any]

# By Hot.operation: what refuses in this process, names the originals, counts and gives reasons.
RECORDS: dict[str, Operation | counting.Record] = {**OPERATIONS, "model_info": counting.RECORD}
if VERBOSE.on():
    from ..closing import watch

    watch(RECORDS)

_NO_LIMIT = (1 << 63) - 1  # of an int64 count
_TIES = "torch"  # as the originals choose among equally small weights


def replacement(names: dict[str, Any], name: str, original: FunctionType, form: Form) -> Function:
    """What runs in place of `original`, HOT's `name` in this form, in the module of `names`."""
    function = _BUILDERS[type(form)](names, original, form)
    if isinstance(form, TimeForm):  # C looks at what that calls, in a twentieth of the time
        return function
    operation = RECORDS[HOT[name].operation]
    changed = _changes(names, original)

    def checked(*args: Any) -> Any:
        reason = operation.originals.replaced() or changed()
        if reason is None:
            return function(*args)
        operation.note_torch(reason)
        return original(*args)

    return checked


def _changes(names: dict[str, Any], original: FunctionType) -> Callable[[], str | None]:
    """A function that says what of the file's global names `original` would not find as now."""
    used = global_names(original.__code__)
    modules = sorted(used & MODULES.keys())
    hidden = frozenset(used & vars(builtins).keys())
    look = itemgetter(*modules, "__name__")
    found = look(names)

    def changed() -> str | None:
        try:
            if look(names) == found and hidden.isdisjoint(names):
                return None
        except KeyError:
            if names.keys() >= {*modules, "__name__"}:
                raise  # none is missing: a signal handler has raised it
        return "a global name of the client's file was replaced"

    return changed


def _global(names: dict[str, Any], name: str) -> Any:
    """What a function of the client's file finds under a global name, or Python's own NameError."""
    if name in names:
        return names[name]
    if hasattr(builtins, name):
        return getattr(builtins, name)
    raise NameError(f"name {name!r} is not defined", name=name)


def _update(names: dict[str, Any], original: Function, form: UpdateForm) -> Function:
    """ModelEMA.update; wrapped models are told by the client's own helper, as it is at the call."""

    def update(self: Any, model: Any) -> None:
        if form.switch is not None and not getattr(self, form.switch):
            return
        update_counted(self, model, unwrap)

    def unwrap(model: Any) -> Any:
        helper = _global(names, form.unwrap)
        if form.unwrap == "is_parallel":
            return model.module if helper(model) else model
        return helper(model)

    return update


def _sparsity(names: dict[str, Any], original: Function, form: SparsityForm) -> Function:
    """sparsity; the original itself runs where C cannot, or must raise."""

    def sparsity(model: Any) -> Any:
        dtype = torch.get_default_dtype()
        reason = _sparsity_refusal(form)
        if reason is not None:
            ops_sparsity.OPERATION.note_torch(reason)
            return original(model)
        limit = _NO_LIMIT if form.exact else ops_sparsity.EXACT[dtype]
        done, counts = ops_sparsity.count(model, limit)
        if not done or not counts[0]:
            return original(model)
        return ops_sparsity.share(counts, None if form.exact else dtype)

    return sparsity


def _sparsity_refusal(form: SparsityForm) -> str | None:
    """Why a client's sparsity adds up in a way that C has not, or None."""
    dtype = torch.get_default_dtype()
    if form.exact or dtype in (torch.float32, torch.float64):
        return None
    return f"default dtype {dtype}"


def _prune(names: dict[str, Any], original: Function, form: PruneForm) -> Function:
    """prune, with torch's own choice among equally small weights, and the client's texts."""

    def prune(model: Any, amount: Any = 0.3) -> None:
        if not form.logs:
            print("Pruning model... ", end="")
        ops_prune.prune_layers(model, amount, ties=_TIES)
        say = _global(names, "LOGGER").info if form.logs else print
        share = _global(names, "sparsity")(model)
        if form.logs:
            say(f"Model pruned to {share:.3g} global sparsity")
        else:
            say(" %.3g global sparsity" % share)  # noqa: UP031 - a Tensor's subclass has no format

    return prune


def _fuse(names: dict[str, Any], original: Function, form: FuseForm) -> Function:
    """fuse_conv_and_bn; the original runs where ours would do what the original does not."""

    def fuse_conv_and_bn(conv: Any, bn: Any) -> Any:
        reason = _fuse_refusal(conv, bn, form)
        if reason is not None:
            ops_fuse.OPERATION.note_torch(reason)
            return original(conv, bn)
        if form.in_place:
            return _fused_in_place(conv, bn)
        fused = ops_fuse.fuse_one(conv, bn)
        if fused is None:
            return original(conv, bn)
        random_stream.follow(fused)
        if not form.dilation:  # then the constructor makes a tuple of its own, which a pickle shows
            fused.dilation = tuple(repeat(1, 2))
        return fused

    return fuse_conv_and_bn


def _fuse_refusal(conv: Any, bn: Any, form: FuseForm) -> str | None:
    """Why a client's fuse_conv_and_bn may give something else than ours, or raise; or None.

    Looks at nothing that is computed by looking.
    """
    if not ops_fuse.are_plain(conv, bn):
        return "attributes of the modules' own kind, which are to be read once"
    weight = conv._parameters.get("weight")
    if weight is None or weight.dtype is not torch.float32:
        return "conv.weight is not float32"
    if torch.get_default_dtype() is not torch.float32:
        return "the default dtype is not float32"
    if not weight.is_contiguous():
        return "conv.weight is not contiguous"
    members = conv.__dict__
    if not form.dilation and members.get("dilation") != (1, 1):
        return "this release drops the dilation"
    if not form.in_place and members.get("padding_mode") != "zeros":
        return "the original drops the mode of padding"
    return None if form.in_place else random_stream.refusal()


def _fused_in_place(conv: Any, bn: Any) -> Any:
    """`conv` with the fused weight and bias: its own parameters, with new memory, wanting no grad.

    The hot path makes a new convolution, in torch with random numbers that nobody drew here.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        fused = ops_fuse.fuse_conv_and_bn(conv, bn)
    conv.weight.data = fused.weight.data
    if conv.bias is None:
        conv.register_parameter("bias", torch.nn.Parameter(fused.bias.data))
    else:
        conv.bias.data = fused.bias.data
    return conv.requires_grad_(False)


def _scale_img(names: dict[str, Any], original: Function, form: ScaleForm) -> Function:
    def scale_img(img: Any, ratio: Any = 1.0, same_shape: Any = False, gs: Any = 32) -> Any:
        if ratio == 1.0:
            return img
        arguments = img, ratio, same_shape, gs
        done, result = ops_scale_img.OPERATION.attempt(ops_scale_img.resize, *arguments)
        return result[0] if done else original(*arguments)

    return scale_img


def _time(names: dict[str, Any], original: Function, form: TimeForm) -> Function:
    clock = ops_time_synchronized.time_synchronized

    def time_synchronized() -> float:
        return clock()

    return time_synchronized


def _model_info(names: dict[str, Any], original: FunctionType, form: InfoForm) -> Function:
    """model_info: the client's own code, but for what it has thop count in."""

    of_the_file = "thop" in global_names(original.__code__)  # else the function imports it

    def model_info(model: Any, verbose: Any = False, *image_size: Any) -> Any:
        reason = _info_refusal(verbose)
        if reason is not None:
            counting.RECORD.note_torch(reason)
            return original(model, verbose, *image_size)
        thop = (names if of_the_file else sys.modules).get("thop")
        found = {**names, "deepcopy": lambda model: counting.stand_in(model, thop)}
        own = FunctionType(original.__code__, found, original.__name__, original.__defaults__)
        return own(model, verbose, *image_size)

    return model_info


def _info_refusal(verbose: Any) -> str | None:
    """Why a client's model_info is left to itself, or None."""
    return "it prints every parameter" if verbose else None


def client_refusal(form: Form, *args: Any) -> str | None:
    """Why a replacement gives to torch a call that the package's own function does not, or None."""
    if isinstance(form, FuseForm):
        return _fuse_refusal(args[0], args[1], form)
    if isinstance(form, SparsityForm):
        return _sparsity_refusal(form)
    if isinstance(form, PruneForm):
        return ops_prune.other_choice(args[0], _TIES)
    if isinstance(form, InfoForm):
        return _info_refusal(args[1:2] and args[1])
    return None


_BUILDERS: dict[type, Function] = {
    UpdateForm: _update,
    SparsityForm: _sparsity,
    PruneForm: _prune,
    FuseForm: _fuse,
    ScaleForm: _scale_img,
    TimeForm: _time,
    InfoForm: _model_info,
}
