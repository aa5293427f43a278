"""The replaced functions other than the average, against the client's own: bits, texts, errors."""

from __future__ import annotations

import inspect
import logging
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from conftest import Loader, forget_clients
from synthetic import YOLOV5
from test_patches import model_of, same_bits
from torch import nn

from tests.support import assert_raise_alike, takes
from yolov5_utils import overlay
from yolov5_utils.ops import OPERATIONS

LOGGING = ("6.2", "7.0")


def needs(operation: str) -> None:
    reason = OPERATIONS[operation].refusal()
    if reason is not None:
        pytest.skip(f"{operation}: {reason}")


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.5, 1.0, 7])
def test_pruned_weights_are_the_stock_ones(yolov5: tuple[Any, Any], amount: float) -> None:
    ours, theirs = model_of(), model_of()
    with takes("prune"):
        for module, model in zip(yolov5, (ours, theirs), strict=True):
            assert module.prune(model, amount) is None
    assert same_bits(ours.state_dict(), theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in theirs.named_parameters()
    ]


def test_of_equally_small_weights_the_same_go(yolov5: tuple[Any, Any]) -> None:
    """Weights that were once float16 have many equals; which of them go is torch's choice."""
    ours = nn.Sequential(nn.Conv2d(8, 64, 3), nn.Conv2d(64, 8, 1)).half().float()
    with torch.no_grad():
        ours[0].weight.mul_(100).round_()
    theirs = deepcopy(ours)
    yolov5[0].prune(ours, 0.4)
    yolov5[1].prune(theirs, 0.4)
    assert same_bits(ours.state_dict(), theirs.state_dict())


def test_texts_of_prune_go_where_the_release_sends_them(
    client: Loader,
    stock: Loader,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "client")
    overlay.install()
    for release in YOLOV5:
        said = []
        for module in (client(release), stock(release)):
            caplog.clear()
            capsys.readouterr()
            module.prune(model_of(), 0.3)
            logged = [(line.name, line.levelno, line.getMessage()) for line in caplog.records]
            logged = [line for line in logged if "replaced" not in line[2]]  # what the overlay says
            said.append((capsys.readouterr().out, logged))
        assert said[0] == said[1]
        assert bool(said[0][1]) == (release in LOGGING)
        assert "global sparsity" in str(said[0])
        overlay.uninstall()
        forget_clients()
        overlay.install()


def test_prune_asks_the_clients_own_sparsity(
    patched: Loader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = patched("6.1")
    monkeypatch.setattr(module, "sparsity", lambda model: 0.125)
    module.prune(model_of())
    assert capsys.readouterr().out == "Pruning model...  0.125 global sparsity\n"


@pytest.mark.parametrize("amount", [-0.1, 1.1, 10**9, "0.3", None])
def test_amounts_that_torch_refuses(yolov5: tuple[Any, Any], amount: Any) -> None:
    assert_raise_alike(
        *(partial(module.prune, model_of(), amount) for module in yolov5),
        kind=(TypeError, ValueError),
    )


def test_prune_where_c_cannot(yolov5: tuple[Any, Any]) -> None:
    """A weight with a mask already: torch's own pruning."""
    models = [model_of(), model_of()]
    with takes("prune", "torch"):
        for module, model in zip(yolov5, models, strict=True):
            nn.utils.prune.l1_unstructured(model[0], "weight", amount=0.1)
            module.prune(model, 0.5)
    assert same_bits(models[0].state_dict(), models[1].state_dict())


SCALES: tuple[dict[str, Any], ...] = (
    {"ratio": 0.83, "gs": 32},
    {"ratio": 0.67, "same_shape": True},
    {"ratio": 1.3, "same_shape": True},
    {"ratio": 0.5, "gs": 16},
)


@pytest.mark.parametrize("keywords", SCALES)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_scaled_images_are_the_stock_ones(
    pair: tuple[Any, Any], keywords: dict[str, Any], order: torch.memory_format
) -> None:
    image = torch.rand(2, 3, 97, 128).contiguous(memory_format=order)
    with takes("scale_img"):
        ours, theirs = (module.scale_img(image, **keywords) for module in pair)
    assert same_bits({"": ours}, {"": theirs})
    assert ours.stride() == theirs.stride()


def test_image_of_its_own_size_is_returned_itself(pair: tuple[Any, Any]) -> None:
    for image in (torch.rand(1, 3, 8, 8), "no image at all"):
        assert pair[0].scale_img(image) is image
        assert pair[0].scale_img(image, 1, gs=None) is image


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_scale_img_where_c_cannot(pair: tuple[Any, Any], dtype: torch.dtype) -> None:
    image = torch.rand(1, 3, 40, 48).to(dtype)
    with takes("scale_img", "torch"):
        ours, theirs = (module.scale_img(image, 0.83) for module in pair)
    assert same_bits({"": ours}, {"": theirs})


@pytest.mark.parametrize("arguments", [(torch.rand(3, 8, 8), 0.5), (torch.rand(1, 3, 8, 8), -1.0)])
def test_errors_of_scale_img(pair: tuple[Any, Any], arguments: tuple[Any, ...]) -> None:
    assert_raise_alike(
        *(partial(module.scale_img, *arguments) for module in pair),
        kind=(ValueError, RuntimeError),
    )


def test_gradient_of_scale_img(pair: tuple[Any, Any]) -> None:
    images = [torch.full((1, 1, 8, 8), 0.5, requires_grad=True) for _ in pair]
    for module, image in zip(pair, images, strict=True):
        module.scale_img(image, 0.5, gs=4).sum().backward()
    assert torch.equal(images[0].grad, images[1].grad)


def test_scale_img_when_traced_and_compiled(patched: Loader, stock: Loader) -> None:
    module, image = patched(), torch.rand(1, 3, 64, 64)
    expected = stock("7.0").scale_img(image, 0.83)

    def scale(image: torch.Tensor) -> torch.Tensor:
        return module.scale_img(image, 0.83)

    traced = torch.jit.trace(scale, image)
    assert "upsample_bilinear2d" in str(traced.graph)
    assert torch.equal(traced(image), expected)
    compiled = torch.compile(scale, backend="eager", fullgraph=True)
    assert torch.equal(compiled(image), expected)


def pair_of_layers(dtype: torch.dtype = torch.float32, **keywords: Any) -> tuple[nn.Module, ...]:
    torch.manual_seed(2)
    conv, bn = nn.Conv2d(4, 8, 3, **keywords).eval(), nn.BatchNorm2d(8).eval()
    for value in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
        nn.init.uniform_(value, 0.1, 2.0)
    return conv.to(dtype), bn.to(dtype)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("bias", [False, True])
def test_fused_layers_are_the_stock_ones(pair: tuple[Any, Any], mode: Any, bias: bool) -> None:
    needs("fuse")
    layers = [pair_of_layers(bias=bias, padding=1, stride=2, groups=2) for _ in pair]
    before = OPERATIONS["fuse"].calls["C"]
    with mode():
        results = [module.fuse_conv_and_bn(*two) for module, two in zip(pair, layers, strict=True)]
    ours, theirs = results
    in_place = theirs is layers[1][0]
    assert (ours is layers[0][0]) == in_place
    assert type(ours) is nn.Conv2d
    assert same_bits(ours.state_dict(), theirs.state_dict())
    assert str(ours) == str(theirs)
    assert list(vars(ours)) == list(vars(theirs))
    for name, parameter in theirs.named_parameters():
        other = ours.get_parameter(name)
        assert type(other) is type(parameter)
        assert other.requires_grad == parameter.requires_grad, name
        assert other.is_leaf == parameter.is_leaf
        assert other.is_inference() == parameter.is_inference()
    if mode is not torch.enable_grad or in_place:
        assert OPERATIONS["fuse"].calls["C"] == before + 1


OPTIONS: dict[str, dict[str, Any]] = {
    "dilation": {"dilation": 2},
    **{mode: {"padding": 1, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_as_the_release_has_them(pair: tuple[Any, Any], option: str) -> None:
    """The originals that make a new convolution make one that pads with zeros."""
    needs("fuse")
    with torch.no_grad():
        ours, theirs = (
            module.fuse_conv_and_bn(*pair_of_layers(**OPTIONS[option])) for module in pair
        )
    assert (ours.dilation, ours.padding_mode) == (theirs.dilation, theirs.padding_mode)
    assert list(vars(ours)) == list(vars(theirs))
    assert same_bits(ours.state_dict(), theirs.state_dict())


def test_errors_of_fuse(pair: tuple[Any, Any]) -> None:
    needs("fuse")
    layers = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8, affine=False)
    assert_raise_alike(
        *(partial(module.fuse_conv_and_bn, *deepcopy(layers)) for module in pair),
        kind=AttributeError,
    )


def test_time_is_asked_as_the_client_asks(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("time_synchronized")
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen.append("available") or True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seen.append("synchronize"))
    monkeypatch.setattr("time.time", lambda: seen.append("time") or 12.5)
    for module in pair:
        clock = getattr(module, "time_sync", None) or module.time_synchronized
        assert clock() == 12.5
    assert seen == ["available", "synchronize", "time"] * 2


def test_everything_replaced_looks_like_the_original(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    [record] = overlay.status()
    for name in record.replaced:
        mine, original = ours, theirs
        for part in name.split("."):
            mine, original = getattr(mine, part), getattr(original, part)
        assert type(mine) is type(original)
        for attribute in ("__name__", "__qualname__", "__doc__", "__defaults__", "__kwdefaults__"):
            assert getattr(mine, attribute) == getattr(original, attribute), (name, attribute)
        assert mine.__module__ == ours.__name__
        assert mine.__annotations__ == original.__annotations__
        assert inspect.signature(mine) == inspect.signature(original)
        if not hasattr(original, "__wrapped__"):  # else it is the client's decorator around it
            parameters = mine.__code__.co_varnames[: mine.__code__.co_argcount]
            assert list(parameters) == list(inspect.signature(original).parameters)
