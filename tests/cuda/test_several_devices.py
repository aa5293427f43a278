"""Where tensors live: several devices, other kinds of devices, tensors that move or change while
Python code runs in the middle of a call, and sizes that the library does not take."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from yolov5_utils import _C
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import scale_img

from ..support import takes
from .stand_in import CPU, CUDA, Facts, never_called
from .test_loader import Faked, model, pair_to_fuse


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


class Single(nn.Module):
    """A module of one parameter."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape), requires_grad=False)


@pytest.mark.parametrize("elsewhere", [(CPU, 0), (CUDA, 1)], ids=("to the CPU", "to cuda:1"))
def test_tensors_that_move_while_memory_is_taken(faked: Faked, elsewhere: tuple[int, int]) -> None:
    """torch's allocator runs Python code, and other threads with it."""
    stand_in, record = faked()
    moving, weight = Single(2, 2, 1, 1), torch.ones(2, 2, 1, 1)
    pruned = torch.empty_like(weight)
    assert _C.cuda_info(1)["problem"] is None  # it runs there, too

    def allocate(size: int, device: int) -> torch.Tensor:
        stand_in.move(next(tensor), device_type=elsewhere[0], index=elsewhere[1])
        return Facts.memory(size, device)

    _C.register_torch(Facts(allocate))
    tensor = iter((moving.weight, weight))
    for call in (
        lambda: _C.count_module_zeros(moving),
        lambda: _C.prune([weight], [pruned], [1]),
    ):
        with (
            never_called(record),
            pytest.raises(_C.Unsupported, match="moved to another device meanwhile"),
        ):
            call()
        stand_in.move()


def test_memory_that_is_elsewhere(faked: Faked) -> None:
    """What torch gave must lie where the tensors do."""
    stand_in, record = faked()
    weight = torch.ones(2, 2, 1, 1)
    pruned = torch.empty_like(weight)

    def allocate(size: int, device: int) -> torch.Tensor:
        memory = Facts.memory(size, device)
        stand_in.move(memory, index=1)
        return memory

    _C.register_torch(Facts(allocate))
    for call in (lambda: _C.count_module_zeros(model()), lambda: _C.prune([weight], [pruned], [1])):
        with never_called(record), pytest.raises(_C.Unsupported, match="allowed is one device"):
            call()


def test_weights_that_grow_while_memory_is_taken(faked: Faked) -> None:
    _, record = faked("FAKE_PRUNE_BYTES=layers[0].numel")
    weight, more = torch.ones(2, 2, 1, 1), torch.ones(9, 9, 1, 1)

    def allocate(size: int, device: int) -> torch.Tensor:
        weight.data, result.data = more, torch.empty_like(more)
        return Facts.memory(size, device)

    result = torch.empty_like(weight)
    _C.register_torch(Facts(allocate))
    words = "replaced by a tensor of another kind meanwhile"
    with never_called(record), pytest.raises(_C.Unsupported, match=words):
        _C.prune([weight], [result], [1])


@pytest.mark.parametrize("what", ("shared", "moved"))
def test_averages_that_change_while_they_are_announced(faked: Faked, what: str) -> None:
    """torch before 2.1 is told of the writing by several calls, between which others may run."""
    (stand_in, record), facts = faked(), Facts()
    average, source = Single(5), Single(5)

    def detach(tensor: torch.Tensor) -> torch.Tensor:
        if what == "shared":
            average.weight.data = source.weight.data
        else:
            stand_in.move(average.weight, source.weight, index=1)
        return tensor.detach()

    facts.increment_version = None
    facts.version_methods = (detach, *facts.version_methods[1:])
    _C.register_torch(facts)
    assert _C.cuda_info(1)["problem"] is None  # it runs there, too
    words = (
        "shares memory with the model" if what == "shared" else "moved to another device meanwhile"
    )
    with never_called(record), pytest.raises(_C.Unsupported, match=words):
        _C.ema_update(average, source, 0.5)


def test_tensors_on_several_devices(faked: Faked) -> None:
    (stand_in, record), average, source = faked(), model(), model(1)
    pair, flags = pair_to_fuse(), torch.zeros(1, dtype=torch.int32)
    image, weights = torch.ones(1, 1, 4, 4), [torch.ones(2, 2, 1, 1) for _ in range(2)]
    output, zeros = torch.empty_like(image), torch.ones(3, dtype=torch.int64)
    total = torch.ones(())
    for moved, call in (
        (average[0].bias, lambda: _C.ema_update(average, source, 0.5)),
        (source[0].bias, lambda: _C.ema_update(average, source, 0.5)),
        (source[2].bias, lambda: _C.count_module_zeros(source)),
        (weights[1], lambda: _C.prune(weights, None, [1, 1])),
        (pair[3], lambda: _C.fuse_on_gpu([pair], flags)),
        (flags, lambda: _C.fuse_on_gpu([pair], flags)),
        (output, lambda: _C.scale_img(image, output, (2, 2), 9)),
        (total, lambda: _C.sum_zeros(zeros, total)),
    ):
        for index, words in ((1, "cuda:1"), (0, "cpu:0")):
            stand_in.move(moved, device_type=CUDA if index else CPU, index=index)
            text = f"on {words}, .*on cuda:0; allowed is one"
            with never_called(record), pytest.raises(_C.Unsupported, match=text):
                call()


# DLPack's numbers of devices that this package has no kernels for.
FOREIGN = {"Metal": 8, "ROCm": 10, "oneAPI": 14}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_kinds_of_devices_are_torchs(faked: Faked, kind: str) -> None:
    stand_in, record = faked("FAKE_FOREIGN")
    weight, image, average = torch.ones(2, 2, 1, 1), torch.ones(1, 1, 4, 4), Single(3)
    for moved, call in (
        (weight, lambda: _C.prune([weight], None, [1])),
        (image, lambda: _C.scale_img(image)),
        (average.weight, lambda: _C.ema_update(average, Single(3), 0.5)),
        (average.weight, lambda: _C.count_module_zeros(average)),
    ):
        stand_in.move(moved, device_type=FOREIGN[kind], index=0)
        with pytest.raises(_C.Unsupported, match=f"device type {FOREIGN[kind]}, allowed are CPU"):
            call()
    assert record.calls == 0


def test_deterministic_algorithms_are_torchs(faked: Faked) -> None:
    _, record = faked()
    image, path = torch.rand(1, 3, 64, 96), OPERATIONS["scale_img"]
    torch.use_deterministic_algorithms(True)
    with never_called(record):
        scale_img(image, 0.83)
    assert any("deterministic algorithms are on" in reason for reason in path.reasons)


def test_images_with_too_long_sides_are_torchs(faked: Faked) -> None:
    """Longer than float32 counts; torch resizes them, so the call must come there."""
    _, record = faked()
    limit, small, calls = 1 << 22, torch.zeros(1, 1, 2, 2), record.calls
    for shape in ((1, 1, 2, limit + 1), (1, 1, limit + 1, 2), (1, limit + 1, 1, 2)):
        with pytest.raises(_C.Unsupported, match=r"more than 2\^22 channels, rows or columns"):
            _C.scale_img(torch.zeros(math.prod(shape)).as_strided(shape, strides_of(shape)))
    for size in ((2, limit + 1), (limit + 1, 2)):
        with pytest.raises(_C.Unsupported, match=r"more than 2\^22 rows or columns of the result"):
            _C.scale_img(small, torch.empty(1, 1, 2, 2), size, 0)
    image = torch.zeros(1, 1, 2, limit + 2)
    with takes("scale_img", "torch"):
        assert scale_img(image, 0.5, same_shape=True).shape[3] == limit + 2
    assert record.calls == calls


def test_storages_resized_to_nothing(faked: Faked) -> None:
    faked()
    storage = torch.ones(64)
    gone = storage[8:12].view(2, 2, 1, 1)
    storage.untyped_storage().resize_(0)
    with pytest.raises(_C.Unsupported, match="its storage was resized to 0 bytes"):
        _C.prune([gone], None, [1])
