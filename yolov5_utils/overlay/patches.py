"""The replacements: YOLOv5's own names, signatures and results, with the work done in C.

Imported once a client's torch_utils has executed, so torch is loaded by then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from .. import _native, verify  # first: names the remedy where the extension is broken
from .._C import count_module_zeros
from ..ops.ema import update_modules
from ..ops.sparsity import EXACT, share_on_gpu
from .fingerprint import Fingerprint, SparsityForm, UpdateForm

_NO_LIMIT = (1 << 63) - 1  # of an int64 count
_MARK = "__yolov5_utils__"  # on our replacements only: tells them from the client's functions
_undo: list[Callable[[], None]] = []


def apply(module: ModuleType, found: Fingerprint) -> tuple[str, ...]:
    """Replace what the fingerprint knows, on the client's own class and module.

    The names that are replaced now; what was replaced before stays as it is.
    """
    replaced = []
    if found.update is not None:
        if not is_ours(module.ModelEMA.update):
            _replace(module.ModelEMA, "update", _replacement_update(module, found.update))
        replaced.append("ModelEMA.update")
    if found.sparsity is not None:
        if not is_ours(module.sparsity):
            _replace(module, "sparsity", _replacement_sparsity(module.sparsity, found.sparsity))
        replaced.append("sparsity")
    return tuple(replaced)


def revert_all() -> None:
    """Give the client's own functions back, last replaced first."""
    while _undo:
        _undo.pop()()


def is_ours(function: Any) -> bool:
    """True for a function that `apply` put there."""
    return _MARK in getattr(function, "__dict__", {})


def _replace(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    original = vars(owner)[name]
    setattr(replacement, _MARK, True)
    setattr(owner, name, replacement)

    def undo() -> None:
        if vars(owner).get(name) is replacement:
            setattr(owner, name, original)

    _undo.append(undo)


def _replacement_update(module: ModuleType, form: UpdateForm) -> Callable[..., None]:
    """ModelEMA.update of one release; wrapped models are told by the client's own helper."""
    original = module.ModelEMA.update
    names = vars(module)  # the helpers are looked up at each call, as the original does

    def update(self: Any, model: Any) -> None:
        before = self.updates
        try:
            self.updates += 1
            decay = self.decay(self.updates)
            if form.unwrap == "de_parallel":
                source = names["de_parallel"](model)
            else:
                source = model.module if names["is_parallel"](model) else model
            update_modules(self.ema, source, decay)
        except BaseException:  # nothing was averaged, so nothing was counted
            self.updates = before
            raise

    wrapped = functools.wraps(original)(update)
    if form.guard is None:
        return wrapped
    return functools.wraps(original)(getattr(module, form.guard)()(wrapped))


def _replacement_sparsity(
    original: Callable[..., Any], form: SparsityForm
) -> Callable[..., torch.Tensor]:
    """sparsity of one release; the original itself runs where C cannot, or must raise."""

    @functools.wraps(original)
    def sparsity(model: Any) -> Any:
        dtype = torch.get_default_dtype()
        if not form.exact and dtype not in (torch.float32, torch.float64):
            _native.note_torch("sparsity", f"default dtype {dtype}")
            return original(model)
        limit = _NO_LIMIT if form.exact else EXACT[dtype]
        done, counts = verify.attempt("sparsity", count_module_zeros, model, limit)
        if not done or not counts[0]:
            return original(model)
        if len(counts) == 3:
            _native.note_cuda("sparsity")
            _, elements, counted = counts
            total = counted.view(torch.int64)
            return total[0] / elements if form.exact else share_on_gpu(total, elements, dtype)
        _, elements, zeros, share_float32, share_float64 = counts
        if form.exact:
            return torch.tensor(zeros, dtype=torch.int64) / elements
        share = share_float32 if dtype == torch.float32 else share_float64
        return torch.scalar_tensor(share, dtype=dtype)

    return sparsity
