"""Teaches the demo's detector: which prediction answers for which shape, the loss, the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torch_utils import ModelEMA, time_synchronized
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


class Assigned(NamedTuple):
    """One stride's answering predictions: their places, and the shapes they answer for."""

    picture: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    kind: Tensor
    box: Tensor  # centre x, y, width, height in pixels


def flatten(labels: list[Tensor]) -> Tensor:
    """Labels per picture as one tensor (shapes, 6): picture, class, centre x, y, width, height."""
    rows = []
    for picture, label in enumerate(labels):
        low, high = label[:, 1:3], label[:, 3:5]
        index = torch.full((len(label), 1), float(picture))
        rows.append(torch.cat((index, label[:, :1], (low + high) / 2, high - low), dim=1))
    return torch.cat(rows)


def assign(shapes: Tensor, anchors: Tensor, stride: int, rows: int, columns: int) -> Assigned:
    """Which predictions of one stride answer for `shapes` (as `flatten` gives them).

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
    limits = torch.tensor((columns, rows))
    inside = ((cell >= 0) & (cell < limits)).all(dim=2)
    cell = cell[inside]
    which, anchor = which.expand(3, -1)[inside], anchor.expand(3, -1)[inside]
    return Assigned(
        shapes[which, 0].long(),
        anchor,
        cell[:, 1],
        cell[:, 0],
        shapes[which, 1].long(),
        shapes[which, 2:6],
    )


def complete_iou(one: Tensor, other: Tensor) -> Tensor:
    """CIoU of boxes (n, 4) of centre and size: IoU less how far centres and proportions differ."""
    half_one, half_other = one[:, 2:] / 2, other[:, 2:] / 2
    low_one, high_one = one[:, :2] - half_one, one[:, :2] + half_one
    low_other, high_other = other[:, :2] - half_other, other[:, :2] + half_other
    inner = (torch.minimum(high_one, high_other) - torch.maximum(low_one, low_other)).clamp(min=0)
    outer = torch.maximum(high_one, high_other) - torch.minimum(low_one, low_other)
    shared = inner.prod(dim=1)
    iou = shared / (one[:, 2:].prod(dim=1) + other[:, 2:].prod(dim=1) - shared + 1e-7)
    apart = (one[:, :2] - other[:, :2]).square().sum(dim=1) / (outer.square().sum(dim=1) + 1e-7)
    angles = [torch.atan(boxes[:, 2] / (boxes[:, 3] + 1e-7)) for boxes in (one, other)]
    proportion = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    weight = (proportion / (1 - iou + proportion + 1e-7)).detach()
    return iou - apart - weight * proportion


def loss_of(model: Detector, raw: list[Tensor], shapes: Tensor) -> Tensor:
    """Box, objectness and class loss of one batch, summed: a 0-d tensor."""
    box_loss, objectness_loss, class_loss = (torch.zeros(()) for _ in range(3))
    for y, anchors, stride, weight in zip(
        raw, model.detect.anchors, STRIDES, LEVEL_WEIGHTS, strict=True
    ):
        found = assign(shapes, anchors, stride, y.shape[2], y.shape[3])
        place = (found.picture, found.anchor, found.row, found.column)
        answers = torch.zeros_like(y[..., 4])
        if len(found.kind):
            chosen = y[place]
            near = chosen[:, :4].sigmoid()
            cells = torch.stack((found.column, found.row), dim=1)
            centre = (near[:, :2] * 2 - 0.5 + cells) * stride
            extent = (near[:, 2:] * 2) ** 2 * anchors[found.anchor]
            iou = complete_iou(torch.cat((centre, extent), dim=1), found.box)
            box_loss = box_loss + (1 - iou).mean()
            answers[place] = iou.detach().clamp(min=0)
            kinds = F.one_hot(found.kind, chosen.shape[1] - 5).to(y.dtype)
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

    Each epoch takes the pictures in a new order, half of them mirrored. `report(step, loss)` is
    called after every step.
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
            batch, shapes = pick(images, labels, part, generator)
            loss = loss_of(model, model(batch), shapes)
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


def pick(
    images: Tensor, labels: list[Tensor], part: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The pictures of `part` as floats, about half of them mirrored, and their shapes flattened."""
    batch = as_floats(images[part])
    shapes = flatten([labels[index] for index in part.tolist()])
    mirrored = torch.rand(len(part), generator=generator) < 0.5
    batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
    flipped = mirrored[shapes[:, 0].long()]
    shapes[:, 2] = torch.where(flipped, batch.shape[3] - shapes[:, 2], shapes[:, 2])
    return batch, shapes
