"""Zero counts and sparsity against torch's own comparison, for every dtype and level."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C, reference
from yolov5_utils.torch_utils import sparsity

from ..support import FLOATING, takes

SIZES = (*range(98), 255, 256, 257, 1025, 70_001)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
COMPLEX = (torch.complex64, torch.complex128)
NEWER = tuple(getattr(torch, n) for n in ("uint16", "uint32", "uint64") if hasattr(torch, n))


def sprinkled(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """About a third zeros, half of those negative where the type has a sign of zero."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, 6, (count,), generator=generator)
    table = torch.tensor([0.0, -0.0, 1.0, -1.0, 3.0, 0.0], dtype=torch.float64)
    values = table[picks]
    if dtype.is_complex:
        other = table[torch.randint(0, 6, (count,), generator=generator)]
        return torch.complex(values, other).to(dtype)
    if dtype.is_floating_point and count:
        values[picks == 4] = float("nan")
    values = values.abs() if dtype in (torch.uint8, *NEWER) else values
    return values.to(dtype)


@pytest.mark.parametrize("dtype", [*FLOATING, *INTEGERS, *COMPLEX, torch.bool, *NEWER], ids=str)
def test_count_zeros(level: str, dtype: torch.dtype) -> None:
    for count in SIZES:
        tensor = sprinkled(count, dtype, count)
        known = tensor.to(torch.float64) if dtype in NEWER else tensor  # which torch compares
        assert _C.count_zeros(tensor) == int((known == 0).sum())


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_every_lane_can_fill(level: str, bits: int) -> None:
    """All zeros, so that a lane that overflows or is emptied too late shows."""
    dtype = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
    for count in (255 * 256 - 1, 255 * 256 + 1, 300_000, 8_500_000 if bits == 16 else 70_000):
        assert _C.count_zeros(torch.zeros(count, dtype=dtype)) == count


@pytest.mark.skipif(_C.info()["sanitized"], reason="what is sanitized has not its own speed")
def test_counts_in_vectors(level: str) -> None:
    """No level counts one element after another, which takes ten times as long as torch's sum."""

    def best_s(function: Callable[[Tensor], object], tensor: Tensor) -> float:
        return min(timeit.repeat(lambda: function(tensor), number=1, repeat=300))

    cached, one = torch.rand(65_536), torch.rand(1)
    assert best_s(_C.count_zeros, cached) < 4 * best_s(torch.sum, cached) + best_s(
        _C.count_zeros, one
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_value(level: str, dtype: torch.dtype) -> None:
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    assert _C.count_zeros(patterns) == 2 == int((patterns == 0).sum())


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
)
def test_every_float8_value(level: str, name: str) -> None:
    if not hasattr(torch, name):
        pytest.skip(f"this torch has no {name}")
    patterns = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(getattr(torch, name))
    assert _C.count_zeros(patterns) == int((patterns.float() == 0).sum())


def test_subnormals_are_no_zeros(level: str) -> None:
    tensor = torch.tensor([1e-45, -1e-45, 1e-40, 0.0, -0.0, float("nan"), float("inf")])
    assert _C.count_zeros(tensor) == 2
    assert _C.count_zeros(torch.tensor([5e-324, -5e-324, 0.0], dtype=torch.float64)) == 1


VIEWS = {
    "transposed": lambda t: t.t(),
    "every_second": lambda t: t[:, ::2],
    "rows": lambda t: t[1::3],
    "inner_block": lambda t: t[3:9, 5:17],
    "expanded": lambda t: t[:1].expand(50, -1),
    "diagonal": lambda t: t.diagonal(),
    "one": lambda t: t[2, 3],
    "none": lambda t: t[:0],
    "unaligned": lambda t: t.flatten()[1:],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex128], ids=str)
def test_views(level: str, view: str, dtype: torch.dtype) -> None:
    tensor = VIEWS[view](sprinkled(37 * 41, dtype, 5).view(37, 41))
    assert _C.count_zeros(tensor) == int((tensor == 0).sum())


def test_arrays(level: str) -> None:
    """Any DLPack producer of the CPU: here NumPy."""
    array = np.array([[0.0, -0.0, np.nan], [1.0, 0.0, 2.0]])
    assert _C.count_zeros(array) == 3
    assert _C.count_zeros(array.T) == 3
    assert _C.count_zeros(array[::-1, ::-1]) == 3
    assert _C.count_zeros(array[:, ::2].astype(np.float32)) == 1


@pytest.mark.parametrize("given", [None, 3, "text", [0.0], object()])
def test_not_a_tensor(given: object) -> None:
    with pytest.raises(TypeError, match=r"tensor|__dlpack__"):
        _C.count_zeros(given)


def small_model() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand(parameter.shape, generator=generator) > 0.4)
    return model


def check(model: nn.Module, ran_in_c: bool = True) -> Tensor:
    """Bits, dtype and shape of the reference; and that the way expected was taken."""
    with takes("sparsity", "C" if ran_in_c else "torch"):
        actual = sparsity(model)
    expected = reference.sparsity(model)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.requires_grad == expected.requires_grad
    assert torch.equal(actual, expected) or (actual.isnan() and expected.isnan())
    return actual


@pytest.fixture(params=(torch.float32, torch.float64), ids=str)
def default_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.set_default_dtype(request.param)
    return request.param


def test_model(level: str, threads: int, pool: None, default_dtype: torch.dtype) -> None:
    assert check(small_model()).dtype == default_dtype
    check(small_model().half())
    check(small_model().to(memory_format=torch.channels_last))


def test_counts_add_up_in_the_default_dtype() -> None:
    """YOLOv5 5.x adds counts as float32: above 2**24 they round, after every parameter."""
    model = nn.Module()
    for i, zeros in enumerate((2**24 + 1, 1, 3, 2**23 + 1)):
        model.register_parameter(f"p{i}", nn.Parameter(torch.zeros(zeros, dtype=torch.int8), False))
    check(model)
    assert _C.count_module_zeros(model)[2] == 2**24 + 2**23 + 6


def test_shared_parameters_count_once() -> None:
    shared = nn.Linear(4, 4)
    model = nn.ModuleList([shared, shared, nn.Linear(4, 4, bias=False)])
    model[2].weight = shared.weight
    check(model)
    assert _C.count_module_zeros(model)[:2] == (2, 20)


def test_buffers_do_not_count() -> None:
    assert _C.count_module_zeros(nn.BatchNorm2d(8))[:2] == (2, 16)


def test_other_parameter_types() -> None:
    model = small_model()
    model.register_parameter("none", None)
    model.double()
    check(model)
    strided = nn.Module()
    strided.w = nn.Parameter(torch.zeros(4, 6)[:, ::2])
    check(strided, ran_in_c=False)


def test_empty_parameters() -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.empty(0))
    assert check(model).isnan()


def test_no_parameters() -> None:
    with pytest.raises(ZeroDivisionError, match="float division by zero"):
        sparsity(nn.ReLU())


def test_overridden_parameters_are_respected() -> None:
    class Only(nn.Sequential):
        def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
            return iter([next(super().parameters())])

    check(Only(nn.Linear(3, 3), nn.Linear(3, 3)), ran_in_c=False)


def test_flushed_subnormals_are_torch_business() -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([1e-40, 0.0, 1.0]))
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    check(model, ran_in_c=False)


def test_other_default_dtypes_are_torch_business() -> None:
    torch.set_default_dtype(torch.bfloat16)
    check(small_model(), ran_in_c=False)
