"""The EMA's arithmetic against independent oracles: NumPy's separately rounded operations, and the
original loop of torch operations. Every level, 1 and 2 threads, both ways to reach a tensor."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from yolov5_utils import _C

from ..support import (
    DECAY,
    FLOATING,
    Holder,
    assert_same_bits,
    assert_same_state,
    every_pair_of_types,
    original,
    values,
)

SIZES = (*range(98), 1000, 100_003)


def check(average: nn.Module, source: nn.Module, decay: float = DECAY) -> None:
    """C against the original loop, on copies; C must not touch the source."""
    expected, untouched = copy.deepcopy(average), copy.deepcopy(source)
    original(expected, source, decay)
    with torch.no_grad():
        assert _C.ema_update(average, source, decay) is None
    assert_same_state(average, expected)
    assert_same_state(source, untouched)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_numpy(level: str, threads: int, pool: None, dtype: torch.dtype) -> None:
    """NumPy rounds each product and the sum on its own: the independent oracle of the contract."""
    for count in SIZES:
        average, source = values(count, dtype, count), values(count, dtype, count + 1)
        scalar = np.float32 if dtype == torch.float32 else np.float64
        with np.errstate(all="ignore"):
            expected = average.numpy() * scalar(DECAY) + source.numpy() * scalar(1 - DECAY)
        _C.ema_update(Holder(average), Holder(source), DECAY)
        assert_same_bits(average, torch.from_numpy(expected))


@every_pair_of_types
def test_dtype_pairs(
    level: str,
    threads: int,
    pool: None,
    average_dtype: torch.dtype,
    source_dtype: torch.dtype,
) -> None:
    averages = [values(count, average_dtype, count) for count in SIZES]
    sources = [values(count, source_dtype, count + 1) for count in SIZES]
    check(Holder(*averages), Holder(*sources))


@pytest.mark.parametrize("decay", [0.0, 1.0, 0.5, 1e-50, 1e39, float("inf"), float("nan"), -0.5])
def test_decays(level: str, decay: float) -> None:
    averages = [values(501, dtype, 1) for dtype in FLOATING]
    sources = [values(501, dtype, 2) for dtype in FLOATING]
    check(Holder(*averages), Holder(*sources), decay)


def test_every_half_value(level: str) -> None:
    """All 65,536 bit patterns of both 16-bit types, against many partners."""
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        for seed in range(4):
            partner = values(65536, dtype, seed)
            check(Holder(patterns.clone().view(dtype)), Holder(partner))
            check(Holder(partner), Holder(patterns.clone().view(dtype)))


@pytest.mark.parametrize("offset", range(1, 17))
def test_unaligned_starts(level: str, threads: int, pool: None, offset: int) -> None:
    base, other = values(2000, torch.float32, 3), values(2000, torch.float32, 4)
    for length in (0, 1, 15, 64, 1000):
        average = Holder(base.clone()[offset : offset + length])
        check(average, Holder(other[17 - offset :][:length]))


def test_neighbours_stay(level: str) -> None:
    """Not one element before or behind a view changes."""
    for length in range(70):
        base = torch.full((100,), 7.0)
        _C.ema_update(Holder(base[13 : 13 + length]), Holder(torch.ones(length)), 0.5)
        assert (base[:13] == 7).all()
        assert (base[13 + length :] == 7).all()
        assert (base[13 : 13 + length] == 4).all()


LAYOUTS = {
    "contiguous": lambda t: t.clone(memory_format=torch.contiguous_format),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
    "gaps": lambda t: torch.cat([t, t], 3)[..., ::2].copy_(t),
    "rows_apart": lambda t: torch.cat([t, t], 2)[:, :, : t.shape[2]].copy_(t),
}


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(
    ("average_layout", "source_layout"), list(itertools.product(LAYOUTS, LAYOUTS))
)
def test_layouts(
    level: str,
    threads: int,
    pool: None,
    average_layout: str,
    source_layout: str,
    dtype: torch.dtype,
) -> None:
    averages, sources = [], []
    for shape in ((1, 1, 1, 1), (3, 5, 3, 3), (8, 4, 1, 1), (2, 1, 7, 300), (1, 6, 1, 5)):
        count = int(np.prod(shape))
        averages.append(LAYOUTS[average_layout](values(count, dtype, 5).view(shape)))
        sources.append(LAYOUTS[source_layout](values(count, dtype, 6).view(shape)))
    check(Holder(*averages), Holder(*sources))


def test_source_may_be_expanded(level: str) -> None:
    check(Holder(torch.ones(5, 7)), Holder(torch.tensor([[2.0]]).expand(5, 7)))
    check(Holder(torch.ones(5, 7)), Holder(torch.arange(7.0).expand(5, 7)))


def test_zero_dimensions_and_many(level: str) -> None:
    shapes = [(), (1,), (1, 1, 1), (2,) * 10, (1,) * 12, (0,), (3, 0, 2)]
    check(
        Holder(*(torch.full(shape, 3.0) for shape in shapes)),
        Holder(*(torch.full(shape, 0.1) for shape in shapes)),
    )


def test_both_ways_to_a_tensor(level: str, way_to_memory: str) -> None:
    averages = [values(317, dtype, 7) for dtype in FLOATING]
    sources = [values(317, dtype, 8) for dtype in FLOATING]
    counter = torch.tensor(5)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    check(Holder(*averages, counter), Holder(*sources, counter + 1))
    check(copy.deepcopy(model), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))


def test_neither_fused_nor_lerp(level: str) -> None:
    """Data on which a fused multiply-add and lerp give other bits, and the update must not.

    Guards the guard as well: if either variant gave the same bits here, the test would prove
    nothing and fails.
    """
    average, source = values(4096, torch.float32, 9), values(4096, torch.float32, 10)
    finite = average.isfinite() & source.isfinite()
    average, source = average[finite], source[finite]
    decay, rest = np.float32(DECAY), np.float32(1 - DECAY)
    wide = average.double().numpy() * float(decay)
    fused = (wide + (source.numpy() * rest).astype(np.float64)).astype(np.float32)
    lerp = torch.lerp(average, source, float(rest))
    expected = torch.from_numpy(average.numpy() * decay + source.numpy() * rest)
    assert (expected.numpy() != fused).mean() > 0.05
    assert (expected != lerp).float().mean() > 0.05
    _C.ema_update(Holder(average), Holder(source), DECAY)
    assert_same_bits(average, expected)


def test_same_bits_on_every_thread_count(level: str, pool: None) -> None:
    sizes = (3, 70_001, 0, 40_000, 1)
    averages = [values(n, torch.float32, n) for n in sizes]
    sources = [values(n, torch.float32, n + 1) for n in sizes]
    results = []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        updated = Holder(*(t.clone() for t in averages))
        _C.ema_update(updated, Holder(*sources), DECAY)
        results.append(list(updated.buffers()))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_same_bits(a, b)
