"""Teaches the demo's detector: which prediction answers for which shape, the loss, the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from yolov5_utils.torch_utils import ModelEMA, time_synchronized

from .model import STRIDES, Detector
from .score import as_floats

BATCH = 16
LEARNING_RATE = 1e-2  # peak; Adam, risen to and fallen from by a one-cycle schedule
WARM_UP = 0.15  # share of the steps
WEIGHT_DECAY = 5e-4
MOST_RATIO = 2.5  # an anchor answers for a shape at most so much wider, narrower, higher, lower
BOX_WEIGHT, OBJECTNESS_WEIGHT, CLASS_WEIGHT = 3.0, 12.0, 1.5
# The fine grid has four times as many cells, most of them background: its mean is as much thinner.
LEVEL_WEIGHTS = (4.0, 1.0)


class History(NamedTuple):
    """What a training run leaves: loss per step, and seconds in all and within ModelEMA.update."""

    losses: list[float]
    seconds: float
    ema_seconds: float


Places = tuple[Tensor, Tensor, Tensor, Tensor]  # of predictions: picture, anchor, row, column


def flatten(labels: list[Tensor]) -> Tensor:
    """Labels per picture as one tensor (shapes, 6): picture, class, centre x, y, width, height."""
    rows = []
    for picture, label in enumerate(labels):
        low, high = label[:, 1:3], label[:, 3:5]
        index = torch.full((len(label), 1), float(picture))
        rows.append(torch.cat((index, label[:, :1], (low + high) / 2, high - low), dim=1))
    return torch.cat(rows)


def assign(
    shapes: Tensor, anchors: Tensor, stride: int, rows: int, columns: int
) -> tuple[Places, Tensor]:
    """Which predictions of one stride answer for `shapes` (as `flatten` gives them), and for which.

    As YOLOv5 does: every anchor of about the shape's size, in the cell of the shape's centre and in
    its nearest neighbours to the side and above or below.
    """
    ratio = shapes[:, None, 4:6] / anchors
    fits = torch.maximum(ratio, 1 / ratio).amax(dim=2) < MOST_RATIO
    which, anchor = fits.nonzero(as_tuple=True)
    centre = shapes[which, 2:4] / stride
    toward = torch.where(centre % 1 < 0.5, -1, 1)
    steps = torch.zeros(3, len(which), 2, dtype=torch.long)
    steps[1, :, 0], steps[2, :, 1] = toward[:, 0], toward[:, 1]
    cell = centre.long() + steps
    inside = ((cell >= 0) & (cell < torch.tensor((columns, rows)))).all(dim=2)
    (column, row), anchor = cell[inside].unbind(1), anchor.expand(3, -1)[inside]
    answered = shapes[which.expand(3, -1)[inside]]
    return (answered[:, 0].long(), anchor, row, column), answered


def complete_iou(one: Tensor, other: Tensor) -> Tensor:
    """CIoU of boxes (n, 4) of centre and size: IoU less how far centres and proportions differ."""
    lows = [boxes[:, :2] - boxes[:, 2:] / 2 for boxes in (one, other)]
    highs = [boxes[:, :2] + boxes[:, 2:] / 2 for boxes in (one, other)]
    shared = (torch.minimum(*highs) - torch.maximum(*lows)).clamp(min=0).prod(dim=1)
    outer = torch.maximum(*highs) - torch.minimum(*lows)
    iou = shared / (one[:, 2:].prod(dim=1) + other[:, 2:].prod(dim=1) - shared + 1e-7)
    apart = (one[:, :2] - other[:, :2]).square().sum(dim=1) / (outer.square().sum(dim=1) + 1e-7)
    angles = [torch.atan(boxes[:, 2] / (boxes[:, 3] + 1e-7)) for boxes in (one, other)]
    proportion = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    weight = (proportion / (1 - iou + proportion + 1e-7)).detach()
    return iou - apart - weight * proportion


def loss_of(model: Detector, raw: list[Tensor], shapes: Tensor) -> Tensor:
    """Box, objectness and class loss of one batch, summed: a 0-d tensor."""
    box_loss, objectness_loss, class_loss = (torch.zeros(()) for _ in range(3))
    for y, anchors, stride, weight in zip(raw, model.anchors, STRIDES, LEVEL_WEIGHTS, strict=True):
        place, answered = assign(shapes, anchors, stride, y.shape[2], y.shape[3])
        answers = torch.zeros_like(y[..., 4])
        if len(answered):
            chosen = y[place]
            near = chosen[:, :4].sigmoid()
            cells = torch.stack((place[3], place[2]), dim=1)
            centre = (near[:, :2] * 2 - 0.5 + cells) * stride
            extent = (near[:, 2:] * 2) ** 2 * anchors[place[1]]
            iou = complete_iou(torch.cat((centre, extent), dim=1), answered[:, 2:])
            box_loss = box_loss + (1 - iou).mean()
            answers[place] = iou.detach().clamp(min=0)
            kinds = F.one_hot(answered[:, 1].long(), chosen.shape[1] - 5).to(y.dtype)
            class_loss = class_loss + F.binary_cross_entropy_with_logits(chosen[:, 5:], kinds)
        objectness = F.binary_cross_entropy_with_logits(y[..., 4], answers)
        objectness_loss = objectness_loss + weight * objectness
    return BOX_WEIGHT * box_loss + OBJECTNESS_WEIGHT * objectness_loss + CLASS_WEIGHT * class_loss


def train(
    model: Detector,
    images: Tensor,
    labels: list[Tensor],
    epochs: int,
    seed: int,
    report: Callable[[int, float], None],
) -> tuple[ModelEMA, History]:
    """Train `model` in place on uint8 `images`; the average of its weights and the run's history.

    Each epoch takes the pictures in a new order. `report(step, loss)` is called after every step.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=WARM_UP
    )
    ema = ModelEMA(model)
    losses: list[float] = []
    ema_seconds = 0.0
    model.train()
    start = time_synchronized()
    for _ in range(epochs):
        for part in torch.randperm(len(images), generator=generator).split(BATCH):
            shapes = flatten([labels[index] for index in part.tolist()])
            loss = loss_of(model, model(as_floats(images[part])), shapes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            before = time_synchronized()
            ema.update(model)
            ema_seconds += time_synchronized() - before
            losses.append(loss.item())
            report(len(losses), losses[-1])
    return ema, History(losses, time_synchronized() - start, ema_seconds)
