"""fuse_conv_and_bn against the original's formula in plain torch, bit by bit with the sign of zero:
every level, 1 and 2 threads, all dtypes, odd modules, and what must raise or run as torch."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from yolov5_utils import _C
from yolov5_utils.ops import fuse as fuse_file
from yolov5_utils.torch_utils import fuse_conv_and_bn

from ..support import FLOATING, assert_same_bits, takes

ALL_LEVELS = _C.info()["levels_found"]


def original(conv: Any, bn: Any) -> nn.Conv2d:
    """YOLOv5's formula, written down once more: a diagonal matrix times the weight."""
    made = nn.Conv2d(
        *(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding),
        *(conv.dilation, conv.groups, True, conv.padding_mode),
    )
    made = made.requires_grad_(False).to(conv.weight.device)
    diagonal = torch.diag(bn.weight.div(torch.sqrt(bn.running_var + bn.eps)))
    weight = conv.weight.clone().view(conv.out_channels, -1)
    made.weight.copy_((diagonal @ weight).view(made.weight.size()))
    bias = torch.zeros(conv.weight.size(0)) if conv.bias is None else conv.bias
    moved = bn.bias - bn.weight.mul(bn.running_mean).div(torch.sqrt(bn.running_var + bn.eps))
    made.bias.copy_((diagonal @ bias.reshape(-1, 1)).view(-1) + moved)
    return made


def pair(
    outputs: int = 8,
    inputs: int = 4,
    kernel: Any = 3,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    bias: bool = True,
    **options: Any,
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and a batch norm with values of a trained one's magnitude, frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        conv = nn.Conv2d(inputs, outputs, kernel, bias=bias, **options)
        bn = nn.BatchNorm2d(outputs, eps=1e-3)
        with torch.no_grad():
            bn.weight.normal_(1, 0.5)
            bn.bias.normal_()
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.1, 3)
    return conv.to(dtype).requires_grad_(False), bn.to(dtype).requires_grad_(False)


def snapshot(*modules: nn.Module) -> list[bytes]:
    tensors = [t for module in modules for t in module.state_dict().values()]
    return [t.contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors]


def fused_in_c(conv: Any, bn: Any) -> nn.Conv2d:
    before = snapshot(conv, bn)
    with takes("fuse"):
        fused = fuse_conv_and_bn(conv, bn)
    assert snapshot(conv, bn) == before
    return fused


def check_in_torch(conv: Any, bn: Any) -> None:
    """C leaves the pair to torch, which has the original's bits."""
    with takes("fuse", "torch"):
        assert_same(fuse_conv_and_bn(conv, bn), original(conv, bn))


def assert_same(ours: nn.Conv2d, theirs: nn.Conv2d) -> None:
    assert type(ours) is nn.Conv2d
    for name in ("weight", "bias"):
        mine, wanted = getattr(ours, name), getattr(theirs, name)
        assert type(mine) is nn.Parameter
        assert mine.stride() == wanted.stride()
        assert (mine.requires_grad, mine.is_leaf) == (wanted.requires_grad, wanted.is_leaf)
        assert_same_bits(mine.detach(), wanted.detach())


def check(conv: Any, bn: Any) -> None:
    assert_same(fused_in_c(conv, bn), original(conv, bn))


SHAPES = [
    *((1, 1, 1), (1, 1, 3), (1, 7, 1), (2, 3, 6), (3, 1, 1), (5, 2, (1, 3)), (16, 16, 1)),
    *((17, 9, 3), (31, 16, 1), (63, 8, (2, 1)), (64, 32, 3), (65, 15, 1), (130, 5, 5)),
    (257, 33, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_shapes(level: str, threads: int, pool: None, shape: Any, bias: bool) -> None:
    check(*pair(*shape, bias=bias))


def test_large_weights_stream(level: str, threads: int) -> None:
    """Above the size from which results go past the caches, aligned rows and others."""
    for inputs, kernel in ((256, 3), (127, 3), (1030, 1), (57, 5)):
        check(*pair(300, inputs, kernel))


def test_hundreds_of_random_shapes(level: str) -> None:
    random = np.random.default_rng(0)
    for seed in range(400):
        groups = int(random.choice([1, 1, 1, 2, 4]))
        options = {
            "groups": groups,
            "stride": tuple(map(int, random.integers(1, 4, 2))),
            "padding": tuple(map(int, random.integers(0, 4, 2))),
            "dilation": tuple(map(int, random.integers(1, 3, 2))),
        }
        outputs, inputs = (groups * int(random.integers(1, 24)) for _ in range(2))
        kernel = tuple(map(int, random.integers(1, 5, 2)))
        bias = bool(random.integers(2))
        conv, bn = pair(outputs, inputs, kernel, seed=seed, bias=bias, **options)
        bn.eps = float(10.0 ** random.integers(-8, 2))
        fused = fused_in_c(conv, bn)
        assert_same(fused, original(conv, bn))
        for name, value in options.items():
            assert getattr(fused, name) == value


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_types(level: str, dtype: torch.dtype) -> None:
    for seed in range(20):
        conv, bn = pair(16, 3, 3, dtype, seed=seed)
        conv.weight.copy_((conv.weight.double().sign() * 0.01 + conv.weight.double()).to(dtype))
        check(conv, bn)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_a_missing_bias_is_a_zero_of_the_weights_type(level: str, dtype: torch.dtype) -> None:
    conv, bn = pair(16, 3, 1, dtype, bias=False)
    conv.weight.copy_((conv.weight.double().sign() * 0.01 + conv.weight.double()).to(dtype))
    fused = fused_in_c(conv, bn)
    conv.bias = nn.Parameter(torch.zeros(16, dtype=dtype), requires_grad=False)
    assert_same(fused, original(conv, bn))


@pytest.mark.parametrize("dtype", FLOATING[:2], ids=str)
def test_default_dtype_float64(level: str, dtype: torch.dtype) -> None:
    conv, bn = pair(5, 3, 3, dtype)
    torch.set_default_dtype(torch.float64)
    check(conv, bn)


def test_against_numpy(level: str) -> None:
    """The formula in NumPy's float32, with the installed torch's square root."""
    conv, bn = pair(37, 11, 3)
    root = torch.sqrt(bn.running_var + bn.eps).numpy()
    gamma, beta, mean = (t.numpy() for t in (bn.weight, bn.bias, bn.running_mean))
    scale = gamma / root
    weight = scale[:, None, None, None] * conv.weight.numpy() + np.float32(0)
    bias = scale * conv.bias.numpy() + (beta - gamma * mean / root)
    fused = fused_in_c(conv, bn)
    assert_same_bits(fused.weight.detach(), torch.from_numpy(weight))
    assert_same_bits(fused.bias.detach(), torch.from_numpy(bias))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_signs_of_zero(level: str, dtype: torch.dtype) -> None:
    for outputs in (1, 2, 16, 64):
        conv, bn = pair(outputs, 3, 3, dtype)
        conv.weight[..., 1:] = -0.0
        conv.weight[..., 0].abs_().neg_()
        bn.weight[::2] = 0.0
        bn.weight[1::4] = -0.0
        conv.bias.fill_(-0.0)
        bn.bias.fill_(-0.0)
        bn.running_mean.fill_(0.0)
        fused = fused_in_c(conv, bn)
        assert not torch.signbit(fused.weight[fused.weight == 0]).any()
        assert_same(fused, original(conv, bn))


NAN = float("nan")
STRANGE: dict[str, Callable[[Any, Any], Any]] = {
    "variance is negative": lambda conv, bn: bn.running_var.fill_(-1),
    "variance is NaN": lambda conv, bn: bn.running_var[2].fill_(NAN),
    "variance and eps are zero": lambda conv, bn: (bn.running_var.zero_(), setattr(bn, "eps", 0.0)),
    "eps is infinite": lambda conv, bn: setattr(bn, "eps", float("inf")),
    "eps is negative": lambda conv, bn: setattr(bn, "eps", -0.05),
    "scale is infinite": lambda conv, bn: bn.weight[3].fill_(float("inf")),
    "scale is NaN": lambda conv, bn: bn.weight[0].fill_(NAN),
    "mean is infinite": lambda conv, bn: bn.running_mean[0].fill_(float("inf")),
    "subnormal weights": lambda conv, bn: conv.weight.mul_(1e-38),
    "products overflow": lambda conv, bn: (conv.weight.mul_(1e38), bn.weight.mul_(1e3)),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_numbers(level: str, case: str) -> None:
    conv, bn = pair()
    STRANGE[case](conv, bn)
    check(conv, bn)


DOUBTFUL: dict[str, Callable[[Any, Any], Any]] = {
    "a weight is infinite": lambda conv, bn: conv.weight[3, 0, 1, 1].fill_(float("inf")),
    "a weight is NaN": lambda conv, bn: conv.weight[7, 3, 2, 2].fill_(NAN),
    "a bias is infinite": lambda conv, bn: conv.bias[0].fill_(float("-inf")),
    "products vanish": lambda conv, bn: (conv.weight.mul_(1e-30), bn.weight.mul_(1e-30)),
    "a product of a bias vanishes": lambda conv, bn: (
        conv.bias.fill_(-1e-30),
        bn.weight.mul_(1e-30),
    ),
}


@pytest.mark.parametrize("case", DOUBTFUL)
@pytest.mark.parametrize("outputs", [8, 600], ids=["small", "streamed"])
def test_doubtful_numbers_run_in_torch(level: str, case: str, outputs: int) -> None:
    conv, bn = pair(outputs, 8 if outputs == 8 else 100)
    DOUBTFUL[case](conv, bn)
    check_in_torch(conv, bn)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_doubtful_numbers_of_other_types(level: str, dtype: torch.dtype) -> None:
    conv, bn = pair(8, 3, 3, dtype)
    conv.weight[0, 0, 0, 0] = NAN
    check_in_torch(conv, bn)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_properties(data: st.DataObject) -> None:
    """Any finite or infinite numbers at all: the original's bits, whoever computes them."""
    outputs, inputs, kernel = (data.draw(st.integers(1, 5)) for _ in range(3))
    conv, bn = pair(outputs, inputs, kernel, bias=data.draw(st.booleans()))
    bn.eps = data.draw(st.floats(0, 1e30))
    numbers = st.floats(width=32, allow_nan=False)
    for tensor in (*conv.state_dict().values(), bn.weight, bn.bias, bn.running_mean):
        drawn = data.draw(st.lists(numbers, min_size=1, max_size=6))
        repeated = torch.tensor(drawn).repeat(tensor.numel() // len(drawn) + 1)
        tensor.copy_(repeated[: tensor.numel()].view(tensor.shape))
    wanted = original(conv, bn)
    for name in ALL_LEVELS:
        _C.configure(level=name)
        assert_same(fuse_conv_and_bn(conv, bn), wanted)


@pytest.mark.parametrize("kernel", [1, 3, (1, 4)], ids=str)
def test_channels_last(level: str, kernel: Any) -> None:
    """The original takes 1×1 only; the result is contiguous."""
    conv, bn = pair(12, 5, kernel)
    wanted = original(conv, bn)
    conv = conv.to(memory_format=torch.channels_last)
    assert_same(fused_in_c(conv, bn), wanted)


def test_other_orders_in_memory(level: str) -> None:
    conv, bn = pair(6, 5, 3)
    wanted = original(conv, bn)
    base = torch.zeros(6, 10, 3, 6)
    conv.weight.data = base[:, ::2, :, ::2].copy_(conv.weight)
    assert_same(fused_in_c(conv, bn), wanted)
    conv.weight.data = conv.weight.data.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    assert_same(fused_in_c(conv, bn), wanted)


def test_vectors_with_gaps_run_in_torch() -> None:
    conv, bn = pair()
    bn.running_mean = torch.stack([bn.running_mean, bn.running_mean], 1)[:, 0]
    check_in_torch(conv, bn)


class OwnNorm(nn.BatchNorm2d):
    pass


class OwnConv(nn.Conv2d):
    extra = 5


def test_sync_batch_norm_and_subclasses(level: str) -> None:
    conv, bn = pair()
    own = OwnConv(4, 8, 3).requires_grad_(False)
    own.load_state_dict(conv.state_dict())
    for norm in (nn.SyncBatchNorm(8, eps=1e-3), OwnNorm(8, eps=1e-3)):
        norm.load_state_dict(bn.state_dict())
        check(own, norm.requires_grad_(False))


def test_prune_leaves_an_attribute(level: str) -> None:
    """A plain attribute hides a parameter, as while a pruning mask is in use."""
    conv, bn = pair()
    torch_prune.l1_unstructured(conv, "weight", 0.3)
    conv.weight = conv.weight.detach()
    check(conv, bn)


@pytest.mark.parametrize(("bias", "looks"), [(True, 2), (False, 4)])
def test_a_weight_that_is_computed_is_computed_as_often_as_in_yolov5(
    bias: bool, looks: int
) -> None:
    """A power iteration, say, takes a step at each look; the second one is for the result."""
    seen = []

    class Times(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            seen.append(weight)
            return len(seen) * weight

    conv, bn = pair(bias=bias)
    torch.nn.utils.parametrize.register_parametrization(conv, "weight", Times())
    twice, _ = pair(bias=bias)
    twice.weight.data *= 2
    seen.clear()
    with torch.no_grad():
        assert_same(fuse_conv_and_bn(conv, bn), original(twice, bn))
    assert len(seen) == looks


def test_subclasses_that_compute_nothing_are_fused_in_c() -> None:
    class Named(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    conv, bn = pair()
    conv.__class__ = Named
    check(conv, nn.SyncBatchNorm(conv.out_channels).eval().requires_grad_(False))
    check(conv, bn)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_string_padding(padding: str) -> None:
    conv, bn = pair(4, 3, (3, 2), padding=padding, dilation=(2, 1))
    fused, wanted = fused_in_c(conv, bn), original(conv, bn)
    assert_same(fused, wanted)
    compare_members(fused, wanted)


def compare_members(fused: nn.Conv2d, wanted: nn.Conv2d) -> None:
    """The same __dict__, in the same order, with containers of its own."""
    assert list(fused.__dict__) == list(wanted.__dict__)
    for name, value in wanted.__dict__.items():
        mine = fused.__dict__[name]
        assert type(mine) is type(value), name
        if name == "_parameters":
            assert list(mine) == list(value)
        else:
            assert mine == value, name
            assert mine is not value or not isinstance(mine, (dict, set, list)), name


def test_the_module_is_as_constructed() -> None:
    conv, bn = pair(6, 4, (3, 1), stride=(2, 1), padding=(1, 2), dilation=2, groups=2)
    conv.train(False)
    first, second = fused_in_c(conv, bn), fused_in_c(conv, bn)
    compare_members(first, original(conv, bn))
    for name, value in first.__dict__.items():
        shared = value is second.__dict__[name]
        assert not shared or type(value) in (int, bool, str, tuple, type(None)), name
    first.register_forward_hook(lambda *_: None)
    assert not second._forward_hooks
    assert repr(first) == repr(original(conv, bn))


def test_the_module_works() -> None:
    conv, bn = pair(6, 4, 3, padding=1)
    fused, wanted = fused_in_c(conv, bn).eval(), original(conv, bn).eval()
    x = torch.randn(2, 4, 9, 9)
    y = wanted(x)
    torch.testing.assert_close(y, bn.eval()(conv(x)), rtol=1e-4, atol=1e-5)
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    copies = [
        *(fused, copy.deepcopy(fused), copy.copy(fused), pickle.loads(pickle.dumps(fused))),
        *(torch.load(buffer, weights_only=False), torch.jit.script(fused)),
        *(torch.jit.trace(fused, x), nn.Sequential(fused)),
    ]
    for module in copies:
        assert torch.equal(module(x), y)
    again = nn.Conv2d(4, 6, 3, padding=1)
    again.load_state_dict(fused.state_dict())
    assert torch.equal(again(x), y)
    fused.requires_grad_(True)
    fused(x).sum().backward()
    assert fused.weight.grad is not None
    assert fused.double().half().float().weight.dtype == torch.float32
    fused.weight.data.resize_(0)


def test_no_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    fuse_file.convolution_prototype.cache_clear()
    fused_in_c(*pair())
    fused_in_c(*pair(padding="same"))
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients() -> None:
    """As the original: parameters that are no leaves, gradients to convolution and batch norm."""
    results = []
    for fuse in (fuse_conv_and_bn, original):
        conv, bn = pair()
        for tensor in (conv.weight, conv.bias, bn.weight, bn.bias):
            tensor.requires_grad_(True)
        fused = fuse(conv, bn)
        (fused.weight.square().sum() + fused.bias.square().sum()).backward()
        results.append((fused, [t.grad for t in (conv.weight, conv.bias, bn.weight, bn.bias)]))
    assert_same(results[0][0], results[1][0])
    assert results[0][0].weight.requires_grad
    for mine, wanted in zip(results[0][1], results[1][1], strict=True):
        assert_same_bits(mine, wanted)


@pytest.mark.parametrize("name", ["conv.bias", "bn.weight", "bn.bias"])
def test_one_gradient_is_enough(name: str) -> None:
    conv, bn = pair()
    owner, attribute = name.split(".")
    getattr({"conv": conv, "bn": bn}[owner], attribute).requires_grad_(True)
    assert_same(fuse_conv_and_bn(conv, bn), original(conv, bn))
    with torch.no_grad():
        fused = fused_in_c(conv, bn)
    assert not fused.weight.requires_grad


def test_inference_mode() -> None:
    conv, bn = pair()
    with torch.inference_mode():
        fused = fused_in_c(conv, bn)
        wanted = original(conv, bn)
    assert fused.weight.is_inference() == wanted.weight.is_inference()
    assert fused.bias.is_inference() == wanted.bias.is_inference()
    assert torch.equal(fused.weight, wanted.weight)


def test_no_memory_is_shared() -> None:
    conv, bn = pair()
    fused = fused_in_c(conv, bn)
    tensors = [*conv.state_dict().values(), *bn.state_dict().values(), fused.weight, fused.bias]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)


def test_concatenated_square_roots() -> None:
    """A vector's square roots depend neither on what stands around it nor on being in place."""
    generator = torch.Generator().manual_seed(0)
    sizes = [int(n) for n in torch.randint(1, 1300, (200,), generator=generator)]
    variances = [torch.rand(n, generator=generator) + 1e-3 for n in sizes]
    together = torch.cat(variances).sqrt_()
    for variance, root in zip(variances, together.split(sizes), strict=True):
        assert_same_bits(variance.sqrt(), root)
        assert_same_bits(variance.clone().sqrt_(), root)
