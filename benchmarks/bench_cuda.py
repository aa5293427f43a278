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
from torch import Tensor, nn

from yolov5_utils import _C, _native, ops
from yolov5_utils.ops import prune as prune_module
from yolov5_utils.ops.fuse import fuse_conv_and_bn, fuse_in_c
from yolov5_utils.torch_utils import ModelEMA, scale_img, sparsity

from . import cuda_timing, harness, models, peers

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


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal bits, or AssertionError."""
    for key, value in theirs.items():
        bits, found = (t.detach().reshape(-1).view(torch.uint8) for t in (value, ours[key]))
        assert torch.equal(bits, found), f"{key}: bits differ from the original's"


def assert_in_library(operation: str, call: Callable[[], object], count: int = 1) -> Any:
    """A figure of a torch path must not pass for one of the library."""
    path = ops.OPERATIONS[operation]
    before = path.calls["CUDA"]
    result = call()
    assert path.calls["CUDA"] == before + count, f"{operation} ran in torch: {path.reasons}"
    return result


def ema(name: str) -> list[dict[str, Any]]:
    """The rows of ModelEMA.update."""
    start, source = models.build(name).cuda(), models.build(name, seed=1).cuda()
    ours, theirs = ModelEMA(start, peers.DECAY), peers.OriginalEMA(start)
    plain, foreach = ModelEMA(start, peers.DECAY), peers.ForeachEMA(start)
    for average in (theirs, plain):
        average.update(source)
    assert_in_library("ema", lambda: ours.update(source))
    assert_same(ours.ema.state_dict(), theirs.ema.state_dict())
    with without_library():
        other = ModelEMA(start, peers.DECAY)
        other.update(source)
    assert_same(other.ema.state_dict(), theirs.ema.state_dict())
    compared = [
        harness.Candidate(ORIGINAL, lambda: theirs.update(source)),
        harness.Candidate("_foreach_lerp_ + 2 walks (other bits)", lambda: foreach.update(source)),
        *own_ways(lambda: ours.update(source), lambda: plain.update(source)),
    ]
    moved = 12 * models.count(source).float_elements
    return cuda_timing.rows("ema", name, cuda_timing.measure(compared), PACKAGE, moved)


def zeros(name: str) -> list[dict[str, Any]]:
    """The rows of sparsity."""
    model = models.build(name).cuda()
    prune_module.prune_layers(model, AMOUNT)
    expected = peers.original_sparsity(model)
    found = assert_in_library("sparsity", lambda: sparsity(model))
    assert_same({"share": found}, {"share": expected})
    compared = [
        harness.Candidate(ORIGINAL, lambda: peers.original_sparsity(model)),
        *own_ways(lambda: sparsity(model), lambda: sparsity(model)),
    ]
    moved = 4 * models.count(model).parameters
    return cuda_timing.rows("sparsity", name, cuda_timing.measure(compared), PACKAGE, moved)


def pruning(name: str) -> list[dict[str, Any]]:
    """The rows of prune, without its output; the model is pruned again and again."""
    ours, theirs, plain = (models.build(name).cuda() for _ in range(3))
    assert_in_library("prune", lambda: prune_module.prune_layers(ours, AMOUNT))
    peers.original_prune(theirs, AMOUNT)
    assert_same(ours.state_dict(), theirs.state_dict())
    convolutions = [m for m in ours.modules() if isinstance(m, nn.Conv2d)]
    compared = [
        harness.Candidate(ORIGINAL, lambda: peers.original_prune(theirs, AMOUNT)),
        *own_ways(
            lambda: prune_module.prune_layers(ours, AMOUNT),
            lambda: prune_module.prune_layers(plain, AMOUNT),
        ),
    ]
    moved = 12 * sum(m.weight.numel() for m in convolutions)
    return cuda_timing.rows(
        "prune", name, cuda_timing.measure(compared, FEW_ROUNDS), PACKAGE, moved
    )


def fusing(name: str) -> list[dict[str, Any]]:
    """The rows of fuse: all pairs of a model, which stays as it is."""
    model = models.build(name).cuda().eval().requires_grad_(False)
    pairs = [(m.conv, m.bn) for m in model.modules() if isinstance(m, models.Conv)]
    convs, bns = [conv for conv, _ in pairs], [bn for _, bn in pairs]
    made = assert_in_library("fuse", lambda: fuse_in_c(convs, bns), len(pairs))
    for (conv, bn), fused in zip(pairs, made, strict=True):
        assert_same(fused.state_dict(), peers.original_fuse(conv, bn).state_dict())
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
    return cuda_timing.rows("fuse", name, cuda_timing.measure(compared, FEW_ROUNDS), PACKAGE, moved)


def resizing(shape: tuple[int, ...], dtype: torch.dtype) -> list[dict[str, Any]]:
    """The rows of scale_img for one batch of images."""
    image = torch.rand(shape, device="cuda").to(dtype)
    expected = peers.original_scale_img(image, RATIO)
    found = assert_in_library("scale_img", lambda: scale_img(image, RATIO))
    assert_same({"image": found}, {"image": expected})
    compared = [
        harness.Candidate(ORIGINAL, lambda: peers.original_scale_img(image, RATIO)),
        harness.Candidate(PACKAGE, lambda: scale_img(image, RATIO), renew=with_library),
    ]
    moved = (image.numel() + expected.numel()) * image.element_size()
    what = f"{'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
    return cuda_timing.rows("scale_img", what, cuda_timing.measure(compared), PACKAGE, moved)


def resizing_all(_: list[str]) -> list[dict[str, Any]]:
    """scale_img's rows; the models do not matter."""
    rows = [row for shape in IMAGES for row in resizing(shape, torch.float32)]
    return rows + resizing(IMAGES[1], torch.float16)


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
    rows = []
    with torch.no_grad():
        for operation in operations:
            rows += OPERATIONS[operation](names)
            _native.find_cuda_library()
            torch.cuda.empty_cache()
    return harness.Table(
        "On a GPU",
        cuda_timing.COLUMNS,
        rows,
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


def run(operations: list[str], chosen: argparse.Namespace) -> None:
    """What `--device cuda` of the other benchmarks does."""
    report(harness.names_of(chosen.models), operations, chosen.json, None)


def whole(names: list[str], json_path: Path | None, markdown: Path | None) -> None:
    """All operations: what `python -m benchmarks --device cuda` does."""
    report(names, list(OPERATIONS), json_path, markdown)


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


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.bench_cuda", description=__doc__)
    options.add_argument("--models", default="n,s,x", help="of n,s,m,l,x (default %(default)s)")
    options.add_argument("--operations", default=",".join(OPERATIONS), help="(default %(default)s)")
    options.add_argument("--json", type=Path, help="write the raw figures to this file")
    options.add_argument(
        "--markdown", type=Path, help="put the table into this file, between its markers"
    )
    chosen = options.parse_args(arguments)
    names, operations = harness.names_of(chosen.models), harness.names_of(chosen.operations)
    report(names, operations, chosen.json, chosen.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
