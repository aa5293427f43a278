"""The hot paths' loops at every instruction level that this CPU runs, not only at its highest: what
other CPUs' users have.

python -m benchmarks.bench_levels [--models n] [--seconds 4]
"""

from __future__ import annotations

from typing import Any

import torch

from yolov5_utils import _native
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.torch_utils import ModelEMA, fuse_conv_and_bn, scale_img, sparsity

from . import bench_prune, harness, models

COLUMNS = (
    harness.MODEL,
    harness.Column("call", "who"),
    harness.Column("level", "level"),
    *harness.times_of(harness.COLD, harness.HOT),
    harness.Column("of portable's, hot", "share", "{:.0%}"),
)


def calls(name: str) -> dict[str, harness.Candidate]:
    """A call of every hot path that computes."""
    model = models.build(name).eval().requires_grad_(False)
    average = ModelEMA(model)
    pairs = [(m.conv, m.bn) for m in model.modules() if isinstance(m, models.Conv)]
    to_prune = models.build(name)
    weights = bench_prune.Weights(to_prune)
    image = torch.rand(1, 3, 640, 640)
    candidates = (
        harness.Candidate("ModelEMA.update", lambda: average.update(model)),
        harness.Candidate("fuse_conv_and_bn", lambda: [fuse_conv_and_bn(*pair) for pair in pairs]),
        harness.Candidate("prune", lambda: prune_layers(to_prune, 0.3), renew=weights.renew),
        harness.Candidate("scale_img, 1×3×640² r 0.83", lambda: scale_img(image, 0.83)),
        harness.Candidate("sparsity", lambda: sparsity(model)),
    )
    return {candidate.name: candidate for candidate in candidates}


def measure(name: str, seconds: float) -> list[dict[str, Any]]:
    """The rows of one model."""
    configure = _native._C.configure
    levels = _native._C.info()["levels_found"]
    rows = []
    for who, call in calls(name).items():
        compared = [
            call._replace(name=level, prepare=lambda level=level: configure(level=level))
            for level in levels
        ]
        timings = harness.interleave(compared, seconds / 5)
        slowest = timings["portable"].hot.median_s
        for level, (cold, hot) in timings.items():
            times = {**harness.times(harness.COLD, cold), **harness.times(harness.HOT, hot)}
            share = hot.median_s / slowest
            rows.append({"model": name, "who": who, "level": level, **times, "share": share})
    return rows


def table(names: list[str], seconds: float) -> harness.Table:
    """The table of all models, on one thread."""
    before = torch.get_num_threads(), _native._C.configure()
    torch.set_num_threads(1)
    try:
        rows = [row for name in names for row in measure(name, seconds)]
    finally:
        torch.set_num_threads(before[0])
        _native._C.configure(level=before[1]["level"])
    notes = ["one thread; the same bits at every level, says the test suite"]
    return harness.Table("Instruction levels", COLUMNS, rows, notes)


if __name__ == "__main__":
    options = harness.parser(str(__doc__).splitlines()[0], devices=("cpu",))
    options.set_defaults(models="n")
    harness.run(options, lambda chosen: [table(chosen.models, chosen.seconds)])
