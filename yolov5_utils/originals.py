"""What each hot path's original calls in torch, and whether that is still torch's own.

Whoever replaced one of these (to count, to export, to test) is to see the original's calls: there
the hot paths run as torch operations. One table for the package's functions, the overlay, `explain`
and the random stream. Must not know the C extension.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator
from functools import reduce
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional

from . import probe

# The modules that the originals know by these global names.
MODULES = {
    "F": torch.nn.functional,
    "math": math,
    "nn": torch.nn,
    "time": time,
    "torch": torch,
}

# Operation -> (owner in torch, names that its original calls there, or that these call in turn).
CALLS: dict[str, tuple[tuple[str, str], ...]] = {
    "ema": (
        ("nn.Module", "state_dict _save_to_state_dict"),
        ("Tensor", "detach __imul__ __iadd__ __mul__ __rmul__"),
        ("", "no_grad"),
    ),
    "sparsity": (
        ("nn.Module", "parameters named_parameters _named_members named_modules"),
        ("Tensor", "numel __eq__ sum __add__ __radd__ __truediv__"),
    ),
    "prune": (
        ("nn", "Conv2d"),
        (
            "nn.Module",
            "named_modules __setattr__ __getattr__ __delattr__ register_parameter register_buffer "
            "register_forward_pre_hook",
        ),
        (
            "nn.utils.prune",
            "l1_unstructured remove L1Unstructured BasePruningMethod _validate_pruning_amount "
            "_validate_pruning_amount_init _compute_nparams_toprune",
        ),
        ("nn.utils.prune.L1Unstructured", "apply compute_mask apply_mask remove __call__"),
        ("", "topk abs ones_like"),
        ("Tensor", "clone to view detach"),
    ),
    "fuse": (
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
    "scale_img": (("nn.functional", "interpolate pad"),),
    "time_synchronized": (),  # C itself looks at what it calls
}


class _Names(NamedTuple):
    """Names of one owner, as they were when they were first looked at."""

    owner: str
    names: tuple[str, ...]
    look: Callable[[Any], Any]
    place: Any
    found: Any


def replaced(operation: str) -> str | None:
    """Why the original of a hot path has to run: what of torch it calls was replaced; or None.

    Also while torch.compile reads, which is to read the original.
    """
    if probe.is_compiling():
        return "inside torch.compile"
    table = TABLE.get(operation)
    for entry in _make(operation) if table is None else table:
        try:
            if entry.look(entry.place) == entry.found:
                continue
        except AttributeError:
            pass
        if any(value is _NOT_TORCHS for value in _values(entry)):
            TABLE.pop(operation, None)  # not torch's at the first look, but perhaps at the next
        return _reason(entry)
    return None


def _make(operation: str) -> tuple[_Names, ...]:
    """The table of a hot path, as torch is now."""
    if operation == "prune":  # as the original does, when it is called
        importlib.import_module("torch.nn.utils.prune")
    TABLE[operation] = table = tuple(_table(CALLS[operation]))
    return table


def _reason(entry: _Names) -> str:
    """The sentence for an entry of which something differs."""
    for name, own in zip(entry.names, _values(entry), strict=True):
        if getattr(entry.place, name, _NOT_TORCHS) != own:
            return f"{'.'.join(filter(None, ('torch', entry.owner, name)))} was replaced"
    return f"torch.{entry.owner} was replaced"


def _values(entry: _Names) -> tuple[Any, ...]:
    """What was found under each name."""
    return entry.found if len(entry.names) > 1 else (entry.found,)


# In place of what was not torch's own at the first look: equal to nothing else.
_NOT_TORCHS = object()


def _is_torchs(value: Any, name: str) -> bool:
    """True for what torch has under this name, False for what somebody put around or in place."""
    value = getattr(value, "__func__", value)  # of a class method, which is made anew at each look
    if isinstance(value, FunctionType):
        place = value.__globals__.get("__name__", "")
        return value.__code__.co_name == name and place.partition(".")[0] == "torch"
    if isinstance(value, type):
        return value.__module__.partition(".")[0] == "torch" and value.__name__ == name
    return type(value) in _BUILT_IN and getattr(value, "__name__", name) == name


_BUILT_IN = (
    BuiltinFunctionType,
    type(dict.__init__),  # slot wrapper
    type(dict.get),  # method descriptor
    type(dict.fromkeys),
)


def _table(calls: tuple[tuple[str, str], ...]) -> Iterator[_Names]:
    """What is found of the names that this release of torch has."""
    for owner, text in calls:
        place = reduce(getattr, filter(None, owner.split(".")), torch)
        names = tuple(name for name in text.split() if hasattr(place, name))
        values = [getattr(place, name) for name in names]
        found = tuple(
            value if _is_torchs(value, name) else _NOT_TORCHS
            for name, value in zip(names, values, strict=True)
        )
        if names:
            yield _Names(owner, names, attrgetter(*names), place, found if found[1:] else found[0])


# What was there before anybody could replace it; torch itself imports its pruning for nobody.
TABLE = {name: tuple(_table(calls)) for name, calls in CALLS.items() if name != "prune"}
