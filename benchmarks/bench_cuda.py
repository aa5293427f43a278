"""Every hot path on a GPU: YOLOv5's formula, the best other way, and the package with the CUDA
library and without it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolov5_utils import _C, _native
from yolov5_utils.ops import prune as prune_module
from yolov5_utils.ops.fuse import fuse_conv_and_bn, fuse_in_c
from yolov5_utils.torch_utils import ModelEMA, scale_img, sparsity

from . import checks, cuda_timing, harness, models, peers

PACKAGE = "package"
IN_TORCH = "package without the library"
ORIGINAL = "original"
AMOUNT = 0.3
FEW_ROUNDS = 5  # of operations that take a second on the largest model
BEGIN = "<!-- GPU figures: begin -->"
END = "<!-- GPU figures: end -->"
IMAGES = ((1, 3, 640, 640), (16, 3, 640, 640))
RATIO = 0.83


@contextlib.contextmanager
def without_library() -> Iterator[None]:
    """The ways of the package for GPUs on which the library cannot be used."""
    _C.use_cuda_library(None)
    try:
        yield
    finally:
        _native.find_cuda_library()


def with_library() -> None:
    """Have the library opened and asked, as it is from a process's second call on."""
    _native.find_cuda_library()
    assert _C.cuda_info(0)["problem"] is None


def own_ways(library: Callable[[], object], in_torch: Callable[[], object]) -> list[Any]:
    """The package's two candidates."""
    return [
        harness.Candidate(IN_TORCH, in_torch, renew=lambda: _C.use_cuda_library(None)),
        harness.Candidate(PACKAGE, library, renew=with_library),
    ]


def in_library(operation: str, call: Callable[[], Any], count: int = 1) -> Any:
    """The result of a call, which the library ran."""
    with checks.ran(operation, "CUDA", count):
        return call()


def rows(
    operation: str,
    what: str,
    compared: list[harness.Candidate],
    moved_bytes: int,
    rounds: int = cuda_timing.ROUNDS,
) -> list[dict[str, Any]]:
    """One row per candidate."""
    times = cuda_timing.measure(compared, rounds)
    return cuda_timing.rows(operation, what, times, PACKAGE, moved_bytes)


def ema(name: str) -> list[dict[str, Any]]:
    """The rows of ModelEMA.update."""
    start, source = models.build(name).cuda(), models.build(name, seed=1).cuda()
    ours, theirs = ModelEMA(start, peers.DECAY), peers.OriginalEMA(start)
    plain, foreach = ModelEMA(start, peers.DECAY), peers.ForeachEMA(start)
    for average in (theirs, plain):
        average.update(source)
    in_library("ema", lambda: ours.update(source))
    checks.same_bits(ours.ema.state_dict(), theirs.ema.state_dict())
    with without_library():
        other = ModelEMA(start, peers.DECAY)
        other.update(source)
    checks.same_bits(other.ema.state_dict(), theirs.ema.state_dict())
    compared = [
        harness.Candidate(ORIGINAL, lambda: theirs.update(source)),
        harness.Candidate("_foreach_lerp_ + 2 walks (other bits)", lambda: foreach.update(source)),
        *own_ways(lambda: ours.update(source), lambda: plain.update(source)),
    ]
    return rows("ema", name, compared, 12 * models.count(source).float_elements)


def zeros(name: str) -> list[dict[str, Any]]:
    """The rows of sparsity."""
    model = models.build(name).cuda()
    prune_module.prune_layers(model, AMOUNT)
    expected = peers.original_sparsity(model)
    found = in_library("sparsity", lambda: sparsity(model))
    checks.same_bits({"share": found}, {"share": expected})
    compared = [
        harness.Candidate(ORIGINAL, lambda: peers.original_sparsity(model)),
        *own_ways(lambda: sparsity(model), lambda: sparsity(model)),
    ]
    return rows("sparsity", name, compared, 4 * models.count(model).parameters)


def pruning(name: str) -> list[dict[str, Any]]:
    """The rows of prune, without its output; the model is pruned again and again."""
    ours, theirs, plain = (models.build(name).cuda() for _ in range(3))
    in_library("prune", lambda: prune_module.prune_layers(ours, AMOUNT))
    peers.original_prune(theirs, AMOUNT)
    checks.same_bits(ours.state_dict(), theirs.state_dict())
    convolutions = [m for m in ours.modules() if isinstance(m, nn.Conv2d)]
    compared = [
        harness.Candidate(ORIGINAL, lambda: peers.original_prune(theirs, AMOUNT)),
        *own_ways(
            lambda: prune_module.prune_layers(ours, AMOUNT),
            lambda: prune_module.prune_layers(plain, AMOUNT),
        ),
    ]
    moved = 12 * sum(m.weight.numel() for m in convolutions)
    return rows("prune", name, compared, moved, FEW_ROUNDS)


def fusing(name: str) -> list[dict[str, Any]]:
    """The rows of fuse: all pairs of a model, which stays as it is."""
    model = models.build(name).cuda().eval().requires_grad_(False)
    pairs = [(m.conv, m.bn) for m in model.modules() if isinstance(m, models.Conv)]
    convs, bns = [conv for conv, _ in pairs], [bn for _, bn in pairs]
    made = in_library("fuse", lambda: fuse_in_c(convs, bns), len(pairs))
    for (conv, bn), fused in zip(pairs, made, strict=True):
        checks.same_bits(fused.state_dict(), peers.original_fuse(conv, bn).state_dict())
    compared = [
        harness.Candidate(ORIGINAL, lambda: [peers.original_fuse(*pair) for pair in pairs]),
        harness.Candidate(
            "package, pair after pair",
            lambda: [fuse_conv_and_bn(*pair) for pair in pairs],
            renew=with_library,
        ),
        *own_ways(lambda: fuse_in_c(convs, bns), lambda: fuse_in_c(convs, bns)),
    ]
    moved = 8 * sum(conv.weight.numel() for conv in convs)
    return rows("fuse", name, compared, moved, FEW_ROUNDS)


def resizing(shape: tuple[int, ...], dtype: torch.dtype) -> list[dict[str, Any]]:
    """The rows of scale_img for one batch of images."""
    image = torch.rand(shape, device="cuda").to(dtype)
    expected = peers.original_scale_img(image, RATIO)
    found = in_library("scale_img", lambda: scale_img(image, RATIO))
    checks.same_bits({"image": found}, {"image": expected})
    compared = [
        harness.Candidate(ORIGINAL, lambda: peers.original_scale_img(image, RATIO)),
        harness.Candidate(PACKAGE, lambda: scale_img(image, RATIO), renew=with_library),
    ]
    moved = (image.numel() + expected.numel()) * image.element_size()
    what = f"{'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
    return rows("scale_img", what, compared, moved)


def resizing_all(_: list[str]) -> list[dict[str, Any]]:
    """scale_img's rows; the models do not matter."""
    single = [row for shape in IMAGES for row in resizing(shape, torch.float32)]
    return single + resizing(IMAGES[1], torch.float16)


def each(measure: Callable[[str], list[dict[str, Any]]]) -> Callable[[list[str]], list[Any]]:
    """All models' rows."""
    return lambda names: [row for name in names for row in measure(name)]


OPERATIONS: dict[str, Callable[[list[str]], list[dict[str, Any]]]] = {
    "ema": each(ema),
    "sparsity": each(zeros),
    "prune": each(pruning),
    "fuse": each(fusing),
    "scale_img": resizing_all,
}


def table(names: list[str], operations: list[str]) -> harness.Table:
    """The table of the operations for the models of these names."""
    found = []
    with torch.no_grad():
        for operation in operations:
            found += OPERATIONS[operation](names)
            _native.find_cuda_library()
            torch.cuda.empty_cache()
    return harness.Table(
        "On a GPU",
        cuda_timing.COLUMNS,
        found,
        [
            "bits equal to the original's, checked before timing; medians",
            "host: until the call returns, the GPU idle before; device: between two events, with "
            "all launches queued before them (up to the driver's queue of about 1,000)",
            "fuse waits once for the GPU, which then counts as host and device time",
        ],
    )


def need_gpu() -> None:
    """SystemExit that says why nothing can be measured here."""
    if not torch.cuda.is_available():
        sys.exit("--device cuda: this torch sees no GPU")
    problem = _C.cuda_info(0)["problem"]
    if problem is not None:
        sys.exit(f"--device cuda: {problem}")


def runner(operation: str) -> Callable[[argparse.Namespace], None]:
    """What `--device cuda` of another benchmark does."""
    return lambda chosen: report(chosen.models, [operation], chosen.json, None)


def report(
    names: list[str], operations: list[str], json_path: Path | None, markdown: Path | None
) -> None:
    """Measure, print, and put the table between the markers of `markdown`."""
    need_gpu()
    if markdown is not None:
        head, tail = harness.around_marks(markdown, BEGIN, END)  # before minutes of measuring
    about = harness.machine()
    found = table(names, operations)
    line = cuda_timing.device_line()
    print(line)
    harness.show(about, [found], json_path)
    if markdown is not None:
        text = f"Measured on: {line}.\n\n{found.markdown()}"
        markdown.write_text(f"{head}{BEGIN}\n\n{text}\n\n{tail}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m benchmarks.bench_cuda", description=__doc__)
    harness.add_models(options, "n,s,x")
    options.add_argument(
        "--operations",
        type=harness.names_of,
        default=",".join(OPERATIONS),
        help="(default %(default)s)",
    )
    harness.add_json(options)
    options.add_argument(
        "--markdown", type=Path, help="put the table into this file, between its markers"
    )
    chosen = options.parse_args()
    report(chosen.models, chosen.operations, chosen.json, chosen.markdown)
