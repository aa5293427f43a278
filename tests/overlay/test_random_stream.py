"""fuse_conv_and_bn under the overlay leaves torch's random stream where the client's own does, on
each way that a call can take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from conftest import Loader
from test_functions import needs, pair_of_layers
from torch import Tensor, nn
from torch.nn import init

import yolov5_utils
from tests.support import in_threads, takes
from yolov5_utils import _native, overlay, verify
from yolov5_utils.ops import OPERATIONS, fuse_gpu
from yolov5_utils.overlay import random_stream

Pair = tuple[Any, Any]


@pytest.fixture(params=["6.1", "7.0", "u8.3", "u8.4"])
def pair(request: pytest.FixtureRequest, client: Loader, stock: Loader) -> Pair:
    """A release's module with the overlay, and without."""
    needs("fuse")
    overlay.install()
    return client(request.param), stock(request.param)


@pytest.fixture
def modern(client: Loader, stock: Loader) -> Pair:
    needs("fuse")
    overlay.install()
    return client("7.0"), stock("7.0")


@pytest.fixture(autouse=True)
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has fused nothing yet."""
    monkeypatch.setattr(random_stream, "_calibration", random_stream.Calibration())


@pytest.fixture
def constructed(monkeypatch: pytest.MonkeyPatch) -> list[nn.Conv2d]:
    """The convolutions whose numbers were drawn in earnest."""
    seen: list[nn.Conv2d] = []
    construct = random_stream._construct

    def note(fused: nn.Conv2d) -> None:
        seen.append(fused)
        construct(fused)

    monkeypatch.setattr(random_stream, "_construct", note)
    return seen


def layers(count: int = 1) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs of several sizes, with groups, strides and kernels of their own."""
    sizes = (
        {"padding": 1},
        {"groups": 2, "bias": False},
        {"groups": 4, "stride": 2, "padding": 2},
        {"padding": "same", "bias": False},
    )
    made = []
    for i in range(count):
        conv, bn = pair_of_layers(**sizes[i % 4])
        if i % 3 == 2:
            conv, bn = nn.Conv2d(6, 8, (1, 7), bias=False), bn
        made.append((conv.requires_grad_(False), bn.requires_grad_(False)))
    return made


def after(
    fuse: Callable[..., Any],
    pairs: list[Any],
    prepare: Callable[[], Any],
    draws: bool = True,
) -> Tensor:
    """torch's random state once the pairs were fused, from a state that `prepare` made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        prepare()
        start = torch.get_rng_state()
        for conv, bn in pairs:
            fuse(conv, bn)
        state = torch.get_rng_state()
        assert draws != torch.equal(state, start)
        return state


def nothing() -> None:
    """Prepares nothing."""


def check(
    pair: Pair,
    make: Callable[[], list[Any]],
    prepare: Callable[[], Any] = nothing,
    draws: bool = True,
) -> None:
    """Ours and the original leave the same state: another than before, unless nothing draws."""
    ours, theirs = (after(module.fuse_conv_and_bn, make(), prepare, draws) for module in pair)
    assert torch.equal(ours, theirs)


def in_place(pair: Pair) -> bool:
    """Whether this release fuses into the convolution that there is, and so draws nothing."""
    conv, bn = layers()[0]
    return pair[1].fuse_conv_and_bn(conv, bn) is conv


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("count", [1, 2, 24])
def test_the_stream_is_the_stock_one(pair: Pair, mode: Any, count: int) -> None:
    before = OPERATIONS["fuse"].calls["C"]
    with mode():
        check(pair, lambda: layers(count), draws=in_place(pair) is False)
    assert OPERATIONS["fuse"].calls["C"] == before + count


def test_numbers_are_drawn_in_earnest_once_only(modern: Pair, constructed: list[Any]) -> None:
    check(modern, lambda: layers(10))
    assert len(constructed) == 1


def test_from_everywhere_in_a_block(modern: Pair) -> None:
    with torch.no_grad():
        for place in range(0, 1260, 9):
            check(modern, layers, lambda place=place: torch.rand(place))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_normal_sample_that_is_kept_stays(modern: Pair, dtype: torch.dtype) -> None:
    def prepare() -> None:
        torch.randn(1, dtype=dtype)

    check(modern, lambda: layers(3), prepare)
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for module in modern:
            torch.manual_seed(11)
            prepare()
            for conv, bn in layers(3):
                module.fuse_conv_and_bn(conv, bn)
            drawn.append(torch.randn(5, dtype=dtype))
    assert torch.equal(*drawn)


def test_deterministic_algorithms(modern: Pair) -> None:
    torch.use_deterministic_algorithms(True)
    check(modern, lambda: layers(4))


def test_verify_mode_draws_nothing_more(modern: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ON", True)
    with takes("fuse", calls=4):
        check(modern, lambda: layers(4))


def test_backend_torch(modern: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "_USE_C", False)
    check(modern, lambda: layers(4))


@pytest.mark.parametrize("wrong", ["numbers", "convolution", "refused"])
def test_where_the_state_moves_otherwise(
    modern: Pair, monkeypatch: pytest.MonkeyPatch, constructed: list[Any], wrong: str
) -> None:
    """Another torch: every convolution is constructed, and the arithmetic stays in C."""
    skip = _native._C.skip_random

    def other(generator: torch.Generator, draws: int) -> None:
        if wrong == "refused":
            raise _native.Unsupported("another layout")
        of_convolution = draws not in random_stream._TRIED
        skip(generator, draws + (of_convolution if wrong == "convolution" else draws == 40_000))

    monkeypatch.setattr(_native._C, "skip_random", other)
    with takes("fuse", calls=6):
        check(modern, lambda: layers(6))
    assert len(constructed) == 6


def test_a_state_that_is_refused_later(
    modern: Pair, monkeypatch: pytest.MonkeyPatch, constructed: list[Any]
) -> None:
    check(modern, layers)

    def refuse(*_: Any) -> None:
        raise _native.Unsupported("another layout")

    monkeypatch.setattr(_native._C, "skip_random", refuse)
    check(modern, lambda: layers(2))
    assert len(constructed) == 3


def doubtful() -> list[tuple[nn.Module, nn.Module]]:
    """C refuses it: a weight is no number."""
    conv, bn = layers()[0]
    conv.weight[0, 0, 0, 0] = float("nan")
    return [(conv, bn)]


def wanting_gradients() -> list[tuple[nn.Module, nn.Module]]:
    conv, bn = layers()[0]
    conv.weight.requires_grad_()
    return [(conv, bn)]


def in_float64() -> list[tuple[nn.Module, nn.Module]]:
    conv, bn = layers()[0]
    return [(conv.double(), bn.double())]


@pytest.mark.parametrize("make", [doubtful, wanting_gradients, in_float64])
def test_where_torch_fuses(
    modern: Pair, constructed: list[Any], make: Callable[[], list[Any]]
) -> None:
    with takes("fuse", "torch"):
        check(modern, make)
    assert constructed == []


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The way of a GPU without a library, on tensors of the CPU."""
    monkeypatch.setattr(fuse_gpu, "is_on_gpu", lambda conv: True)
    return


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize("make", [layers, doubtful, wanting_gradients])
def test_ways_of_a_gpu(modern: Pair, make: Callable[[], list[Any]]) -> None:
    for _ in range(2):  # when it is tried, and later
        check(modern, make)


def test_on_a_gpu(modern: Pair) -> None:
    """The original constructs its convolution on the CPU also there."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")

    def make() -> list[Any]:
        return [(conv.cuda(), bn.cuda()) for conv, bn in layers(4)]

    check(modern, make)
    check(modern, make)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(nn.Conv2d, "reset_parameters"), (init, "kaiming_uniform_"), (init, "uniform_")],
)
def test_a_replaced_initialisation_is_the_clients(
    modern: Pair, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """Some programs switch it off, to load models sooner."""
    monkeypatch.setattr(owner, name, lambda *_, **__: torch.rand(3))
    with takes("fuse", "torch", 2):
        check(modern, lambda: layers(2))


def test_another_default_device_is_the_clients(
    modern: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_stream, "_default_device", lambda: "cuda")
    with takes("fuse", "torch"):
        check(modern, layers)
    explained = yolov5_utils.explain("fuse_conv_and_bn", *layers()[0])
    assert explained.why.endswith("but this call is torch's: the default device is not the CPU")


@pytest.mark.skipif(not hasattr(torch.device, "__enter__"), reason="this torch has no such mode")
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_default_device_as_a_mode(modern: Pair, device: str) -> None:
    def fuse(module: Any) -> Callable[..., Any]:
        def with_mode(conv: nn.Module, bn: nn.Module) -> None:
            with torch.device(device):
                module.fuse_conv_and_bn(conv, bn)

        return with_mode

    ours, theirs = (after(fuse(m), layers(), nothing, device == "cpu") for m in modern)
    assert torch.equal(ours, theirs)


def test_compiled(modern: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stock_client", modern[1])

    def compiled(module: Any) -> Callable[..., Any]:
        torch._dynamo.reset()

        @torch.compile(backend="eager")
        def fuse(conv: nn.Module, bn: nn.Module) -> Tensor:
            return module.fuse_conv_and_bn(conv, bn).weight

        return fuse

    made = [layers(), layers()]
    with torch.no_grad():
        ours, theirs = (after(compiled(m), p, nothing) for m, p in zip(modern, made, strict=True))
    assert torch.equal(ours, theirs)


def test_errors_are_the_clients(modern: Pair) -> None:
    conv, _ = layers()[0]
    for module in modern:
        with pytest.raises(RuntimeError):
            module.fuse_conv_and_bn(conv, nn.BatchNorm2d(3))
        with pytest.raises(AttributeError):
            module.fuse_conv_and_bn(conv, None)


def test_threads_that_fuse(modern: Pair) -> None:
    """Two at once: right results, and no error."""
    made = layers(4)
    results: list[list[nn.Conv2d]] = [[], []]

    def fuse_often(into: list[nn.Conv2d]) -> None:
        for _ in range(50):
            into.extend(modern[0].fuse_conv_and_bn(conv, bn) for conv, bn in made)

    in_threads(*(partial(fuse_often, into) for into in results))
    expected = [modern[1].fuse_conv_and_bn(conv, bn).weight for conv, bn in made] * 50
    for fused in results:
        assert len(fused) == len(expected)
        assert all(torch.equal(a.weight, b) for a, b in zip(fused, expected, strict=True))
