"""ModelEMA: a moving average of everything floating in a model's state_dict."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from copy import deepcopy
from typing import Any

from torch import nn

from .. import _native, reference, verify
from ..operation import Operation, small_layers
from ..originals import Originals
from ..parallel import bare, copy_attr, is_fsdp2
from . import ema_lists


def update_modules(
    average: nn.Module, source: nn.Module, decay: float, done: list[bool] | None = None
) -> None:
    """average = decay · average + (1 − decay) · source, in place, by state_dict key.

    Every floating parameter and persistent buffer of `average`, any shape, any floating dtype, is
    updated with the original's roundings (two products, one sum). KeyError names a key that
    `source` lacks, RuntimeError a shape that does not broadcast; nothing is written then. A list
    `done` gets a True where all was written, also when a signal handler raises something meanwhile.
    Paths: C on CPU tensors, the CUDA library on those of one GPU, otherwise torch. Source of the
    semantics: YOLOv5 1.0 and later.
    """
    ran, _ = OPERATION.attempt(_native._C.ema_update, average, source, decay, done)
    if not ran:
        ema_lists.update(average, source, decay, done)


def update_counted(average: Any, model: Any, unwrap: Callable[[Any], Any]) -> None:
    """ModelEMA.update, of our class or a client's; `unwrap` finds the model in wrappers."""
    before, done = average.updates, list[bool]()
    if hasattr(before, "__iadd__"):  # a tensor or an array, which counts in place
        before = deepcopy(before)
    try:
        average.updates += 1
        decay = average.decay(average.updates)
        ema, source = average.ema, unwrap(model)
        # update_modules, without the microseconds of a call more between two training steps.
        if not OPERATION.attempt(_native._C.ema_update, ema, source, decay, done)[0]:
            ema_lists.update(ema, source, decay, done)
    except BaseException:
        if not done:  # nothing was averaged, so nothing was counted
            average.updates = before
        raise


class ModelEMA:
    """Exponential moving average of a model, as YOLOv5 keeps it while training.

    `ema` is a copy of the model in eval mode without gradients, `updates` the number of updates so
    far, `decay` a function from `updates` to the decay in use: decay · (1 − exp(−updates / tau)).
    All three may be replaced from outside and are read at every update. Source of the semantics:
    YOLOv5 of July 2021 (`tau` is from 6.2, where it stands before `updates`).

    >>> model = nn.Linear(2, 2)
    >>> ema = ModelEMA(model)
    >>> ema.update(model)  # after every step of the optimizer
    >>> ema.updates
    1
    """

    def __init__(
        self, model: nn.Module, decay: float = 0.9999, updates: int = 0, *, tau: float = 2000
    ) -> None:
        if is_fsdp2(model):  # of which torch cannot make a copy
            raise RuntimeError("ModelEMA needs a whole model: use yolov5_utils.ShardedEMA(model)")
        self.ema = deepcopy(bare(model)).eval()
        self.updates = updates
        # Ramps up, since early weights are not worth remembering.
        self.decay: Callable[[int], float] = lambda x: decay * (1 - math.exp(-x / tau))
        for parameter in self.ema.parameters():
            parameter.requires_grad_(False)

    def update(self, model: nn.Module) -> None:
        """Average the state of `model` (also wrapped in DP, DDP or torch.compile) into `ema`.

        KeyError or RuntimeError as `update_modules`; `ema` and `updates` are then as they were.
        What a signal handler raises (KeyboardInterrupt) leaves both so, or both moved on.
        """
        update_counted(self, model, bare)

    def update_attr(
        self,
        model: nn.Module,
        include: Collection[str] = (),
        exclude: Collection[str] = ("process_group", "reducer"),
    ) -> None:
        """Copy the model's public attributes (only `include` where given) to `ema`."""
        copy_attr(self.ema, model, include, exclude)


def _check(average: Any, model: Any) -> None:
    """Of a ModelEMA and a model, or of two modules."""
    _native._C.ema_check(getattr(average, "ema", average), bare(model))


_USUAL_DECAY = 0.9


def _usual() -> tuple[nn.Module, nn.Module]:
    model, _ = small_layers()
    return model, deepcopy(model)


OPERATION = Operation(
    "ema",
    ("ModelEMA.update",),
    "ema_update",
    Originals(
        ("nn.Module", "state_dict _save_to_state_dict"),
        ("Tensor", "detach __imul__ __iadd__ __mul__ __rmul__"),
        ("", "no_grad"),
    ),
    _usual,
    lambda average, model: update_modules(average, model, _USUAL_DECAY),
    lambda average, model: reference.ema_update(average, model, _USUAL_DECAY),
    _check,
    on_gpu=lambda device: True,  # its number
    compare=verify.ema,
)
