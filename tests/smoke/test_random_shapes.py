"""Every hot path on whatever torch is installed, in a minute: random shapes bit for bit, on one
thread and two, by both ways to a tensor's memory; the commands; and a client under the overlay."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from yolov5_utils import reference, torch_utils

from ..support import assert_same_bits, assert_same_state, client_text, original, python, takes

Rounds = Callable[[int], Iterable[int]]
every_way = pytest.mark.usefixtures("way_to_memory", "threads", "pool")


def draw_layers(draw: random.Random) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution of random shape and its batch norm, with statistics as after some training."""
    torch.manual_seed(draw.getrandbits(32))
    groups = draw.choice((1, 1, 2))
    inputs, outputs = (groups * draw.randint(1, 32) for _ in range(2))
    sides = (draw.randint(1, 6), draw.randint(1, 6))
    conv = nn.Conv2d(inputs, outputs, sides, groups=groups, bias=draw.random() < 0.5)
    bn = nn.BatchNorm2d(outputs)
    for values in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
        values.copy_(torch.rand(outputs) + 0.1)
    return conv, bn


def draw_model(draw: random.Random) -> nn.Sequential:
    """Layers that have nothing to do with each other, and one with elements for several threads."""
    layers = [layer for _ in range(draw.randint(1, 4)) for layer in draw_layers(draw)]
    return nn.Sequential(*layers, nn.Conv2d(3 * draw.randint(20, 30), 99, 3))


@every_way
def test_ema(rounds: Rounds) -> None:
    for number in rounds(6):
        draw = random.Random(number)
        average = torch_utils.ModelEMA(draw_model(draw), updates=draw.randint(0, 5000))
        model, expected = draw_model(random.Random(number)), deepcopy(average.ema)
        for values in model.parameters():
            values.data += torch.randn(values.shape)
        original(expected, model, average.decay(average.updates + 1))
        with takes("ema"):
            average.update(model)
        assert_same_state(average.ema, expected)


@every_way
def test_fuse(rounds: Rounds) -> None:
    for number in rounds(12):
        conv, bn = draw_layers(random.Random(number))
        with torch.no_grad():
            expected = reference.fuse_conv_and_bn(conv, bn)
            with takes("fuse"):
                fused = torch_utils.fuse_conv_and_bn(conv, bn)
        assert_same_state(fused, expected)


@every_way
def test_sparsity(rounds: Rounds) -> None:
    for number in rounds(6):
        model = draw_model(random.Random(number))
        for values in model.parameters():
            values.data *= torch.rand(values.shape) < 0.5
        expected = reference.sparsity(model)
        with takes("sparsity"):
            found = torch_utils.sparsity(model)
        assert_same_bits(found, expected)


@every_way
@pytest.mark.parametrize("half_once", [False, True], ids=["float32", "once float16"])
def test_prune(rounds: Rounds, half_once: bool) -> None:
    """Once float16, weights have many equals, of which torch chooses."""
    for number in rounds(6):
        draw = random.Random(number)
        model = draw_model(draw)
        if half_once:
            model = model.half().float()
        expected, amount = deepcopy(model), draw.choice((0.0, 0.3, 0.5, 0.97, 1.0))
        for conv in expected:
            if isinstance(conv, nn.Conv2d):
                torch_prune.l1_unstructured(conv, "weight", amount)
                torch_prune.remove(conv, "weight")
        torch_utils.prune(model, amount, ties="torch")
        assert_same_state(model, expected)


@every_way
def test_scale_img(rounds: Rounds) -> None:
    for number in rounds(24):
        draw = random.Random(number)
        shape = (draw.randint(1, 2), draw.randint(1, 64), *(draw.randint(1, 150) for _ in "hw"))
        torch.manual_seed(number)
        order = draw.choice((torch.contiguous_format, torch.channels_last))
        image = torch.randn(shape).contiguous(memory_format=order)
        # Sizes of the result from one pixel on.
        ratio = max(draw.choice((0.5, 0.67, 0.83, 1.0, 1.3)), 1 / min(shape[2:]))
        call: tuple[Any, ...] = (image, ratio, draw.random() < 0.3, draw.choice((1, 32)))
        assert_same_bits(torch_utils.scale_img(*call), reference.scale_img(*call))


@pytest.mark.usefixtures("way_to_memory")
def test_time_synchronized() -> None:
    with takes("time_synchronized"):
        first = torch_utils.time_synchronized()
    assert first <= torch_utils.time_synchronized()


def test_info() -> None:
    facts = json.loads(python("-m", "yolov5_utils", "info", "--json").stdout)
    assert facts["torch"] == torch.__version__
    ways = {name: path["way"] for name, path in facts["hot_paths"].items()}
    assert set(ways.values()) <= {"C", "torch"}
    assert [ways[name] for name in ("ema", "fuse", "sparsity", "time_synchronized")] == ["C"] * 4


def test_selftest() -> None:
    done = python("-m", "yolov5_utils", "selftest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all equal" in done.stdout


# Prints digests of all that the client computes, and on the error output who computed.
CLIENT = """
import hashlib, sys
import torch
from torch import nn
from utils import torch_utils as client

def digest(*tensors):
    for tensor in tensors:
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        print(hashlib.sha256(bytes(data.tolist())).hexdigest())

torch.manual_seed(0)
conv, bn = nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40).eval()
model = nn.Sequential(conv, bn)
average = client.ModelEMA(model)
conv.weight.data += 1
average.update(model)
digest(*average.ema.state_dict().values())
with torch.no_grad():
    digest(*client.fuse_conv_and_bn(conv, bn).state_dict().values())
digest(client.scale_img(torch.rand(1, 3, 64, 96), 0.83))
client.prune(model, 0.3)
digest(*model.state_dict().values())
if "yolov5_utils" in sys.modules:
    print(sys.modules["yolov5_utils"].calls(), file=sys.stderr)
"""


def test_a_client(tmp_path: Path) -> None:
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "torch_utils.py").write_text(client_text())
    (tmp_path / "train.py").write_text(CLIENT)
    stock = python("train.py", folder=tmp_path)
    ours = python("-m", "yolov5_utils", "train.py", folder=tmp_path)
    assert stock.stdout.count("\n") > 10, stock.stderr
    assert ours.stdout == stock.stdout, ours.stderr
    assert "'ema': {'C': 1," in ours.stderr
