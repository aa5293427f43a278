"""The few torch operations for GPUs without the CUDA library, here on tensors of the CPU: the
reference's bits, and the reference itself wherever that is not sure."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from yolov5_utils import batched, reference

from .ema_models import Net, trained
from .test_ema import FLOATING, Holder, assert_same_bits, values

SIZES = (0, 1, 7, 64, 1000)
DECAY = 0.9987


def pairs_of(average: nn.Module, source: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return reference.floating_pairs(average, source)


def check(average: nn.Module, source: nn.Module, decay: float = DECAY) -> None:
    """Both ways on copies of independent pairs."""
    expected = copy.deepcopy(average)
    reference.ema_update(expected, source, decay)
    with torch.no_grad():
        pairs = pairs_of(average, source)
        assert batched.are_independent(pairs, decay)
        batched.update_pairs(pairs, decay)
    for key, value in expected.state_dict().items():
        assert_same_bits(average.state_dict()[key], value)


@pytest.mark.parametrize(
    ("average_dtype", "source_dtype"), list(itertools.product(FLOATING, FLOATING)), ids=str
)
def test_dtypes(average_dtype: torch.dtype, source_dtype: torch.dtype) -> None:
    check(
        Holder(*(values(size, average_dtype, size) for size in SIZES)),
        Holder(*(values(size, source_dtype, size + 1) for size in SIZES)),
    )


@pytest.mark.parametrize("decay", [0.0, 1.0, 1, 0.5, 1e-50, float("inf"), float("nan"), -0.5])
def test_decays(decay: float) -> None:
    for dtype in FLOATING:
        check(Holder(values(501, dtype, 1)), Holder(values(501, dtype, 2)), decay)


def test_every_kind_of_entry_and_layout() -> None:
    check(Net(), trained(Net(1)))
    block = values(6000, torch.float32, 1).view(10, 20, 5, 6)
    other = values(6000, torch.float32, 2).view(10, 20, 5, 6)
    check(Holder(block.clone(), block[:, ::2].clone()), Holder(other, other[:, ::2]))
    check(Holder(block.contiguous(memory_format=torch.channels_last)), Holder(other))


def test_turns_keep_memory_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "_TURN_BYTES", 4000)
    sizes, taken = (1001, 5, 5, 300, 700, 2000, 1), []
    multiply = torch._foreach_mul
    monkeypatch.setattr(
        torch, "_foreach_mul", lambda *a: taken.append([t.numel() for t in a[0]]) or multiply(*a)
    )
    averages = [values(size, torch.float32, size) for size in sizes]
    check(Holder(*averages), Holder(*(values(size, torch.float32, 3) for size in sizes)))
    assert taken == [[1001], [5, 5, 300, 700], [2000], [1]]


ODD: dict[str, Callable[[], tuple[list[Tensor], list[Tensor]]]] = {}


def odd(case: Callable[[], tuple[list[Tensor], list[Tensor]]]) -> Callable[..., object]:
    ODD[case.__name__] = case
    return case


@odd
def tied() -> tuple[list[Tensor], list[Tensor]]:
    shared = torch.rand(10)
    return [shared, shared], [torch.rand(10), torch.rand(10)]


@odd
def overlapping() -> tuple[list[Tensor], list[Tensor]]:
    shared = torch.rand(10)
    return [shared[:6], shared[5:]], [torch.rand(6), torch.rand(5)]


@odd
def average_of_itself() -> tuple[list[Tensor], list[Tensor]]:
    shared = torch.rand(10)
    return [shared], [shared]


@odd
def average_inside_a_source() -> tuple[list[Tensor], list[Tensor]]:
    shared = torch.rand(20)
    return [torch.rand(20), shared[4:6]], [shared, torch.rand(2)]


@odd
def another_shape() -> tuple[list[Tensor], list[Tensor]]:
    return [torch.rand(3, 4)], [torch.rand(4)]


@odd
def expanded() -> tuple[list[Tensor], list[Tensor]]:
    return [torch.rand(4).expand(3, 4)], [torch.rand(3, 4)]


@odd
def subclass() -> tuple[list[Tensor], list[Tensor]]:
    return [torch.rand(3)], [torch.rand(3).as_subclass(type("Mine", (Tensor,), {}))]


@odd
def not_dense() -> tuple[list[Tensor], list[Tensor]]:
    return [torch.rand(3, 4)], [torch.rand(3, 4).to_sparse()]


@pytest.mark.parametrize("case", ODD)
def test_the_reference_runs_where_the_order_may_show(case: str) -> None:
    averages, sources = ODD[case]()
    pairs = list(zip(averages, sources, strict=True))
    assert not batched.are_independent(pairs, DECAY)


@pytest.mark.parametrize("decay", [1e39, -1e39, 10**40, 3.5e38])
def test_scalars_beyond_float32_are_for_the_reference(decay: float) -> None:
    pairs = [(torch.rand(3), torch.rand(3))]
    assert not batched.are_independent(pairs, decay)
    assert batched.are_independent(pairs, 3.4e38)


def test_disjoint_parts_of_one_storage_are_independent() -> None:
    storage = torch.rand(100)
    pairs = [(storage[i : i + 10], storage[50 + i : 60 + i]) for i in range(0, 50, 10)]
    assert batched.are_independent(pairs, DECAY)
    read_twice = torch.rand(10)
    assert batched.are_independent([(torch.rand(10), read_twice) for _ in range(3)], DECAY)


class Watch(TorchFunctionMode):
    """Notes the operations' names."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


def test_a_mode_sees_the_originals_operations() -> None:
    average, source = Net(), Net(1)
    with Watch() as watch:
        batched.ema_update(average, source, DECAY)
    assert not any(name.startswith("_foreach") for name in watch.seen)
    assert {"mul_", "add_"} <= {name.strip("_") + "_" for name in watch.seen} | set(watch.seen)


def test_ema_of_the_cpu_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "update_pairs", None)
    average, expected = Net(), Net()
    batched.ema_update(average, trained(Net(1)), DECAY)
    reference.ema_update(expected, trained(Net(1)), DECAY)
    for key, value in expected.state_dict().items():
        assert_same_bits(average.state_dict()[key], value)
    with pytest.raises(KeyError, match="anchors"):
        batched.ema_update(average, nn.Identity(), DECAY)


def parameters_of(*tensors: Tensor) -> list[nn.Parameter]:
    return [nn.Parameter(tensor, requires_grad=False) for tensor in tensors]


def zeros(size: int, dtype: torch.dtype) -> Tensor:
    return (
        torch.tensor([0.0, -0.0, 1.0, float("nan"), 1e-30]).repeat(size // 5 + 1)[:size].to(dtype)
    )


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
def test_shares_of_zeros(monkeypatch: pytest.MonkeyPatch, default: torch.dtype) -> None:
    monkeypatch.setattr(batched, "_TURN_BYTES", 3000)
    model = nn.ParameterList(
        parameters_of(*(zeros(size, dtype) for size in (0, 1, 7, 1000) for dtype in FLOATING))
    )
    model.append(nn.Parameter(zeros(600, torch.float32).view(20, 30).t()))
    torch.set_default_dtype(default)
    try:
        found = batched.count_share(list(model.parameters()))
        expected = reference.sparsity(model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_bits(found, expected)


def test_what_is_counted_exactly() -> None:
    small, large = (
        parameters_of(torch.zeros(10)),
        parameters_of(torch.zeros(1 << 24), torch.zeros(1)),
    )
    assert batched.is_exact(small)
    assert not batched.is_exact(large)
    torch.set_default_dtype(torch.float64)
    try:
        assert batched.is_exact(large)
    finally:
        torch.set_default_dtype(torch.float32)
    with Watch():
        assert not batched.is_exact(small)


def test_sparsity_of_the_cpu_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "count_share", None)
    assert_same_bits(batched.sparsity(Net()), reference.sparsity(Net()))
    with pytest.raises(ZeroDivisionError):
        batched.sparsity(nn.Identity())


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_fuse(dtype: torch.dtype) -> None:
    """Pairs in one call, with what the matrix product would make other bits of."""
    generator = torch.Generator().manual_seed(1)
    pairs, doubted = [], []
    for value, where in ((1.0, 0), (float("inf"), 0), (float("nan"), 1), (1e-30, 0), (-0.0, 0)):
        conv, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        for tensor in [*conv.parameters(), *norm.parameters(), norm.running_mean]:
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
        norm.weight.data[0] = 1e-30 if value == 1e-30 else 0.5
        list(conv.parameters())[where].data.view(-1)[0] = value
        conv, norm = conv.to(dtype).requires_grad_(False), norm.to(dtype).requires_grad_(False)
        fused = nn.Conv2d(3, 5, 3).requires_grad_(False)
        inputs = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        pairs.append((conv.weight, conv.bias, *inputs, fused.weight, fused.bias, norm.eps))
        vanishes = value == 1e-30 and float(conv.weight[0, 0, 0, 0]) != 0 != float(norm.weight[0])
        vanishes = vanishes and float(conv.weight[0, 0, 0, 0] * norm.weight[0]) == 0
        doubted.append(int(value in (float("inf"),) or value != value or vanishes))
        if not doubted[-1] and dtype == torch.float64:  # MKL's float32 root is not NumPy's
            expected = reference.fuse_conv_and_bn(conv, norm)
            pairs[-1] = (*pairs[-1], expected)
    flags = torch.full((len(pairs),), 7, dtype=torch.int32)
    assert batched.fuse_pairs([pair[:9] for pair in pairs], flags)
    assert flags.tolist() == doubted
    for pair in pairs:
        if len(pair) == 10:
            assert_same_bits(pair[6].detach(), pair[9].weight.detach())
            assert_same_bits(pair[7].detach(), pair[9].bias.detach())


def test_fuse_refuses_what_does_not_fit() -> None:
    conv, other = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 1)
    ones = [torch.ones(5) for _ in range(4)]
    pair = (conv.weight, None, *ones, other.weight, other.bias, 1e-3)
    before = other.weight.clone()
    assert not batched.fuse_pairs([pair], torch.zeros(1, dtype=torch.int32))
    assert torch.equal(other.weight, before)
