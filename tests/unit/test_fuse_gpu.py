"""What fuse on a GPU does beside the library: modules made like the prototype, and pairs that it
leaves to the original's operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from yolov5_utils.ops import fuse as ops_fuse

from ..support import FLOATING, assert_raise_alike
from .devices import Device
from .test_devices import check_fuse, pair

CONVOLUTIONS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "plain": ((3, 8, 3), {}),
    "every size": ((4, 6, (1, 3)), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
    "groups": ((8, 4, 1), {"groups": 4, "bias": False}),
    "named padding": ((3, 8, 3), {"padding": "same"}),
}


def described(module: nn.Conv2d) -> dict[str, Any]:
    """Every member of a module in order, parameters by what can be seen of them."""
    members = dict(module.__dict__)
    members["_parameters"] = {
        name: (type(p), p.shape, p.dtype, p.device, p.stride(), p.requires_grad, p.grad)
        for name, p in module._parameters.items()
    }
    return members


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_made_as_by_the_constructor(case: str) -> None:
    sizes, options = CONVOLUTIONS[case]
    conv, place = nn.Conv2d(*sizes, **options), torch.device("cpu")
    made = ops_fuse._make(conv, place)
    constructed = ops_fuse._construct(conv, place).requires_grad_(False)
    found, expected = described(made), described(constructed)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert type(found[name]) is type(value), name
        assert found[name] == value, name
        is_container = isinstance(value, (dict, set, list))
        assert not is_container or made.__dict__[name] is not constructed.__dict__[name]


def test_the_prototype_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the constructor, where the sizes are as it leaves them."""
    conv, place = nn.Conv2d(4, 6, 3), torch.device("cpu")
    ops_fuse.convolution_prototype()
    calls: list[nn.Conv2d] = []
    construct = ops_fuse._construct
    monkeypatch.setattr(
        ops_fuse, "_construct", lambda c, *rest: calls.append(c) or construct(c, *rest)
    )
    ops_fuse._make(conv, place)
    assert calls == []
    conv.groups = True
    ops_fuse._make(conv, place)
    assert calls == [conv]


@pytest.mark.parametrize("change", [{"groups": 3}, {"in_channels": -4}, {"kernel_size": "3"}])
def test_sizes_that_raise(change: dict[str, Any]) -> None:
    """As the constructor does."""
    conv, place = nn.Conv2d(4, 6, 3), torch.device("cpu")
    for name, value in change.items():
        setattr(conv, name, value)
    assert_raise_alike(
        lambda: ops_fuse._construct(conv, place), lambda: ops_fuse._make(conv, place)
    )


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_one_output_channel(device: Device, dtype: torch.dtype) -> None:
    """Its matrix product has one term and adds no zeros, by which a −0 may stay."""
    way = "torch" if device.way == "CUDA" else device.way
    for bias, channels in ((False, 1), (True, 3), (True, 64)):
        conv, bn = pair((channels, 1), dtype, channels, bias)
        if bias:
            conv.bias.data.fill_(-0.0)
        conv, bn = conv.to(device.place), bn.to(device.place)
        check_fuse(conv, bn, way)
