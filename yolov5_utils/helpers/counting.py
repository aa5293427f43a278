"""What thop counts in one forward pass, found from shapes: model_info without a copy of the model.

thop needs a copy, hooks and buffers in all its modules, and a forward pass, all for numbers that
are products of shapes. `stand_in` gives it a module that counts itself, with thop's own rules, on
the shapes that `mirrors` finds. Wherever thop's count of a copy is not certain to be the same, a
copy is made as always. The model is only read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .. import _native, probe
from ..originals import Originals
from .mirrors import METHODS, Mirrors, Rule, Uncertain, every_call_is_seen


class Record:
    """The counts of this process so far, and why thop counted in a copy."""

    # What a forward pass calls that is not run here.
    originals = Originals(
        ("nn.Conv2d", "forward _conv_forward"),
        ("nn.BatchNorm2d", "forward"),
        ("nn.Linear", "forward"),
        ("nn.functional", "conv2d batch_norm linear dropout hardswish leaky_relu mish relu silu"),
        ("nn.Module", "_call_impl " + " ".join(name for name in METHODS if name[0] != "_")),
        ("nn.Parameter", "__deepcopy__"),
        ("Tensor", "__deepcopy__"),
    )

    def __init__(self) -> None:
        self.calls = {"shapes": 0, "copy": 0}
        self.reasons: dict[str, int] = {}

    def refusal(self) -> str | None:
        """Why no model is counted from shapes in this process, or None."""
        reason = _native.switched_off()
        if reason is None and not every_call_is_seen():
            reason = "this torch tells no mode of indexing"
        return reason

    def counted(self) -> dict[str, int]:
        """The calls so far by what thop counted in."""
        return self.calls

    def note_torch(self, reason: str) -> None:
        """Count a copy. No error under YOLOV5_UTILS_STRICT=1, which is about C."""
        self.calls["copy"] += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


RECORD = Record()


def stand_in(model: Any, thop: Any) -> Any:
    """What to give to `thop.profile` in place of deepcopy(model): quicker, or just that copy.

    `thop` is the package that is going to count, on one image. Raises what copying raises.
    """
    try:
        return _StandIn(model, _counter(model, thop), thop)
    except Uncertain as why:
        RECORD.note_torch(str(why))
        return deepcopy(model)


def why_a_copy(model: Any, thop: Any) -> str | None:
    """Why `stand_in` would copy this model, or None; counts nothing."""
    try:
        _counter(model, thop)
    except Uncertain as why:
        return str(why)
    return None


class _StandIn(nn.Module):
    """A module without parts that adds to thop's count of it what thop would find in a model."""

    total_ops: Any  # thop's, for as long as it counts

    def __init__(self, model: nn.Module, count: Callable[[Tensor], float], thop: Any) -> None:
        super().__init__()
        self._in_a_copy = partial(_count_in_a_copy, model, thop)
        self._count = count

    def forward(self, image: Tensor) -> None:
        try:
            operations = self._count(image)
            RECORD.calls["shapes"] += 1
        except Exception as error:  # whatever it is may come of our tensors: a copy tells
            known = isinstance(error, Uncertain)
            RECORD.note_torch(str(error) if known else "the forward pass failed on shapes alone")
            operations = self._in_a_copy(image)
        self.total_ops += operations


def _count_in_a_copy(model: nn.Module, thop: Any, image: Tensor) -> float:
    """The multiply-adds that thop counts in a copy; raises what that raises."""
    return float(thop.profile(deepcopy(model), inputs=(image,), verbose=False)[0])


def _counter(model: Any, thop: Any) -> Callable[[Tensor], float]:
    """A function that counts the multiply-adds of one image; Uncertain where thop has to."""
    reason = RECORD.refusal() or RECORD.originals.replaced() or _watched()
    if reason is not None:
        raise Uncertain(reason)
    return Mirrors(_thops.rules(thop)).counter(model)


def _watched() -> str | None:
    """Who would see that no copy runs, or that it runs otherwise; or None."""
    if probe.is_watched():
        return "a mode, a trace or a transform of torch is active"
    if probe.autocast("cpu")():
        return "autocast is on"
    if torch.get_default_dtype() is not torch.float32:
        return "the default dtype is not float32"
    hooks = vars(nn.modules.module)
    if any(value for name, value in hooks.items() if name.startswith("_global_")):
        return "hooks for all modules are registered"
    return None


class _Thops:
    """Which rules the installed thop has for a class of modules: tried when first needed."""

    def __init__(self) -> None:
        self._tried: Any = None
        self._look: Callable[[Any, type], Rule | None] | None = None

    def rules(self, thop: Any) -> Callable[[type], Rule | None]:
        """What gives thop's rule for a class, None where it has none."""
        if thop is None:
            raise Uncertain("thop is not there")
        profile = getattr(thop, "profile", None)
        table = _table_of(profile)
        if thop is not sys.modules.get("thop") or table is None:
            raise Uncertain("thop.profile is not thop's own")
        if self._tried is not profile:
            ways = (look for look in (_exact, _inherited) if _agrees(thop, partial(look, table)))
            self._look = next(ways, None)
            self._tried = profile
        if self._look is None:
            raise Uncertain("this thop counts in another way")
        return partial(self._look, table)


def _table_of(profile: Any) -> Any:
    """thop's rules by class, where `profile` is thop's own function."""
    names = profile.__globals__ if isinstance(profile, FunctionType) else {}
    own = names.get("__name__") == "thop.profile" and profile.__code__.co_name == "profile"
    return names.get("register_hooks") if own else None


def _exact(table: Mapping[type, Rule], kind: type) -> Rule | None:
    """The rule of this very class, as thop looks."""
    return table.get(kind)


def _inherited(table: Mapping[type, Rule], kind: type) -> Rule | None:
    """The rule of the nearest base class, as ultralytics-thop looks."""
    return next((table[base] for base in kind.__mro__ if base in table), None)


def _agrees(thop: Any, rule_of: Callable[[type], Rule | None]) -> bool:
    """Whether thop counts a small model as we do with these rules."""
    model = _sample()
    image = torch.zeros(1, 2, 3, 4, dtype=torch.float32, device="cpu")
    try:
        with torch.no_grad():
            ours = Mirrors(rule_of).counter(model)(image)
        theirs = thop.profile(model, inputs=(image,), verbose=False)[0]
    except Exception:  # rules or a profile of another kind: thop is left to itself
        return False
    return ours == theirs


def _sample() -> nn.Module:
    """A small model with parts in parts; the numbers that it draws are drawn again."""
    with torch.random.fork_rng(devices=[]):
        place: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
        inner = nn.Sequential(nn.BatchNorm2d(4, **place), nn.LeakyReLU())
        return nn.Sequential(nn.Conv2d(2, 4, 1, bias=False, **place), inner)


_thops = _Thops()
