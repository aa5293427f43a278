"""The text of small modules with the names, signatures and arithmetic of the clients' torch_utils.

Only what the overlay looks at is there; the texts are this project's own, so those of `OWN` have
digests of their own: `known_forms` says what they are forms of.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from yolov5_utils.overlay.fingerprint import digest
from yolov5_utils.overlay.known_callables import (
    Form,
    FuseForm,
    InfoForm,
    PruneForm,
    ScaleForm,
    TimeForm,
)

YOLOV5 = ("5.0", "6.0", "between", "6.1", "6.2", "7.0")
ULTRALYTICS = ("u8.0", "u8.3", "u8.4")
RELEASES = (*YOLOV5, *ULTRALYTICS)
PACKAGES = dict.fromkeys(YOLOV5, "utils") | dict.fromkeys(ULTRALYTICS, "ultralytics.utils")

_COMMON = '''# {head}
"""A synthetic client."""
import logging
import math
import time
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import nn

{logger} = logging.getLogger("client")
{thop}


def torch_distributed_zero_first(local_rank): ...
def select_device(device=""): ...
{info}
def initialize_weights(model): ...
{others}

{prune}
{fuse}

def scale_img(img, ratio=1.0, same_shape=False, gs=32):
    """Another size."""
    if ratio == 1.0:
        return img
    size = [int(side * ratio) for side in img.shape[2:]]
    full = list(img.shape[2:])
    if not same_shape:
        full = [math.ceil(side * ratio / gs) * gs for side in full]
    small = F.interpolate(img, size=size, mode="bilinear", align_corners=False)
    return F.pad(small, [0, full[1] - size[1], 0, full[0] - size[0]], value=0.447)


def {clock}():
    """When all is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    now = time.time()
    return now


def copy_attr(a, b, include=(), exclude=()):
    for key in include:
        setattr(a, key, getattr(b, key))


def is_parallel(model):
    return {parallel}


def de_parallel(model):
    return model.module if is_parallel(model) else model


def smart_inference_mode():
    return torch.inference_mode()


{sparsity}
class ModelEMA:
    """Text that must stay."""

    def __init__(self, model, decay=0.9999, {tau}updates=0):
        self.ema = deepcopy(de_parallel(model)).eval()
        self.updates = updates
        self.decay = lambda x: decay * (1 - math.exp(-x / 2000))
        for weights in self.ema.parameters():
            weights.requires_grad_(False)
{enabled}
{update}
    def update_attr(self, model, include=(), exclude=("process_group", "reducer")):
        copy_attr(self.ema, model, include, exclude)
'''

_STATE_OF = {
    "is_parallel": "model.module.state_dict() if is_parallel(model) else model.state_dict()",
    "de_parallel": "de_parallel(model).state_dict()",
    "unwrap_model": "unwrap_model(model).state_dict()",
}


def _update(helper: str, one: str, guard: str) -> str:
    """ModelEMA.update: `guard` is "no_grad", "decorator", "enabled" or nothing."""
    lines = [
        "self.updates += 1",
        "share = self.decay(self.updates)",
        "",
        f"new = {_STATE_OF[helper]}",
        "for name, old in self.ema.state_dict().items():",
        "    if old.dtype.is_floating_point:  # not the counters",
        "        old *= share",
        f"        old += ({one} - share) * new[name].detach()",
    ]
    if guard in ("no_grad", "enabled"):
        first = "with torch.no_grad():" if guard == "no_grad" else "if self.enabled:"
        lines = [first, *("    " + line for line in lines)]
    head = ["@smart_inference_mode()"] if guard == "decorator" else []
    head += ["def update(self, model):", '    """Move a little."""']
    return "".join(f"    {line}\n" for line in (*head, *("    " + line for line in lines)))


_UPDATES = {
    "5.0": _update("is_parallel", "1.", "no_grad"),
    "6.0": _update("is_parallel", "1.", "no_grad"),
    "between": _update("is_parallel", "1", "no_grad"),
    "6.1": _update("de_parallel", "1", "no_grad"),
    "6.2": _update("de_parallel", "1", "decorator"),
    "7.0": _update("de_parallel", "1", ""),
    "u8.0": _update("de_parallel", "1", "enabled"),
    "u8.3": _update("unwrap_model", "1", "enabled"),
    "u8.4": _update("unwrap_model", "1", "enabled"),
}

_SPARSITY = '''
def sparsity(model):
    """How much of it is nothing."""
    numbers, nothings = {zero}, {zero}
    for weights in model.parameters():
        numbers += weights.numel()
        nothings += (weights == 0).sum()
    return nothings / numbers

'''

_PRUNE = '''
def prune(model, amount=0.3):
    """Less of it."""
    from torch.nn.utils import prune as tools
{before}
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            tools.l1_unstructured(layer, name="weight", amount=amount)
            tools.remove(layer, "weight")
    {after}

'''

_PRINTS = {
    "before": "    print('Pruning model... ', end='')",
    "after": "print(' %.3g global sparsity' % sparsity(model))",
}
_LOGS = {
    "before": "",
    "after": "LOGGER.info(f'Model pruned to {sparsity(model):.3g} global sparsity')",
}

_FUSE = '''
def fuse_conv_and_bn(conv, bn):
    """Two in one."""
    share = torch.diag(bn.weight.div(torch.sqrt(bn.eps + bn.running_var)))
    weight = torch.mm(share, conv.weight.view(conv.out_channels, -1)).view(conv.weight.shape)
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    bias = torch.mm(share, bias.reshape(-1, 1)).reshape(-1)
    moved = bn.weight.mul(bn.running_mean).div(torch.sqrt(bn.running_var + bn.eps))
    bias = bias + (bn.bias - moved)
{result}

'''

_NEW = """\
    fused = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, stride=conv.stride,
        padding=conv.padding, {dilation}groups=conv.groups, bias=True,
    ).requires_grad_(False)
    fused.weight.copy_(weight)
    fused.bias.copy_(bias)
    return fused"""
_SAME = """\
    conv.weight.data = weight
    if conv.bias is None:
        conv.register_parameter("bias", nn.Parameter(bias))
    else:
        conv.bias.data = bias
    return conv.requires_grad_(False)"""

_PROFILE = "def profile(input, ops, n=10, device=None): ..."
_OF_ULTRALYTICS = """\
def get_flops(model): ...
def get_num_gradients(model): ...
def get_num_params(model): ...
def init_seeds(seed=0): ...
def intersect_dicts(da, db, exclude=()): ...
def one_cycle(y1=0.0, y2=1.0, steps=100): ...
def strip_optimizer(f="best.pt"): ...
def unwrap_model(model):
    while hasattr(model, "module"):
        model = model.module
    return model"""
_IMPORTS_THOP = """
try:
    import thop
except ImportError:
    thop = None
"""
_INFO = '''def model_info(model, verbose=False, size=640):
    """How large it is."""
    numbers = sum(weights.numel() for weights in model.parameters())
    if verbose:
        print(numbers)
    try:
        {first}
        image = torch.zeros((1, model.yaml.get("ch", 3), 32, 32))
        share = {profile}(deepcopy(model), inputs=(image,), verbose=False)[0] / 1e9
        costs = f", {{share * size / 32:.3f}} costs"
    except Exception:
        costs = ""
    {logger}.info(f"{{numbers}} numbers{{costs}}")
'''
OWN = ("prune", "fuse_conv_and_bn", "scale_img", "time_sync", "time_synchronized", "model_info")


def text_of(release: str) -> str:
    """A client's torch_utils.py as of `release`, one of RELEASES."""
    early = release in ("5.0", "6.0")
    asks_once = release in ("6.2", "7.0")  # for thop, at the start
    yolov5 = release in YOLOV5
    dilated = release in ("7.0", "u8.0", "u8.3")
    wrappers = "(nn.DataParallel, nn.parallel.DistributedDataParallel)"
    result = _SAME if release == "u8.4" else _NEW
    return _COMMON.format(
        head="YOLOv5, as the tests know it" if yolov5 else "Ultralytics, as the tests know it",
        logger="logger" if release == "5.0" else "LOGGER",
        thop=_IMPORTS_THOP,
        info=_INFO.format(
            first="pass" if asks_once else "from thop import profile",
            profile="thop.profile" if asks_once else "profile",
            logger="logger" if release == "5.0" else "LOGGER",
        )
        if yolov5
        else "def model_info(model): ...",
        others=_PROFILE if yolov5 else _OF_ULTRALYTICS,
        prune=_PRUNE.format(**(_LOGS if release in ("6.2", "7.0") else _PRINTS)) if yolov5 else "",
        fuse=_FUSE.format(result=result.format(dilation="dilation=conv.dilation, " * dilated)),
        clock="time_synchronized" if release == "5.0" else "time_sync",
        parallel=f"type(model) in {wrappers}" if yolov5 else f"isinstance(model, {wrappers})",
        sparsity=_SPARSITY.format(zero="0." if early else "0") if yolov5 else "",
        tau="" if release in ("5.0", "6.0", "between", "6.1") else "tau=2000, ",
        enabled="" if yolov5 else "        self.enabled = True\n",
        update=_UPDATES[release],
    )


def known_forms() -> Iterator[tuple[str, str, Form]]:
    """(name, digest, form) of the functions that are this project's own text."""
    for release in RELEASES:
        forms = {
            "prune": PruneForm(logs=release in ("6.2", "7.0")),
            "fuse_conv_and_bn": FuseForm(release in ("7.0", "u8.0", "u8.3"), release == "u8.4"),
            "scale_img": ScaleForm(),
            "time_sync": TimeForm(),
            "time_synchronized": TimeForm(),
            "model_info": InfoForm(),
        }
        for node in ast.parse(text_of(release)).body:
            own = isinstance(node, ast.FunctionDef) and node.name in OWN
            if own and (node.name != "model_info" or release in YOLOV5):
                yield node.name, digest(node), forms[node.name]


def edited(old: str, new: str, release: str = "7.0") -> str:
    """The text of `release` with one change: a fork's."""
    text = text_of(release)
    if text.count(old) != 1:
        raise ValueError(f"{old!r} occurs {text.count(old)} times")
    return text.replace(old, new)
