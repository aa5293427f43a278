"""One call of each hot path on a GPU, and nothing else: for a profiler of kernels.

ncu … python -m benchmarks.launches
"""

from __future__ import annotations

import torch

from yolov5_utils.ops.fuse import fuse_in_c
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.torch_utils import ModelEMA, scale_img, sparsity

from . import bench_cuda, models


def main() -> None:
    """Average, count, prune and fuse n and x, resize in two types."""
    bench_cuda.need_gpu()
    with torch.no_grad():
        for name in ("n", "x"):
            model = models.build(name).cuda().eval().requires_grad_(False)
            ModelEMA(model).update(model)
            sparsity(model)
            prune_layers(model, bench_cuda.AMOUNT)
            pairs = [(m.conv, m.bn) for m in model.modules() if isinstance(m, models.Conv)]
            fuse_in_c([conv for conv, _ in pairs], [bn for _, bn in pairs])
        for dtype in (torch.float32, torch.float16):
            scale_img(torch.rand(bench_cuda.IMAGES[1], device="cuda").to(dtype), bench_cuda.RATIO)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
