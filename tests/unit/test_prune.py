"""prune's selection against an oracle of its own: a stable sort by (magnitude, position). Every
level, 1 and 2 threads, data made to mislead it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from yolov5_utils import _C, reference
from yolov5_utils.ops.prune import prune_layers

from ..support import FLOATING, INTEGER_VIEW, assert_same_bits, values

# Around every border: vectors, keys selected from directly, blocks, sample sizes.
SIZES = (1, 2, 3, 7, 8, 15, 16, 17, 33, 255, 1000, 1023, 1024, 1025, 1041, 4095, 4097, 8192)
LARGE = (65_535, 131_073)
LEVELS = _C.info()["levels_found"]
# Words that a sample of a layer with so many elements looks at: sample_size_ and bracket_ in C.
MISLED = 60_000
SAMPLE = 512


def keys_of(weights: Tensor) -> np.ndarray:
    """Magnitudes as integers: the bits without the sign."""
    bits = weights.contiguous().view(INTEGER_VIEW[weights.element_size()]).numpy().ravel()
    return bits & np.iinfo(bits.dtype).max


def expected(weights: Tensor, count: int) -> Tensor:
    """The weights with the `count` first of a stable sort multiplied by 0, the others by 1."""
    order = np.argsort(keys_of(weights), kind="stable")[:count]
    mask = torch.ones(weights.numel(), dtype=weights.dtype)
    mask[torch.from_numpy(order)] = 0
    return mask.view(weights.shape) * weights


def pruned(weights: Tensor, count: int) -> Tensor:
    untouched, result = weights.clone(), torch.empty_like(weights)
    ambiguous = _C.prune([weights], [result], [count])
    assert_same_bits(weights, untouched)
    keys = np.sort(keys_of(weights))
    if 0 < count < len(keys):
        tie = keys[count - 1] == keys[count]
        infinity = keys_of(torch.tensor([float("inf")], dtype=weights.dtype))[0]
        shows = 0 < keys[count] <= infinity
        assert ambiguous == ([0] if tie and shows else [])
    else:
        assert ambiguous == []
    return result


def check(weights: Tensor, counts: set[int] | None = None) -> None:
    size = weights.numel()
    share = round(0.3 * size)
    for count in counts or {0, 1, share, size // 2, size - 1, size}:
        assert_same_bits(pruned(weights, count), expected(weights, count))


def ramp(size: int) -> Tensor:
    return torch.arange(1, size + 1, dtype=torch.float64) / size


def pipe(size: int) -> Tensor:
    return torch.cat([ramp((size + 1) // 2), ramp(size // 2).flip(0)])


def noise(size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


ADVERSARIES: dict[str, Callable[[int], Tensor]] = {
    "sorted": ramp,
    "reversed": lambda n: -ramp(n).flip(0),
    "organ pipe": pipe,
    "all equal": torch.ones,
    "all zero": lambda n: torch.zeros(n).copysign(noise(n)),
    "two values": lambda n: (noise(n) > 0.2).double() + 1,
    "two values, one rare": lambda n: (torch.arange(n) % 997 == 5).double() + 1,
    "threshold with equals": lambda n: noise(n).clamp(min=-0.4, max=0.4),
    "few values": lambda n: (noise(n) * 3).round(),
    "once half": lambda n: (noise(n) * 0.02).half().double(),
    "mostly zeros": lambda n: noise(n).clamp(min=1) - 1,
    "many binades": lambda n: values(n, torch.float64, n).nan_to_num(1, 2, 3),
    "alternating": lambda n: (torch.arange(n) % 2) * 1e6 + noise(n),
    "period 16": lambda n: (torch.arange(n) % 16).double(),
    "infinite and NaN": lambda n: torch.where(noise(n) > 0, float("inf"), float("nan")) * noise(n),
    "everything": lambda n: values(n, torch.float64, n),
}


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", ADVERSARIES)
def test_data_of_every_kind(level: str, name: str, dtype: torch.dtype) -> None:
    for size in SIZES:
        check(ADVERSARIES[name](size).to(dtype))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_large_layers(level: str, name: str) -> None:
    for size in LARGE:
        check(ADVERSARIES[name](size).float(), {round(0.3 * size)})


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_large_layers_of_every_type(level: str, dtype: torch.dtype) -> None:
    for size in (*LARGE, 300_001):
        for share in (0.001, 0.5, 0.97):
            check(noise(size).to(dtype), {round(share * size)})


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_layers_written_past_the_caches(level: str, dtype: torch.dtype) -> None:
    """1 MiB and more; results that start and end inside a cache line or a piece."""
    words = (1 << 20) // torch.empty(0, dtype=dtype).element_size()
    for offset, extra in ((0, 0), (1, 1), (3, 700), (15, -1)):
        weights = values(words + extra, dtype, offset)
        weights[::7] = 0.5  # a tie that ends somewhere inside
        count = int((weights.abs() < 0.5).sum()) + words // 20
        room = torch.full((words + 800,), 7.0, dtype=dtype)
        result = room[offset:][: words + extra]
        _C.prune([weights], [result], [count])
        assert_same_bits(result, expected(weights, count))
        assert (room[:offset] == 7).all()
        assert (room[offset + words + extra :] == 7).all()


def single_answer(size: int, generator: torch.Generator) -> Tensor:
    """Weights of which no two are equally small."""
    weights = (torch.randperm(size, generator=generator) + 1).float()
    return weights.mul_(torch.where(torch.rand(size, generator=generator) < 0.5, -1, 1))


def pruned_by_topk(weights: Tensor, count: int) -> Tensor:
    mask = torch.ones_like(weights)
    mask[torch.topk(weights.abs(), count, largest=False).indices] = 0
    return mask * weights


@pytest.mark.parametrize("threads_used", [1, 2, 3, 4])
def test_random_layers_against_torch(level: str, threads_used: int, pool: None) -> None:
    """Sizes and shares at random, 250 layers a call, on data with a single answer."""
    generator = torch.Generator().manual_seed(threads_used)
    sizes = torch.randint(1, 3000, (250,), generator=generator).tolist()
    layers, counts, wanted = [], [], []
    for size in sizes:
        layers.append(single_answer(size, generator))
        counts.append(round(float(torch.rand((), generator=generator)) * size))
        wanted.append(pruned_by_topk(layers[-1], counts[-1]))
    torch.set_num_threads(threads_used)
    results = [torch.full_like(layer, 7) for layer in layers]
    _C.prune(layers, results, counts)
    for result, want in zip(results, wanted, strict=True):
        assert_same_bits(result, want)


def test_every_count(level: str) -> None:
    for weights in (noise(70), (noise(70) * 2).round(), values(70, torch.float64, 3)):
        for dtype in FLOATING:
            check(weights.to(dtype), set(range(71)))


def test_counts_around_a_tie(level: str) -> None:
    """The first, one in the middle and the last of 20,000 equals, spread over a layer."""
    weights = noise(60_000).float()
    weights[::3] = 0.5
    below = int((weights.abs() < 0.5).sum())
    steps = (-1, 0, 1, 2, 4095, 4096, 4097, 10_000, 19_999, 20_000, 20_001)
    check(weights, {below + step for step in steps})


def sampled_places() -> np.ndarray:
    """Where the sample of MISLED elements looks."""
    number = np.arange(SAMPLE, dtype=np.uint64)
    jitter = ((number * 2654435769) % 2**32).astype(np.float64) / 2**32
    return ((number.astype(np.float64) + jitter) * (MISLED / SAMPLE)).astype(np.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_sample_that_misleads(level: str, dtype: torch.dtype) -> None:
    """Every element looked at is larger than all others: the bracket misses what is sought."""
    weights = noise(MISLED).to(dtype)
    weights[sampled_places()] += 100
    check(weights, {1, 18_000, MISLED - 600})
    weights[sampled_places()] *= 1e-9
    check(weights, {1, 18_000, MISLED - 600})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_bracket_too_wide_for_the_memory(level: str, dtype: torch.dtype) -> None:
    """The sample sees two values only, and all other elements lie between them."""
    weights = noise(MISLED).abs().clamp(0.1, 9).to(dtype)
    weights[sampled_places()] = torch.where(torch.arange(SAMPLE) < 154, 0.01, 10.0).to(dtype)
    check(weights, {18_000})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_value(level: str, dtype: torch.dtype) -> None:
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    shuffled = patterns[torch.randperm(65536, generator=torch.Generator().manual_seed(0))]
    for weights in (patterns, shuffled):
        check(weights, {1, 2, 3, 30_000, 63_487, 63_488, 63_489, 63_490, 65_281, 65_535})


def test_against_torch_without_ties(level: str, threads: int, pool: None) -> None:
    """torch's own operations, on data with a single answer."""
    for dtype in (torch.float32, torch.float64):
        for size in (1000, 5000, 50_000):
            weights = single_answer(size, torch.Generator().manual_seed(size)).to(dtype)
            count = round(0.3 * size)
            assert_same_bits(pruned(weights, count), pruned_by_topk(weights, count))


def test_many_layers_on_every_thread_count(level: str, pool: None) -> None:
    layers = [values(size, dtype, size) for size in (*SIZES, 40_000, 0) for dtype in FLOATING]
    counts = [layer.numel() // 3 for layer in layers]
    wanted = [expected(layer, count) for layer, count in zip(layers, counts, strict=True)]
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results = [torch.full_like(layer, 7) for layer in layers]
        _C.prune(layers, results, counts)
        for result, want in zip(results, wanted, strict=True):
            assert_same_bits(result, want)


@pytest.mark.parametrize("offset", range(1, 17))
def test_unaligned_and_neighbours(level: str, offset: int) -> None:
    base, room = noise(6000).float(), torch.full((6000,), 7.0)
    for length in (1, 15, 64, 1000, 5000):
        weights, result = base[offset:][:length], room.clone()
        _C.prune([weights], [result[17 - offset :][:length]], [length // 3])
        assert_same_bits(result[17 - offset :][:length], expected(weights, length // 3))
        assert (result[: 17 - offset] == 7).all()
        assert (result[17 - offset + length :] == 7).all()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_properties(data: st.DataObject) -> None:
    """Any bits at all, repeated so that the long ways are taken too, at every level."""
    dtype = data.draw(st.sampled_from(FLOATING))
    bits = torch.empty(0, dtype=dtype).element_size() * 8
    words = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    drawn = data.draw(st.lists(words, min_size=1, max_size=60))
    repeats = data.draw(st.sampled_from((1, 1, 40, 700)))
    integers = torch.tensor(drawn, dtype=INTEGER_VIEW[bits // 8]).repeat(repeats)
    weights = integers.view(dtype)
    count = data.draw(st.integers(0, weights.numel()))
    for level in LEVELS:
        _C.configure(level=level)
        assert_same_bits(pruned(weights, count), expected(weights, count))


def test_checks_only() -> None:
    weights = torch.ones(4)
    assert _C.prune([weights], None, [2]) == []
    assert (weights == 1).all()
    assert _C.prune([], None, []) == _C.prune([], [], []) == []


WRONG = {
    "no lists": ((torch.ones(3),), None, [1], TypeError, "lists"),
    "lengths": ([torch.ones(3)], None, [], ValueError, "lengths"),
    "lengths of results": ([torch.ones(3)], [], [1], ValueError, "lengths"),
    "negative count": ([torch.ones(3)], None, [-1], ValueError, "counts"),
    "count too large": ([torch.ones(3)], None, [4], ValueError, "0 to 3"),
    "count of the wrong type": ([torch.ones(3)], None, [1.0], ValueError, "counts"),
    "huge count": ([torch.ones(3)], None, [2**70], ValueError, "counts"),
    "result of another size": ([torch.ones(3)], [torch.ones(2)], [1], ValueError, "pruned"),
    "result of another type": ([torch.ones(3)], [torch.ones(3).half()], [1], ValueError, "pruned"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case: str) -> None:
    weights, results, counts, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        _C.prune(weights, results, counts)


REFUSED = {
    "integers": lambda: torch.ones(3, dtype=torch.int32),
    "gaps": lambda: torch.ones(3, 4)[:, ::2],
    "channels_last": lambda: torch.ones(2, 3, 3, 3).contiguous(memory_format=torch.channels_last),
    "no memory": lambda: torch.ones(3, device="meta"),
    "subclass": lambda: torch.ones(3).as_subclass(type("Own", (torch.Tensor,), {})),
    "no tensor": lambda: [1.0, 2.0],
    "negative bit": lambda: torch._neg_view(torch.ones(3)),
    "sparse": lambda: torch.eye(3).to_sparse(),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    """The second layer is refused, and the first not written."""
    result = torch.zeros(3)
    with pytest.raises(_C.Unsupported, match="weight 1"):
        _C.prune([torch.ones(3), REFUSED[case]()], [result, torch.zeros(3)], [0, 0])
    assert (result == 0).all()


def test_both_ways_to_a_tensor(level: str, way_to_memory: str) -> None:
    check(noise(5000).float())


def test_of_two_errors_the_originals_first_one() -> None:
    """torch cannot view the first layer, and the second has too few weights for the amount."""
    first = nn.Conv2d(2, 2, 2).to(memory_format=torch.channels_last)
    model = nn.Sequential(first, nn.Conv2d(1, 1, 1))
    before = [p.detach().clone() for p in model.parameters()]
    errors = []
    for prune_it in (reference.prune_layers, prune_layers):
        with pytest.raises((RuntimeError, ValueError)) as raised:
            prune_it(deepcopy(model), 2)
        errors.append(raised.type)
    assert errors[0] is errors[1]
    with pytest.raises(errors[0]):
        prune_layers(model, 2)
    assert all(map(torch.equal, before, model.parameters()))
