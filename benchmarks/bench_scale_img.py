"""scale_img: YOLOv5's interpolation and padding, OpenCV's resize and the package, interleaved."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yolov5_utils import _C
from yolov5_utils.torch_utils import scale_img

from . import bench_cuda, checks, harness, peers

OPENCV = "OpenCV (planes, reused memory, no padding)"


class Case(NamedTuple):
    """The shape of a batch and the ratio."""

    batch: int
    side: int
    ratio: float

    def image(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(self.batch, 3, self.side, self.side, generator=generator)

    def size(self) -> tuple[int, int]:
        return (int(self.side * self.ratio),) * 2

    def __str__(self) -> str:
        return f"{self.batch}×3×{self.side}² r {self.ratio}"


CASES = (
    Case(1, 640, 0.83),
    Case(1, 640, 0.67),
    Case(1, 1280, 0.83),
    Case(16, 640, 0.83),
    Case(16, 640, 0.67),
)
COLUMNS = (harness.Column("images", "model"), *harness.SPEED_COLUMNS[1:])


def assert_ran_in_c(image: Tensor, ratio: float) -> Tensor:
    """The package's result, which came from C and has the original's bits."""
    with checks.ran("scale_img"):
        found = scale_img(image, ratio)
    expected = peers.original_scale_img(image, ratio)
    checks.same_bits({"image": found}, {"image": expected})
    assert found.stride() == expected.stride()
    return found


def variant_in_use(image: Tensor, case: Case) -> int:
    """The variant the package takes for this image now."""
    operation = importlib.import_module("yolov5_utils.ops.scale_img")
    return int(operation._calibration.variant(image.shape[1], False, sum(case.size()) <= 128))


def opencv_resize(image: Tensor, case: Case, threads: int) -> Callable[[], object] | None:
    """OpenCV on each plane into memory that is kept, or None where it is not installed."""
    if importlib.util.find_spec("cv2") is None:
        return None
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(threads if threads > 1 else 0)
    height, width = case.size()
    planes = [plane.numpy() for plane in image.flatten(0, 1)]
    outputs = [torch.empty(height, width).numpy() for _ in planes]

    def resize() -> None:
        for plane, output in zip(planes, outputs, strict=True):
            cv2.resize(plane, (width, height), dst=output, interpolation=cv2.INTER_LINEAR)

    return resize


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """torch's deterministic mode, in which torch.empty fills the memory."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def candidates(case: Case, threads: int) -> list[harness.Candidate]:
    """Everything timed for one case, the limit last."""
    image = case.image()
    output = assert_ran_in_c(image, case.ratio)
    variant, size = variant_in_use(image, case), case.size()
    last = image.contiguous(memory_format=torch.channels_last)
    assert_ran_in_c(last, case.ratio)
    calls: dict[str, Callable[[], object] | None] = {
        "original (interpolate, pad)": lambda: peers.original_scale_img(image, case.ratio),
        "original, channels last": lambda: peers.original_scale_img(last, case.ratio),
        OPENCV: opencv_resize(image, case, threads),
        "package": lambda: scale_img(image, case.ratio),
        "package, reused output": lambda: _C.scale_img(image, output, size, variant),
        "package, channels last": lambda: scale_img(last, case.ratio),
    }
    if case.batch == 1:
        calls["original, deterministic mode"] = lambda: _deterministic(
            peers.original_scale_img, image, case.ratio
        )
        calls["package, deterministic mode"] = lambda: _deterministic(scale_img, image, case.ratio)
    timed = [harness.Candidate(name, call) for name, call in calls.items() if call is not None]
    limit = harness.Candidate("read input, fill output", lambda: (image.sum(), output.fill_(0.447)))
    return [*timed, limit]


def _deterministic(
    function: Callable[[Tensor, float], Tensor], image: Tensor, ratio: float
) -> None:
    with deterministic():
        function(image, ratio)


def measure(case: Case, threads: int, seconds: float) -> list[dict[str, Any]]:
    """The rows of one case at one thread count."""
    torch.set_num_threads(threads)
    compared = candidates(case, threads)
    timings = harness.interleave(compared, seconds)
    return harness.speed_rows(
        timings, {"model": str(case), "threads": threads}, [compared[-1].name]
    )


def table(cases: tuple[Case, ...], threads: list[int], seconds: float) -> harness.Table:
    """The table of speeds."""
    rows = [row for t in threads for case in cases for row in measure(case, t, seconds)]
    notes = [
        "float32; every result has the original's bits, checked before timing",
        "limit: torch sums the input and fills the output; the package may overlap the two",
    ]
    if not any(row["who"].startswith(OPENCV) for row in rows):
        notes.append("OpenCV not installed (pip install opencv-python-headless): rows left out")
    return harness.Table("scale_img", COLUMNS, rows, notes)


def tables(names: list[str], seconds: float) -> Iterator[harness.Table]:
    """All tables of this path, for the report; of one model, also one image only."""
    yield table(CASES[: 1 if len(names) == 1 else None], [1, 2], seconds)


if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    told = "of " + ", ".join(map(str, CASES))
    options.add_argument("--cases", type=harness.counts_of, default="0,1,2,3,4", help=told)
    harness.run(
        options,
        lambda chosen: [
            table(tuple(CASES[i] for i in chosen.cases), chosen.threads, chosen.seconds)
        ],
        bench_cuda.runner("scale_img"),
    )
