"""A program as users write it, for type checkers: `make lint` runs mypy and pyright on it. It shows
that the installed types say what the functions return, and that mistakes are found."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import assert_type

import yolov5_utils
from yolov5_utils import ShardedEMA, fuse_model
from yolov5_utils.commands.explain import Explanation, Explanations
from yolov5_utils.commands.info import Facts, HotPath
from yolov5_utils.torch_utils import EarlyStopping, ModelEMA, prune, scale_img, sparsity, time_sync

model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
ema = ModelEMA(model, 0.999, tau=100)
assert_type(ema.update(model), None)
assert_type(ema.updates, int)
ema.update_attr(model, include=["names"])
assert_type(prune(model, 0.3, ties="torch"), None)
assert_type(sparsity(model), torch.Tensor)
assert_type(scale_img(torch.zeros(1, 3, 64, 64), 0.5, gs=32), torch.Tensor)
assert_type(time_sync(), float)
assert_type(EarlyStopping(patience=3)(epoch=0, fitness=0.5), bool)
assert_type(fuse_model(model), nn.Module)
sharded: ShardedEMA = yolov5_utils.ShardedEMA(model)

yolov5_utils.patch(only=["prune", "ModelEMA.update"])
assert_type(yolov5_utils.is_patched("prune"), bool)
yolov5_utils.unpatch()
assert_type(yolov5_utils.calls()["ema"], dict[str, int])
assert_type(yolov5_utils.explain(), Explanations)
assert_type(yolov5_utils.explain("prune", model, 0.3), Explanation)
assert_type(yolov5_utils.explain("prune").way, str)
assert_type(yolov5_utils.info(), Facts)
assert_type(yolov5_utils.info().hot_paths["ema"], HotPath)
assert_type(yolov5_utils.__version__, str)

# Mistakes: each is an error, or the comments beside it would be one.
# pyright: reportUnnecessaryTypeIgnoreComment=true
prune(model, "1/3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ModelEMA(model, updates="0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
yolov5_utils.patch(only=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
yolov5_utils.explain(None, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
yolov5_utils.no_name()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
