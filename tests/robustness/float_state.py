"""Run by test_float_state.py in a process of its own: has torch's pool, the calling thread or both
flush subnormal numbers or round otherwise, then compares every hot path with torch's own
operations, which run there."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import sys
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from yolov5_utils import _C, bits, reference
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops.ema import update_modules
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.torch_utils import fuse_conv_and_bn, scale_img, sparsity

from ..support import FLOATING, Holder

ROUNDS = int(os.environ.get("YOLOV5_UTILS_TEST_ROUNDS", "1"))
# Around the elements from which on torch deals out.
SIZES = (1000, 32_768, 32_769, 100_001)


def subnormal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of which every other one is below the type's smallest normal one."""
    values = torch.randn(*shape, dtype=torch.float64)
    values.view(-1)[::2] *= torch.finfo(dtype).tiny
    return values.to(dtype)


def same(found: Tensor, expected: Tensor) -> bool:
    return bits.same(found.detach(), expected.detach())


def ema() -> Iterator[bool]:
    pairs = [(dtype, dtype) for dtype in FLOATING] + [(torch.float32, torch.float64)]
    for (to, from_), size in itertools.product(pairs, SIZES):
        average = Holder(subnormal(size, dtype=to), subnormal(40, 1000, dtype=to))
        source = Holder(subnormal(size, dtype=from_), subnormal(40, 1000, dtype=from_))
        if size == SIZES[3]:
            source.b1 = source.b1.t().contiguous().t()
        expected = deepcopy(average)
        update_modules(average, source, 0.75)
        reference.ema_update(expected, source, 0.75)
        yield all(same(*both) for both in zip(average.buffers(), expected.buffers(), strict=True))


def zeros() -> Iterator[bool]:
    for dtype, size in itertools.product(FLOATING, SIZES):
        model = nn.Module()
        model.register_parameter("p", nn.Parameter(subnormal(size, dtype=dtype)))
        yield same(sparsity(model), reference.sparsity(model))


def pruned() -> Iterator[bool]:
    for dtype, width in itertools.product(FLOATING[:2], (8, 64, 90)):
        conv = nn.Conv2d(width, width, 3).to(dtype)
        conv.weight.data = subnormal(width, width, 3, 3, dtype=dtype)
        expected = deepcopy(conv)
        prune_layers(conv, 0.7, ties="torch")
        reference.prune_layers(expected, 0.7)
        yield same(conv.weight, expected.weight)


def fused() -> Iterator[bool]:
    for (rows, columns), dtype in itertools.product(
        ((8, 8), (16, 32), (64, 64), (128, 256)), FLOATING[:2]
    ):
        torch.set_default_dtype(dtype)
        conv = nn.Conv2d(columns, rows, 1).requires_grad_(False)
        bn = nn.BatchNorm2d(rows).requires_grad_(False)
        conv.weight.copy_(subnormal(rows, columns, 1, 1, dtype=dtype))
        bn.running_var.uniform_(1, 2)
        made, expected = fuse_conv_and_bn(conv, bn), reference.fuse_conv_and_bn(conv, bn)
        torch.set_default_dtype(torch.float32)
        yield same(made.weight, expected.weight) and same(made.bias, expected.bias)


def scaled() -> Iterator[bool]:
    shapes = ((1, 3, 20, 20), (1, 3, 64, 64), (2, 3, 90, 300), (1, 3, 300, 500))
    for shape, ratio in itertools.product(shapes, (0.7, 1.5)):
        image = subnormal(*shape)
        yield same(scale_img(image, ratio), reference.scale_img(image, ratio))


# <fenv.h>'s numbers of the rounding modes; 0 is to nearest.
ROUNDING = {
    "x86_64": {"down": 0x400, "up": 0x800, "zero": 0xC00},
    "aarch64": {"up": 0x400000, "down": 0x800000, "zero": 0xC00000},
}


def skip(why: str) -> None:
    print(f"SKIP {why}")
    sys.exit(0)


def change(state: str, on: bool) -> None:
    """Gives the calling thread another floating-point state, or the usual one."""
    if state == "flush":
        if not torch.set_flush_denormal(on):
            skip("this CPU cannot flush subnormals")
        return
    modes = ROUNDING.get(platform.machine())
    if modes is None:
        skip("this architecture's rounding modes are not known")
    assert ctypes.CDLL("libm.so.6").fesetround(modes[state] if on else 0) == 0


def pool_differs(state: str) -> bool:
    """Whether a thread of the pool has this state, as torch's own operation shows."""
    if state == "flush":
        return not bool((torch.full((1 << 20,), 1e-39) * 0.5).view(torch.int32).all())
    sums = torch.full((1 << 20,), 1.0) + (2.0**-40 if state == "up" else -(2.0**-40))
    return bool((sums != 1).any())


def main(who: str, threads: int, state: str) -> None:
    torch.manual_seed(3)
    torch.set_num_threads(threads)
    update_modules(Holder(torch.ones(5)), Holder(torch.ones(5)), 0.5)  # too small to ask the pool
    if who == "joiner":  # the pool is asked, and then gets one thread more
        assert all(ema())
        torch.set_num_threads(threads + 1)
    change(state, who in ("pool", "joiner", "both"))
    torch.ones(1 << 22).add_(1)  # the pool starts
    change(state, who in ("caller", "both"))
    if who in ("pool", "joiner") and not pool_differs(state):
        skip("torch's pool does not keep the state in which it was started")
    for parallel_bytes in (_C.configure()["parallel_bytes"], 0):
        _C.configure(parallel_bytes=parallel_bytes)
        for compare in (ema, zeros, pruned, fused, scaled) * ROUNDS:
            for number, right in enumerate(compare()):
                assert right, f"{compare.__name__}, number {number}, {parallel_bytes} bytes"
    print("C", *(f"{name}={path.calls['C']}" for name, path in OPERATIONS.items()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
