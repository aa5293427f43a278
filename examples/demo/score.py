"""From a detector's output to boxes, and from boxes to a score: NMS, augmented inference, mAP50."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from yolov5_utils.torch_utils import scale_img

LEAST_SCORE = 0.01  # below it a box can no longer change a precision that matters
NMS_IOU, RIGHT_IOU = 0.5, 0.5
MOST_CANDIDATES = 100  # per picture before NMS; a picture shows 4 shapes at most
# Ratio and whether mirrored, of the passes that augmented inference joins: YOLOv5's three.
AUGMENTATIONS = ((1.0, False), (0.83, True), (0.67, False))


def augmented(model: nn.Module, images: Tensor) -> Tensor:
    """Three passes at three sizes, one mirrored, back in the picture's pixels and joined."""
    width, stride, joined = images.shape[3], int(model.stride.max()), []
    for ratio, mirrored in AUGMENTATIONS:
        found = model(scale_img(images.flip(3) if mirrored else images, ratio, gs=stride))
        found[..., :4] *= width / int(width * ratio)  # scale_img cuts the size to whole pixels
        if mirrored:
            found[..., 0] = width - found[..., 0]
        joined.append(found)
    return torch.cat(joined, dim=1)


def as_floats(images: Tensor) -> Tensor:
    """uint8 pictures as float32, 0 to 1."""
    return images.float() / 255.0


@torch.no_grad()
def find(infer: Callable[[Tensor], Tensor], images: Tensor, batch: int = 32) -> list[Tensor]:
    """The boxes that a model in eval mode finds on uint8 pictures (pictures, 3, height, width).

    Per picture a tensor (boxes, 6) of left, top, right, bottom, score, class, best score first.
    """
    parts = images.split(batch)
    return [suppress(found) for part in parts for found in infer(as_floats(part))]


def suppress(prediction: Tensor) -> Tensor:
    """Non-maximum suppression within each class of one picture's (predictions, 5 + classes)."""
    scores, kinds = (prediction[:, 4:5] * prediction[:, 5:]).max(dim=1)
    order = scores.argsort(descending=True, stable=True)[:MOST_CANDIDATES]
    order = order[scores[order] > LEAST_SCORE]
    scores, kinds, half = scores[order], kinds[order], prediction[order, 2:4] / 2
    boxes = torch.cat((prediction[order, :2] - half, prediction[order, :2] + half), dim=1)
    rivals = (overlaps(boxes, boxes) > NMS_IOU) & (kinds[:, None] == kinds)
    kept = torch.ones(len(order), dtype=torch.bool)
    for index in range(len(order)):
        if kept[index]:
            kept[index + 1 :] &= ~rivals[index, index + 1 :]
    return torch.cat((boxes, scores[:, None], kinds[:, None].to(boxes.dtype)), dim=1)[kept]


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of every box in (n, 4) with every box in (m, 4): (n, m)."""
    low = torch.maximum(one[:, None, :2], other[:, :2])
    high = torch.minimum(one[:, None, 2:], other[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (one, other)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp(min=1e-9)


def mean_average_precision(
    found: list[Tensor], labels: list[Tensor], classes: int
) -> tuple[float, list[float]]:
    """mAP50, and each class's part in it: the area under its precision-recall curve.

    `found` as `find` gives it; `labels` per picture (shapes, 5) of class and box. A box counts as
    right when its class is and it overlaps a shape by half that no better-scored box has taken. The
    curve is made monotonic and read at 101 recalls, as COCO does. A class that is on no picture
    does not count: its part is NaN.
    """
    per_class = []
    for kind in range(classes):
        chosen = [
            (boxes[boxes[:, 5] == kind], truth[truth[:, 0] == kind])
            for boxes, truth in zip(found, labels, strict=True)
        ]
        scores = torch.cat([boxes[:, 4] for boxes, _ in chosen])
        right = torch.cat([_matches(boxes, truth) for boxes, truth in chosen])
        shapes = sum(len(truth) for _, truth in chosen)
        per_class.append(_average_precision(scores, right, shapes) if shapes else float("nan"))
    present = [value for value in per_class if value == value]
    return sum(present) / max(len(present), 1), per_class


def _matches(boxes: Tensor, truth: Tensor) -> Tensor:
    """Per box of one picture and class whether it found a shape that no better one has."""
    right = torch.zeros(len(boxes), dtype=torch.bool)
    shared = overlaps(boxes[:, :4], truth[:, 1:])
    for index in boxes[:, 4].argsort(descending=True, stable=True).tolist() if len(truth) else ():
        best, at = shared[index].max(dim=0)
        if best >= RIGHT_IOU:
            right[index] = True
            shared[:, at] = -1.0
    return right


def _average_precision(scores: Tensor, right: Tensor, shapes: int) -> float:
    """Area under the precision-recall curve of one class, read at 101 recalls."""
    hits = right[scores.argsort(descending=True, stable=True)].double().cumsum(0)
    precision = torch.cat((hits / torch.arange(1, len(right) + 1), torch.zeros(1).double()))
    envelope = precision.flip(0).cummax(0).values.flip(0)
    at = torch.searchsorted(hits / shapes, torch.linspace(0, 1, 101, dtype=torch.float64))
    return float(envelope[at].mean())
