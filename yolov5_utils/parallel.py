"""What ModelEMA needs to know of models: wrappers of parallel training, attributes to copy."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

from torch import nn


def is_parallel(model: Any) -> bool:
    """True for a DataParallel or DistributedDataParallel itself; False for a subclass of either.

    Source: YOLOv5 5.0.

    >>> is_parallel(nn.Linear(2, 2))
    False
    """
    return type(model) in (nn.parallel.DataParallel, nn.parallel.DistributedDataParallel)


def de_parallel(model: Any) -> Any:
    """The module inside a DataParallel or DistributedDataParallel, any other model itself.

    Source: YOLOv5 of July 2021.

    >>> model = nn.Linear(2, 2)
    >>> de_parallel(nn.DataParallel(model)) is model
    True
    """
    return model.module if is_parallel(model) else model


def bare(model: Any) -> Any:
    """The module inside any number of DataParallel, DistributedDataParallel and torch.compile."""
    inner = de_parallel(model)
    # By its type, which is imported where somebody compiles: a model may be anything, a script too.
    kind = type(inner)
    if kind.__name__ == "OptimizedModule" and kind.__module__.partition(".")[0] == "torch":
        inner = inner._orig_mod
    return model if inner is model else bare(inner)


def is_fsdp2(model: Any) -> bool:
    """True where `fully_shard` was called on the model or a part of it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported: nobody can have called it
    kind = getattr(fsdp, "FSDPModule", None)  # torch 2.6 and later
    return (
        kind is not None
        and isinstance(model, nn.Module)
        and any(isinstance(module, kind) for module in model.modules())
    )


def copy_attr(a: Any, b: Any, include: Collection[str] = (), exclude: Collection[str] = ()) -> None:
    """Set the instance attributes of `b` on `a`, save those whose name starts with '_'.

    Only the names in `include`, where that is not empty, and none in `exclude`. On modules that
    means plain attributes, `training` among them, not parameters or submodules.
    Source: YOLOv5 5.0.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> b.names = ["cat", "dog"]
    >>> copy_attr(a, b, include=["names"])
    >>> a.names
    ['cat', 'dog']
    """
    for name, value in b.__dict__.items():
        wanted = name in include if len(include) else True
        if wanted and not name.startswith("_") and name not in exclude:
            setattr(a, name, value)
