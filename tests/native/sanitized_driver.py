"""Run by test_sanitized.py in a process of its own, on an instrumented build: goes through every
function, every level, odd shapes, layouts and producers, and refusals. Results are checked by the
other tests; here the sanitizers watch. The argument names what to do."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yolov5_utils import _C, _native
from yolov5_utils.torch_utils import ModelEMA, fuse_conv_and_bn, sparsity

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What the EMA takes in this torch.
AVERAGED = FLOATING if _native.TorchFacts().half_scalars_stay_float32 else FLOATING[:2]
OTHER = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
OTHER += (torch.complex64, torch.complex128)
SIZES = (*range(36), 63, 64, 65, 255, 257, 1023, 40_000)
SHAPES = ((3, 5, 3, 3), (1, 6, 1, 5), (2, 1, 7, 40))
LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda t: t.clone(),
    lambda t: t.contiguous(memory_format=torch.channels_last),
    lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
    lambda t: torch.cat([t, t], 3)[..., ::2],
)


class Holder(nn.Module):
    """A module whose state is the given buffers."""

    def __init__(self, *buffers: Tensor) -> None:
        super().__init__()
        for i, buffer in enumerate(buffers):
            self.register_buffer(f"b{i}", buffer)


def small_model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sequential(nn.Linear(7, 9)))


def update(average: nn.Module, source: nn.Module) -> None:
    with torch.no_grad():
        _C.ema_update(average, source, 0.9)


def sizes_and_types() -> None:
    for average, source in itertools.product(AVERAGED, AVERAGED):
        update(
            Holder(*(torch.randn(n).to(average) for n in SIZES)),
            Holder(*(torch.randn(n).to(source) for n in SIZES)),
        )
    for dtype in (*FLOATING, *OTHER):
        for n in SIZES:
            with contextlib.suppress(_C.Unsupported):  # torch 1.13 does not export bool
                _C.count_zeros(torch.zeros(n, dtype=dtype))


def layouts() -> None:
    for shape, average, source in itertools.product(SHAPES, LAYOUTS, LAYOUTS):
        for dtype in AVERAGED:
            ours, theirs = torch.randn(2, *shape).to(dtype)
            update(Holder(average(ours)), Holder(source(theirs)))
            _C.count_zeros(average(ours))
    update(Holder(torch.ones(5, 7)), Holder(torch.ones(1, 7).expand(5, 7)))
    update(Holder(torch.ones(())), Holder(torch.ones(())))
    base = torch.ones(300)
    update(Holder(base[7:99], base[99:200]), Holder(torch.ones(92), torch.ones(101)))
    update(Holder(base, base), Holder(torch.ones(300), torch.ones(300)))  # tied: one by one


def whole_models() -> None:
    model = small_model()
    ema = ModelEMA(model)
    for _ in range(3):
        ema.update(model)
        sparsity(model)
        _C.count_module_zeros(model)
    ema.ema.half()
    ema.update(model)


def fusions() -> None:
    for dtype, kernel in itertools.product(FLOATING, (1, 3)):
        for outputs, inputs in ((1, 1), (65, 7), (130, 256)):
            conv = nn.Conv2d(inputs, outputs, kernel).to(dtype).requires_grad_(False)
            bn = nn.BatchNorm2d(outputs).to(dtype).requires_grad_(False)
            fuse_conv_and_bn(conv, bn)
            fuse_conv_and_bn(conv.to(memory_format=torch.channels_last), bn)
    with contextlib.suppress(RuntimeError):
        fuse_conv_and_bn(conv, nn.BatchNorm2d(3))


def random_streams() -> None:
    for draws in (0, 1, 623, 624, 625, 10_000):
        generator = torch.Generator()
        torch.randn(300, generator=generator)
        _C.skip_random(generator, draws)


def other_producers() -> None:
    array = np.arange(24.0).reshape(4, 6)
    for view in (array, array.T, array[::-1, ::-2], array[:0], array[1, 1:2], array[2:, 3:]):
        for dtype in (np.float32, np.int8, np.uint64, np.complex64, np.int16):
            _C.count_zeros(view)
            _C.count_zeros(view.astype(dtype))


def refusals() -> None:
    """Calls that must raise, whichever the exception: its text is other tests' business."""
    ones, model = torch.ones(4), small_model()
    hooked = small_model()
    hooked._register_state_dict_hook(lambda *_: None)
    deep: nn.Module = nn.Identity()
    for _ in range(4000):
        deep = nn.Sequential(deep)

    misaligned = torch.frombuffer(bytearray(41), dtype=torch.float32, offset=1)
    _C.count_zeros(misaligned)

    class Odd(Tensor):
        pass

    class Stateful(NamedTuple):
        state: Tensor | None

        def get_state(self) -> Tensor | None:
            return self.state

    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (_C.ema_update, ()),
        (_C.ema_update, (1, 2, 0.5)),
        (_C.ema_update, (model, model, "x")),
        (_C.ema_update, (model, model, 0.5)),
        (_C.ema_update, (model, nn.Identity(), 0.5)),
        (_C.ema_update, (model, hooked, 0.5)),
        (_C.ema_update, (deep, deep, 0.5)),
        (_C.ema_update, (Holder(ones), Holder(torch.ones(5)), 0.5)),
        (_C.ema_update, (Holder(ones), Holder(torch.ones(4, device="meta")), 0.5)),
        (_C.ema_update, (Holder(ones), Holder(ones.as_subclass(Odd)), 0.5)),
        (_C.ema_update, (Holder(ones), Holder(ones.to_sparse()), 0.5)),
        (_C.ema_update, (Holder(torch.ones(1).expand(4)), Holder(torch.ones(4)), 0.5)),
        (_C.ema_update, (Holder(ones[:3]), Holder(ones[1:]), 0.5)),
        (_C.ema_update, (Holder(misaligned), Holder(torch.ones(10)), 0.5)),
        (_C.ema_update, (Holder(torch.ones(10)), Holder(misaligned), 0.5)),
        (_C.count_zeros, ()),
        (_C.count_zeros, (None,)),
        (_C.count_zeros, (object(),)),
        (_C.count_zeros, (torch.ones(2, device="meta"),)),
        (_C.count_zeros, (np.array(["text"]),)),
        (_C.count_module_zeros, (ones,)),
        (_C.skip_random, (torch.Generator(), -1)),
        (_C.skip_random, (object(), 1)),
        (_C.skip_random, (Stateful(None), 1)),
        (_C.skip_random, (Stateful(torch.zeros(5055, dtype=torch.uint8)), 1)),
        (_C.skip_random, (Stateful(torch.zeros(5056, dtype=torch.uint8)), 1)),
        (_C.register_torch, (object(),)),
        (_C.register_torch, (None,)),
        (_C.configure, ("no level",)),
        (_C.configure, ("avx2\0",)),
        (_C.configure, (None, -1)),
        (_C.configure, (None, 2**70)),
    ]
    for function, arguments in calls:
        try:
            function(*arguments)
        except Exception:
            continue
        raise AssertionError(f"{function.__name__}{arguments} did not raise")


def everything() -> None:
    torch.set_num_threads(2)
    for level in _C.info()["levels_found"]:
        for use_exchange, threshold in ((True, 0), (False, 1 << 40)):
            _C.register_torch(_native.TorchFacts(use_exchange=use_exchange))
            _C.configure(level=level, parallel_bytes=threshold, gil_bytes=threshold)
            for group in (
                sizes_and_types,
                layouts,
                whole_models,
                fusions,
                random_streams,
                other_producers,
                refusals,
            ):
                group()
            gc.collect()


def lying(count: int) -> np.ndarray:
    """An array that claims `count` elements of float32 and has 16."""
    return np.lib.stride_tricks.as_strided(np.zeros(16, np.float32), (count,), (4,))


def read_too_far() -> None:
    _C.count_zeros(lying(1000))


def write_too_far() -> None:
    update(Holder(torch.from_numpy(lying(1000))), Holder(torch.ones(1000)))


if __name__ == "__main__":
    assert _C.info()["sanitized"], f"{_C.__file__} is not instrumented"
    {f.__name__: f for f in (everything, read_too_far, write_too_far)}[sys.argv[1]]()
    print("done")
