"""The demo from beginning to end: draw, learn, score, compare, tell."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import __version__
from ..torch_utils import ModelEMA, model_info, prune, time_synchronized
from ..torch_utils import logger as package_logger
from . import compare, learn, score, shapes
from .model import Detector, build

SIZE_PIXELS = 96  # the finest grid is then 12 × 12: a training step takes tens of milliseconds
HELD_OUT = 192  # about 480 shapes: one more or less moves the score by under half a percent
PRUNE_AMOUNT = 0.2
TIMED_PASSES = 20
# Every seed tried reaches more than 0.9 in the default number of steps, and about 0.0
# untrained: below 0.8 something is wrong with the training or with the average of its weights.
LEAST_MAP50 = 0.8


class Plan(NamedTuple):
    """What the command line can choose."""

    output: Path
    epochs: int
    pictures: int
    seed: int


class Progress:
    """A bar on stderr where that is a terminal, else a line at every tenth of the way."""

    def __init__(self, total: int) -> None:
        self.total, self.start, self.tty = total, time.time(), sys.stderr.isatty()

    def __call__(self, step: int, loss: float) -> None:
        left = (time.time() - self.start) / step * (self.total - step)
        text = f"step {step}/{self.total}  loss {loss:6.3f}  {left:3.0f} s left"
        if self.tty:
            filled = 30 * step // self.total
            end = "\n" if step == self.total else ""
            print(f"\r  [{'#' * filled:.<30}] {text} ", end=end, file=sys.stderr, flush=True)
        elif step * 10 // self.total > (step - 1) * 10 // self.total:
            print(f"  {text}", file=sys.stderr, flush=True)


def tell(plan: Plan) -> int:
    """Run the demo: 0, or 1 where a bit differs or the detector has not learnt."""
    from . import pictures  # a broken matplotlib fails here, before the training

    start = time.time()
    _say(f"yolov5_utils {__version__} demo: a small YOLOv5-shaped detector on drawn shapes")
    _say(f"  {compare.machine()}")
    images, labels = drawn(plan.pictures, 2 * plan.seed)
    test_images, test_labels = drawn(HELD_OUT, 2 * plan.seed + 1)
    model, ema, history = _learn(plan, images, labels)
    average = ema.ema
    reached, found = _score(average, test_images, test_labels)

    _say("Each hot path against plain torch, on this detector:")
    batch = score.as_floats(test_images[: learn.BATCH])
    races = compare.races(model, average, batch, PRUNE_AMOUNT)
    rows = [compare.run(race, compare.SECONDS_EACH) for race in races]
    pictures.detections(
        plan.output / "detections.png",
        test_images,
        test_labels,
        found,
        f"Drawn test pictures the detector has not seen: mAP50 {reached:.3f} "
        f"after {len(history.losses)} steps, weights averaged by ModelEMA",
    )
    pictures.speed(plan.output / "speed.png", rows, f"{compare.machine()}; fastest of many calls")
    _say(compare.table(rows))
    _explain(history, rows)
    _say(f"Pictures: {plan.output / 'detections.png'}, {plan.output / 'speed.png'}")
    return _verdict(reached, rows, time.time() - start)


def _say(text: str, end: str = "\n") -> None:
    """Print at once, so that a log has these lines and the progress on stderr in order."""
    print(text, end=end, flush=True)


def drawn(count: int, seed: int) -> tuple[Tensor, list[Tensor]]:
    """`count` pictures as a uint8 tensor and their labels, as shapes.draw makes them."""
    made = shapes.draw(count, SIZE_PIXELS, seed)
    return torch.from_numpy(made.images), [torch.from_numpy(label) for label in made.labels]


def _learn(
    plan: Plan, images: Tensor, labels: list[Tensor]
) -> tuple[Detector, ModelEMA, learn.History]:
    model = build(shapes.NAMES, SIZE_PIXELS, plan.seed)
    with _printed(package_logger):
        model_info(model, img_size=SIZE_PIXELS)
    steps = plan.epochs * -(-len(images) // learn.BATCH)
    _say(
        f"Learning from {len(images)} pictures of {SIZE_PIXELS}x{SIZE_PIXELS} pixels, "
        f"{steps} steps of {learn.BATCH} pictures:",
    )
    ema, history = learn.train(model, images, labels, plan.epochs, plan.seed, Progress(steps))
    first, last = (sum(part) / len(part) for part in (history.losses[:10], history.losses[-10:]))
    _say(f"  loss {first:.2f} -> {last:.2f} in {history.seconds:.0f} s")
    return model.eval(), ema, history


@contextlib.contextmanager
def _printed(logger: logging.Logger) -> Iterator[None]:
    """What `logger` says goes to stdout meanwhile."""
    handler, level = logging.StreamHandler(sys.stdout), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _score(average: nn.Module, images: Tensor, labels: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Score the averaged weights plainly and in each changed way: mAP50 and boxes of the plain."""
    counted = sum(map(len, labels))
    _say(f"mAP50 on {len(images)} pictures with {counted} shapes it has not seen:")
    found = score.find(average, images)
    reached = _tell_score("averaged weights (ModelEMA)", found, labels)

    fused = deepcopy(average)
    with torch.no_grad():
        fused.fuse()
    batch = score.as_floats(images[:32])
    _tell_score("fused (fuse_conv_and_bn)", score.find(fused, images), labels)
    with torch.no_grad():
        apart = (fused(batch) - average(batch)).abs()
    unfused_ms, fused_ms = _fastest_ms((average, fused), batch)
    _say(
        f"      outputs differ by at most {apart[..., :4].max():.1e} pixels, "
        f"{apart[..., 4:].max():.1e} in score; {len(batch)} pictures take "
        f"{unfused_ms:.1f} ms unfused, {fused_ms:.1f} ms fused"
    )
    joined = score.find(average, images, score.augmented)
    sizes = ", ".join(f"{ratio:g}" for ratio, _ in score.AUGMENTATIONS)
    _tell_score(f"3 sizes joined (scale_img {sizes}), learnt at size 1 only", joined, labels)

    pruned = deepcopy(average)
    _say("  ", end="")
    prune(pruned, PRUNE_AMOUNT)
    _tell_score(
        f"pruned by {PRUNE_AMOUNT:g}, not trained again", score.find(pruned, images), labels
    )
    return reached, found


def _tell_score(name: str, found: list[Tensor], labels: list[Tensor]) -> float:
    result = score.mean_average_precision(found, labels, len(shapes.NAMES))
    each = ", ".join(
        f"{kind} {value:.3f}" for kind, value in zip(shapes.NAMES, result.per_class, strict=True)
    )
    _say(f"  {result.mean:.3f}  {name}: {each}")
    return result.mean


def _fastest_ms(models: tuple[nn.Module, ...], batch: Tensor) -> list[float]:
    """Milliseconds of the fastest of a few passes of each model, made in turn."""
    times: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(TIMED_PASSES):
            for model, spent in zip(models, times, strict=True):
                start = time_synchronized()
                model(batch)
                spent.append(time_synchronized() - start)
    return [min(spent) * 1e3 for spent in times]


def _explain(history: learn.History, rows: list[compare.Row]) -> None:
    """Say what the figures mean and what they do not."""
    steps = len(history.losses)
    step_ms, ema_ms = history.seconds / steps * 1e3, history.ema_seconds / steps * 1e3
    original_ms = step_ms - ema_ms + rows[0].original_ms
    _say(
        "What was measured: the fastest of many calls made in turn, on this machine's CPU and this "
        "small model;\nlarger models, other machines and GPUs differ. A path whose way is torch "
        "runs the original's own operations.\n"
        f"ModelEMA.update took {ema_ms:.2f} ms, {ema_ms / step_ms:.1%} of a training step of "
        f"{step_ms:.1f} ms;\nwith the original's {rows[0].original_ms:.2f} ms, timed alone, it "
        f"would be {rows[0].original_ms / original_ms:.1%}."
    )


def _verdict(reached: float, rows: list[compare.Row], seconds: float) -> int:
    """The last lines and the exit code."""
    different = [row.name for row in rows if not row.equal]
    if different:
        _say(f"FAILED: other bits than plain torch's: {', '.join(different)}")
    learnt = reached >= LEAST_MAP50
    if not learnt:
        _say(f"FAILED: mAP50 {reached:.3f} is below {LEAST_MAP50}: the detector has not learnt")
    if different or not learnt:
        return 1
    _say(f"OK: the same bits everywhere, mAP50 {reached:.3f}, {seconds:.0f} s in all")
    return 0
