"""The scalars of the hot paths, drawn at random: decays, shares, the zero that pruned weights are
multiplied by; in every dtype, also where a tensor has one element, which torch may take for another
scalar. (eps: test_fuse_types.py. The padding of images: test_devices.py.)"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import reference
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.torch_utils import sparsity

from ..support import FLOATING, Holder, assert_same_bits, every_pair_of_types, values
from .test_ema import check

SHAPES = ((), (1,), (1, 1), (2,), (7,), (8,), (9,), (31,), (33,), (3, 5), (257,))


def drawn_decay(random: np.random.Generator) -> float:
    """YOLOv5's ramp, any share, powers of two and their neighbours, the ends."""
    return float(
        random.choice(
            [
                0.9999 * (1 - math.exp(-float(random.integers(1, 100_000)) / 2000)),
                random.random(),
                1 - 10 ** -random.uniform(0, 12),
                10 ** -random.uniform(0, 45),
                np.nextafter(2.0 ** -random.integers(0, 30), random.integers(2)),
                random.normal() * 1e3,
            ]
        )
    )


@every_pair_of_types
def test_decays(level: str, average_dtype: torch.dtype, source_dtype: torch.dtype) -> None:
    random = np.random.default_rng(8)
    for i in range(25):
        averages, sources = (
            [values(math.prod(shape), dtype, seed).view(shape) for shape in SHAPES]
            for dtype, seed in ((average_dtype, 2 * i), (source_dtype, 2 * i + 1))
        )
        check(Holder(*averages), Holder(*sources), drawn_decay(random))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_zeros_of_pruned_weights(level: str, dtype: torch.dtype) -> None:
    random = np.random.default_rng(9)
    for seed in range(25):
        shape = tuple(map(int, random.integers(1, 9, 4)))
        model = nn.Sequential(nn.Conv2d(1, 1, 1))
        weight = values(math.prod(shape), dtype, seed).view(shape)
        model[0].weight = nn.Parameter(weight, requires_grad=False)
        amount, expected = float(random.choice([random.random(), 0, 1])), copy.deepcopy(model)
        reference.prune_layers(expected, amount)
        prune_layers(model, amount, ties="torch")
        assert_same_bits(model[0].weight.detach(), expected[0].weight.detach())


def share_of(parameters: list[Tensor], default: torch.dtype) -> tuple[Any, Any]:
    model = nn.ParameterList([nn.Parameter(p, requires_grad=False) for p in parameters])
    torch.set_default_dtype(default)
    shares = sparsity(model), reference.sparsity(model)
    torch.set_default_dtype(torch.float32)  # in which the next parameters are drawn
    return shares


@pytest.mark.parametrize("default", FLOATING, ids=str)
def test_shares(level: str, default: torch.dtype) -> None:
    """Also of more elements and zeros than the default dtype counts one by one."""
    random = np.random.default_rng(10)
    many = (1 << 24) + int(random.integers(1, 1 << 20)) * 2 + 1
    sizes = [tuple(map(int, random.integers(1, 5000, 3))) for _ in range(40)]
    for counts in (*sizes, (many, 5), (3, many)):
        share = random.random()
        parameters = [torch.from_numpy(random.random(n, np.float32)).ge_(share) for n in counts]
        found, expected = share_of(parameters, default)
        assert_same_bits(found, expected)
