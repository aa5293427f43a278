"""The demo from beginning to end: draw, learn, score, compare, tell."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import harness
from yolov5_utils import __version__, fuse_model
from yolov5_utils.torch_utils import prune

from . import learn, race, score, shapes
from .model import build

HELD_OUT = 192  # about 480 shapes: one more or less moves the score by under half a percent
PRUNE_AMOUNT = 0.2
TIMED_SECONDS = 2.0  # of forward passes, unfused and fused
# The default number of steps reaches more than 0.9, an untrained model about 0.0: below 0.8
# something is wrong with the training or with the average of its weights.
LEAST_MAP50 = 0.8


def progress(total: int) -> Callable[[int, float], None]:
    """Says on stderr how far it is: on a terminal in one line, else at every tenth of the way."""
    start, on_terminal = time.time(), sys.stderr.isatty()

    def report(step: int, loss: float) -> None:
        left_s = (time.time() - start) / step * (total - step)
        text = f"step {step}/{total}  loss {loss:6.3f}  {left_s:3.0f} s left"
        if on_terminal:
            print(f"\r  {text} ", end="\n" * (step == total), file=sys.stderr, flush=True)
        elif step * 10 // total > (step - 1) * 10 // total:
            print(f"  {text}", file=sys.stderr, flush=True)

    return report


def tell(output: Path, epochs: int, count: int, seed: int) -> int:
    """Run the demo: 0, or 1 where a bit differs or the detector has not learnt."""
    from . import pictures  # a broken matplotlib fails here, before the training

    start = time.time()
    machine = harness.machine_line(harness.machine())
    _say(f"yolov5_utils {__version__} demo: a small YOLOv5-shaped detector on drawn shapes")
    _say(f"  {machine}")
    images, labels = drawn(count, 2 * seed)
    test_images, test_labels = drawn(HELD_OUT, 2 * seed + 1)
    model = build(shapes.NAMES, shapes.SIZE_PIXELS, seed)
    steps = epochs * -(-len(images) // learn.BATCH)
    weights = sum(parameter.numel() for parameter in model.parameters())
    size = f"{shapes.SIZE_PIXELS}x{shapes.SIZE_PIXELS} pixels"
    _say(f"{weights:,} parameters learn from {count} pictures of {size}, {steps} steps:")
    ema, history = learn.train(model, images, labels, epochs, seed, progress(steps))
    first, last = (sum(part) / len(part) for part in (history.losses[:10], history.losses[-10:]))
    _say(f"  loss {first:.2f} -> {last:.2f} in {history.seconds:.0f} s")
    model.eval()
    reached, found = _score(ema.ema, test_images, test_labels)

    batch = score.as_floats(test_images[: learn.BATCH])
    races = race.races(model, ema.ema, batch, PRUNE_AMOUNT)
    rows = [race.run(each, race.SECONDS_EACH) for each in races]
    pictures.detections(
        output / "detections.png",
        test_images,
        test_labels,
        found,
        f"Drawn test pictures the detector has not seen: mAP50 {reached:.3f} "
        f"after {steps} steps, weights averaged by ModelEMA",
    )
    race.picture(rows, machine, output / "speed.png")
    title = "Each hot path against plain torch, on this detector, the fastest of many calls:"
    _say(harness.Table(title, race.COLUMNS, rows, _notes(history, rows)).text())
    _say(f"Pictures: {output / 'detections.png'}, {output / 'speed.png'}")
    return _verdict(reached, rows, time.time() - start)


def _say(text: str, end: str = "\n") -> None:
    """Print at once, so that a log has these lines and the progress on stderr in order."""
    print(text, end=end, flush=True)


def drawn(count: int, seed: int) -> tuple[Tensor, list[Tensor]]:
    """`count` pictures as a uint8 tensor and their labels, as shapes.draw makes them."""
    images, labels = shapes.draw(count, seed)
    return torch.from_numpy(images), [torch.from_numpy(label) for label in labels]


@torch.no_grad()
def _score(average: nn.Module, images: Tensor, labels: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Score the averaged weights plainly and in each changed way: mAP50 and boxes of the plain."""

    def tell_score(name: str, found: list[Tensor]) -> float:
        mean, per_class = score.mean_average_precision(found, labels, len(shapes.NAMES))
        named = zip(shapes.NAMES, per_class, strict=True)
        _say(f"  {mean:.3f}  {name}: {', '.join(f'{kind} {value:.3f}' for kind, value in named)}")
        return mean

    shown = sum(map(len, labels))
    _say(f"mAP50 on {len(images)} pictures with {shown} shapes it has not seen:")
    found = score.find(average, images)
    reached = tell_score("averaged weights (ModelEMA)", found)

    fused = fuse_model(deepcopy(average))
    tell_score("fused (fuse_conv_and_bn)", score.find(fused, images))
    batch = score.as_floats(images[:32])
    apart = (fused(batch) - average(batch)).abs()
    models = {"unfused": average, "fused": fused}
    timings = harness.interleave(
        [harness.Candidate(name, partial(net, batch)) for name, net in models.items()],
        TIMED_SECONDS,
    )
    times = ", ".join(
        f"{timing.hot.best_s * 1e3:.1f} ms {name}" for name, timing in timings.items()
    )
    _say(
        f"      outputs differ by at most {apart[..., :4].max():.1e} pixels, "
        f"{apart[..., 4:].max():.1e} in score; {len(batch)} pictures take {times}"
    )
    sizes = ", ".join(f"{ratio:g}" for ratio, _ in score.AUGMENTATIONS)
    joined = score.find(partial(score.augmented, average), images)
    tell_score(f"3 sizes joined (scale_img {sizes}), learnt at size 1 only", joined)

    pruned = deepcopy(average)
    _say("  ", end="")
    prune(pruned, PRUNE_AMOUNT)
    tell_score(f"pruned by {PRUNE_AMOUNT:g}, not trained again", score.find(pruned, images))
    return reached, found


def _notes(history: learn.History, rows: list[dict[str, Any]]) -> list[str]:
    """What the figures mean and what they do not."""
    steps = len(history.losses)
    step_ms, ema_ms = history.seconds / steps * 1e3, history.ema_seconds / steps * 1e3
    original_ms = rows[0]["original_us"] / 1e3
    share = original_ms / (step_ms - ema_ms + original_ms)
    return [
        "Measured on this machine's CPU and this small model; larger models, other machines and",
        "GPUs differ. Where the backend is torch, the original's own operations run.",
        f"ModelEMA.update took {ema_ms:.2f} ms, {ema_ms / step_ms:.1%} of a training step of "
        f"{step_ms:.1f} ms;",
        f"with the original's {original_ms:.2f} ms, timed alone, it would be {share:.1%}.",
    ]


def _verdict(reached: float, rows: list[dict[str, Any]], seconds: float) -> int:
    """The last lines and the exit code."""
    failures = [f"{row['path']}: {row['difference']}" for row in rows if row["difference"]]
    if reached < LEAST_MAP50:
        failures.append(f"mAP50 {reached:.3f} is below {LEAST_MAP50}: the detector has not learnt")
    for failure in failures:
        _say(f"FAILED: {failure}")
    if not failures:
        _say(f"OK: the same bits everywhere, mAP50 {reached:.3f}, {seconds:.0f} s in all")
    return 1 if failures else 0
