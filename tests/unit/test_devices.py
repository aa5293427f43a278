"""The hot paths wherever tensors can live: on the CPU, on a GPU through the CUDA library, on a GPU
without it, and on a GPU's stand-in, for which the library's kernels are compiled for the CPU.

Everywhere the result has the bits of the original's operations on the same device, and the test
says which way the call has to take."""

from __future__ import annotations

import copy
import itertools
import random

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C, _native, reference
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops import prune as prune_module
from yolov5_utils.ops import scale_img as scale_img_module
from yolov5_utils.ops.fuse_model import fuse_model
from yolov5_utils.overlay import replacements
from yolov5_utils.overlay.known_callables import SparsityForm
from yolov5_utils.torch_utils import (
    ModelEMA,
    fuse_conv_and_bn,
    prune,
    scale_img,
    sparsity,
    time_synchronized,
)

from .. import older_torch
from ..support import (
    DECAY,
    FLOATING,
    Holder,
    assert_same_bits,
    assert_same_state,
    every_pair_of_types,
    original,
    takes,
    values,
)
from .devices import Device, calls_of
from .ema_models import Net, trained
from .test_scale_img import original as original_scale_img

SIZES = (*range(40), 97, 255, 256, 257, 1000, 4099, 70_001)


def check_ema(
    average: nn.Module, source: nn.Module, device: Device, decay: float = DECAY, way: str = ""
) -> None:
    """One update against the original's loop on the same device."""
    average, source = average.to(device.place), source.to(device.place)
    expected = copy.deepcopy(average)
    original(expected, source, decay)
    ema = ModelEMA(nn.Identity())
    ema.ema, ema.decay = average, lambda _: decay
    with takes("ema", way or device.way):
        ema.update(source)
    assert_same_state(average, expected)


def way_of(device: Device, *dtypes: torch.dtype) -> str:
    """C leaves 16-bit floats to torch before 2.1, which rounds otherwise; "" where C takes all."""
    sixteen_bits = {torch.float16, torch.bfloat16}.intersection(dtypes)
    return "torch" if older_torch.APPLIES and device.way == "C" and sixteen_bits else ""


@every_pair_of_types
def test_ema_dtypes(device: Device, average_dtype: torch.dtype, source_dtype: torch.dtype) -> None:
    averages = [values(size, average_dtype, size) for size in SIZES]
    sources = [values(size, source_dtype, size + 1) for size in SIZES]
    way = way_of(device, average_dtype, source_dtype)
    check_ema(Holder(*averages), Holder(*sources), device, way=way)


@pytest.mark.parametrize("decay", [0.0, 1.0, 0.5, 1e-50, 1e39, float("inf"), float("nan"), -0.5])
def test_ema_decays(device: Device, decay: float) -> None:
    averages = [values(501, dtype, 1) for dtype in FLOATING]
    sources = [values(501, dtype, 2) for dtype in FLOATING]
    check_ema(Holder(*averages), Holder(*sources), device, decay, way_of(device, *FLOATING))


def test_ema_of_a_model_with_every_kind_of_entry(device: Device) -> None:
    check_ema(Net(), trained(Net(1)), device)


@pytest.mark.parametrize("count", [0, 1, 99, 101, 1500])
def test_ema_of_many_tensors(device: Device, count: int) -> None:
    """More than fit a launch's arguments, and none at all."""
    averages = [values(1 + i % 7, torch.float32, i) for i in range(count)]
    sources = [values(1 + i % 7, torch.float32, i + 1) for i in range(count)]
    way = "" if count else "C"  # nothing says that there is a GPU
    check_ema(Holder(*averages), Holder(*sources), device, way=way)


def test_ema_out_of_alignment(device: Device) -> None:
    """Views that start anywhere in their storage."""
    pairs = []
    for dtype, offset in itertools.product(FLOATING, range(9)):
        storage = values(2000, dtype, offset).to(device.place)
        pairs.append((storage[offset : offset + 777], values(777, dtype, 5).to(device.place)))
    averages, sources = (Holder(*tensors) for tensors in zip(*pairs, strict=True))
    check_ema(averages, sources, device, way=way_of(device, *FLOATING))


LAYOUTS = {
    "channels last, both": (torch.channels_last, torch.channels_last, None),
    "channels last, the average": (torch.channels_last, torch.contiguous_format, "torch"),
    "channels last, the model": (torch.contiguous_format, torch.channels_last, "torch"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ema_layouts(device: Device, layout: str) -> None:
    first, second, on_gpu = LAYOUTS[layout]
    average = values(6000, torch.float32, 1).view(10, 20, 5, 6).contiguous(memory_format=first)
    source = values(6000, torch.float32, 2).view(10, 20, 5, 6).contiguous(memory_format=second)
    way = on_gpu if on_gpu and device.way == "CUDA" else ""
    check_ema(Holder(average), Holder(source), device, way=way)


def test_ema_of_tied_tensors(device: Device) -> None:
    """Averaged once per name, one after the other."""
    shared = values(1000, torch.float32, 1).to(device.place)
    average, source = (
        Holder(shared, shared, shared[100:300]),
        Holder(*(values(size, torch.float32, size) for size in (1000, 1000, 200))),
    )
    check_ema(average, source, device, way="torch" if device.way == "CUDA" else "")


def test_ema_tells_autograd(device: Device) -> None:
    average, source = Net().to(device.place), Net(1).to(device.place)
    ema = ModelEMA(average)
    before = [tensor._version for tensor in ema.ema.parameters()]
    ema.update(source)
    assert all(t._version > v for t, v in zip(ema.ema.parameters(), before, strict=True))


def with_zeros(size: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, 6, (size,), generator=generator)
    return torch.tensor([0.0, -0.0, 1.0, float("nan"), 3.0, 1e-30])[picks].to(dtype)


def check_sparsity(model: nn.Module, device: Device, way: str = "") -> None:
    model = model.to(device.place)
    expected = reference.sparsity(model)
    with takes("sparsity", way or device.way):
        found = sparsity(model)
    assert found.device == expected.device
    assert found.shape == expected.shape
    assert_same_bits(found.cpu(), expected.cpu())


def parameters(*tensors: Tensor) -> nn.Module:
    """A module of parameters alone."""
    return nn.ParameterList([nn.Parameter(t, requires_grad=False) for t in tensors])


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_sparsity_dtypes(device: Device, dtype: torch.dtype) -> None:
    check_sparsity(parameters(*(with_zeros(size, dtype, size) for size in SIZES)), device)


def test_sparsity_mixed_and_tied(device: Device) -> None:
    model = Net()
    model.again = model.conv
    model.short = nn.Parameter(with_zeros(99, torch.float16, 1))
    model.strided = nn.Parameter(with_zeros(9900, torch.float32, 1).view(99, 100).t())
    check_sparsity(model, device)


def test_sparsity_in_double(device: Device) -> None:
    model = parameters(*(with_zeros(size, torch.float32, 1) for size in SIZES))
    torch.set_default_dtype(torch.float64)
    check_sparsity(model, device)


@pytest.mark.parametrize("exact", [True, False], ids=("from 6.1", "before"))
def test_the_overlays_sparsity(device: Device, exact: bool) -> None:
    """Both forms that clients' own functions are replaced by."""

    def original_sparsity(model: nn.Module) -> Tensor:
        elements, zeros = (0, 0) if exact else (0.0, 0.0)
        for parameter in model.parameters():
            elements += parameter.numel()
            zeros += (parameter == 0).sum()
        return zeros / elements

    model = parameters(*(with_zeros(size, torch.float32, size) for size in SIZES)).to(device.place)
    replaced = replacements._sparsity(replacements, original_sparsity, SparsityForm(exact=exact))
    with takes("sparsity", device.way):
        found = replaced(model)
    expected = original_sparsity(model)
    assert found.device == expected.device
    assert_same_bits(found.cpu(), expected.cpu())


def test_sparsity_rounds_as_the_original_above_2_to_the_24(device: Device) -> None:
    """The float32 sum of zeros is no longer exact there, and depends on the order."""
    sizes = ((1 << 24) + 1, 3, 5, 7, 1_000_001, 1, 1)
    check_sparsity(parameters(*(torch.zeros(size) for size in sizes)), device)


def pruned_by_sorting(weights: Tensor, count: int) -> Tensor:
    """The `count` first of a stable sort by magnitude times 0, the others times 1."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weights.element_size()]
    keys = weights.flatten().view(integer) & torch.iinfo(integer).max
    mask = torch.ones_like(weights).flatten()
    mask[torch.sort(keys, stable=True).indices[:count]] = 0
    return mask.view(weights.shape) * weights


PRUNED = {
    "random": lambda n, dtype: values(n, dtype, n),
    "once half": lambda n, dtype: (values(n, torch.float32, n) * 0.02).half().to(dtype),
    "equal": lambda n, dtype: torch.ones(n, dtype=dtype),
    "two values": lambda n, dtype: (values(n, torch.float32, n) > 0.2).to(dtype) + 1,
    "zeros of both signs": lambda n, dtype: torch.zeros(n).copysign(torch.randn(n)).to(dtype),
    "infinite": lambda n, dtype: values(n, dtype, n) * float("inf"),
}


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("kind", PRUNED)
def test_prune_selection(device: Device, kind: str, dtype: torch.dtype) -> None:
    if device.way == "torch":
        pytest.skip("without the library the choice among equals is torch's")
    sizes = (1, 2, 33, 1023, 1024, 1025, 5000, 70_001 if device.real else 9_001)
    weights = [PRUNED[kind](size, dtype) for size in sizes]
    for share in (0.0, 0.3, 0.5, 0.999, 1.0):
        counts = [round(share * size) for size in sizes]
        given = [weight.to(device.place) for weight in weights]
        results = [torch.full_like(weight, 7) for weight in given]
        _C.prune(given, results, counts)
        for weight, result, count in zip(weights, results, counts, strict=True):
            assert_same_bits(result.cpu(), pruned_by_sorting(weight, count))


def convolutions(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, 64, 3, bias=False),
        nn.Conv2d(64, 7, 1),
    ).to(dtype)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_prune_models(device: Device, dtype: torch.dtype) -> None:
    """As torch's pruning leaves them, but for equally small weights at the threshold."""
    ours = convolutions(1, dtype).to(device.place)
    theirs, kept = copy.deepcopy(ours), list(ours.parameters())
    with takes("prune", device.way):
        prune_module.prune_layers(ours, 0.3)
    reference.prune_layers(theirs, 0.3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert {id(p) for p in ours.parameters()} == {id(p) for p in kept}
    for (name, got), want in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        if dtype in (torch.float32, torch.float64):  # no two weights are equally small
            assert_same_bits(got.cpu(), want.cpu())
        assert (got == 0).sum() == (want == 0).sum(), name


def test_prune_prints(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    prune(convolutions(2).to(device.place), 0.5)
    assert capsys.readouterr().out.startswith("Pruning model...  0.4")


def check_scale_img(img: Tensor, ratio: float, device: Device, **options: object) -> None:
    img = img.to(device.place)
    expected = original_scale_img(img, ratio, **options)
    with takes("scale_img", device.way):
        found = scale_img(img, ratio, **options)
    assert found.stride() == expected.stride()
    assert_same_bits(found.cpu(), expected.cpu())


IMAGE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("order", (torch.contiguous_format, torch.channels_last), ids=str)
@pytest.mark.parametrize("dtype", IMAGE_DTYPES, ids=str)
def test_scale_img(device: Device, dtype: torch.dtype, order: torch.memory_format) -> None:
    if dtype != torch.float32 and not device.real:
        pytest.skip("the CPU's kernels for 16 bits differ from those of a GPU")
    if (dtype != torch.float32 or older_torch.APPLIES) and device.way == "C":
        device = device._replace(way="torch")
    draw = random.Random(1)
    for seed in range(30):
        channels, batch = draw.choice((1, 3, 3, 3, 4, 16)), draw.choice((1, 2))
        if order is torch.channels_last and channels > 3 and device.place.type == "cpu":
            continue  # torch's own kernel on the CPU
        height, width = draw.randint(70, 300), draw.randint(70, 300)
        generator = torch.Generator().manual_seed(seed)
        img = torch.randn(batch, channels, height, width, generator=generator).to(dtype)
        ratio = draw.choice((0.83, 0.67, 0.5, 1.3, draw.uniform(0.4, 2.0)))
        if not device.real and int(height * ratio) + int(width * ratio) <= 128:
            continue  # a kernel that only the CPU has
        img = img.contiguous(memory_format=order)
        check_scale_img(img, ratio, device, same_shape=draw.random() < 0.3)


def test_scale_img_wants_gradients(device: Device) -> None:
    img = torch.rand(1, 3, 64, 64, device=device.place, requires_grad=True)
    with takes("scale_img", "torch"):
        scale_img(img, 0.5).sum().backward()
    assert img.grad is not None


def test_times_after_the_work(device: Device) -> None:
    if device.place.type == "cuda":
        a = torch.rand(4096, 4096, device=device.place)
        for _ in range(20):
            a = a @ a
        done = torch.cuda.Event()
        done.record()
        time_synchronized()
        assert done.query()
    first = time_synchronized()
    assert 0 <= time_synchronized() - first < 5


def pair(
    channels: tuple[int, int], dtype: torch.dtype, seed: int, bias: bool = False, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and a batch norm of random values, without gradients."""
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(*channels, 3, padding=1, bias=bias, groups=groups)
    bn = nn.BatchNorm2d(channels[1], eps=1e-3)
    for tensor in [*conv.parameters(), *bn.parameters(), bn.running_mean, bn.running_var]:
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
    bn.running_var.abs_()
    conv.weight.data[0, 0, 0, :2] = torch.tensor([0.0, -0.0])
    return conv.to(dtype).requires_grad_(False), bn.to(dtype).requires_grad_(False)


def assert_same_fused(found: nn.Conv2d, expected: nn.Conv2d) -> None:
    assert type(found) is nn.Conv2d
    for name, value in expected.state_dict().items():
        got = found.state_dict()[name]
        assert got.device == value.device
        assert got.stride() == value.stride()
        assert_same_bits(got.cpu(), value.cpu())
    for name in ("stride", "padding", "dilation", "groups", "kernel_size", "padding_mode"):
        assert getattr(found, name) == getattr(expected, name)


def check_fuse(conv: nn.Conv2d, bn: nn.BatchNorm2d, way: str) -> None:
    """The reference's bits, on this way."""
    with takes("fuse", way):
        found = fuse_conv_and_bn(conv, bn)
    assert_same_fused(found, reference.fuse_conv_and_bn(conv, bn))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_fuse(device: Device, dtype: torch.dtype) -> None:
    for seed, (channels, bias, groups) in enumerate(
        itertools.product([(3, 16), (16, 7), (64, 32)], (False, True), (1,))
    ):
        conv, bn = pair(channels, dtype, seed, bias, groups)
        conv, bn = conv.to(device.place), bn.to(device.place)
        random_state = torch.get_rng_state()
        with takes("fuse", device.way):
            found = fuse_conv_and_bn(conv, bn)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert_same_fused(found, reference.fuse_conv_and_bn(conv, bn))


def test_fuse_weights_that_are_no_numbers(device: Device) -> None:
    """The original's matrix product spreads them over the column."""
    for where, value in itertools.product(("weight", "bias"), (float("inf"), float("nan"))):
        conv, bn = pair((3, 8), torch.float32, 1, bias=True)
        getattr(conv, where).data.view(-1)[3] = value
        conv, bn = conv.to(device.place), bn.to(device.place)
        assert_same_fused(fuse_conv_and_bn(conv, bn), reference.fuse_conv_and_bn(conv, bn))
    conv, bn = pair((3, 8), torch.float32, 1)
    bn.weight.data[2] = float("inf")
    conv, bn = conv.to(device.place), bn.to(device.place)
    assert_same_fused(fuse_conv_and_bn(conv, bn), reference.fuse_conv_and_bn(conv, bn))


class Block(nn.Module):
    """A convolution as YOLOv5 has them."""

    def __init__(self, channels: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.conv, self.bn = pair(channels, torch.float32, seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_fuse_model(device: Device) -> None:
    model = nn.Sequential(*(Block((8, 8), seed) for seed in range(9))).to(device.place)
    expected = [reference.fuse_conv_and_bn(block.conv, block.bn) for block in model]
    with takes("fuse", device.way, len(model)):
        fuse_model(model)
    for block, conv in zip(model, expected, strict=True):
        assert not hasattr(block, "bn")
        assert_same_fused(block.conv, conv)


@pytest.fixture
def untried(device: Device, monkeypatch: pytest.MonkeyPatch) -> scale_img_module.GpuCalibration:
    """A calibration that knows nothing, for devices with the library."""
    if device.way != "CUDA":
        pytest.skip("no variants of the CUDA library here")
    calibration = scale_img_module.GpuCalibration()
    monkeypatch.setattr(scale_img_module, "_gpu_calibration", calibration)
    return calibration


def test_variants_are_tried_in_little_memory(
    device: Device, untried: scale_img_module.GpuCalibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, probe = [], scale_img_module._probe

    def recorded(*arguments: int) -> Tensor:
        tried.append(probe(*arguments))
        return tried[-1]

    monkeypatch.setattr(scale_img_module, "_probe", recorded)
    for channels in (3, 50):
        check_scale_img(torch.rand(1, channels, 99, 130), 0.83, device)
    assert {image.shape[1] for image in tried} == {3, 50}
    assert max(image.numel() for image in tried) <= 3 * 1201 * 907
    assert min(untried._found.values()) >= 0


@pytest.mark.parametrize(
    "problem", (scale_img_module._OUT_OF_MEMORY, MemoryError), ids=("GPU's", "ours")
)
def test_without_memory_to_try_variants(
    device: Device,
    untried: scale_img_module.GpuCalibration,
    monkeypatch: pytest.MonkeyPatch,
    problem: type[Exception],
) -> None:
    """The call itself may still have room; and the next one tries again."""
    image = torch.rand(1, 3, 99, 130, device=device.place)
    expected = original_scale_img(image, 0.83)

    def full(*arguments: object) -> bool:
        raise problem("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(scale_img_module, "_agrees", full)
        with takes("scale_img", "torch"):
            assert_same_bits(scale_img(image, 0.83).cpu(), expected.cpu())
    assert untried._found == {}
    check_scale_img(image, 0.83, device)


@pytest.mark.parametrize("library", [True, False], ids=("library", "no library"))
def test_each_pair_of_a_model_is_counted_once(
    device: Device, library: bool, request: pytest.FixtureRequest
) -> None:
    """However many are fused by one call, and also where a batch was refused first."""
    request.addfinalizer(_native.find_cuda_library)
    model, path = nn.Sequential(*(Block((8, 8), seed) for seed in range(9))), "fuse"
    model = model.to(device.place)
    if not library:
        _C.use_cuda_library(None)
    reasons = sum(OPERATIONS[path].reasons.values())
    way = "torch" if device.way == "CUDA" and not library else device.way
    with takes(path, way, 9):
        fuse_model(model)
    noted = sum(OPERATIONS[path].reasons.values()) - reasons
    assert noted == (9 if way == "torch" else 0)
    one_row = nn.Sequential(Block((8, 8), 1), Block((8, 1), 2)).to(device.place)
    before = calls_of(path)
    fuse_model(one_row)  # on a GPU the original's product has its own bits for the second
    assert sum(calls_of(path).values()) == sum(before.values()) + 2
