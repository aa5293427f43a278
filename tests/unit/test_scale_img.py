"""scale_img's bits against torch's own interpolation and padding: random shapes and ratios at every
level, on 1 and 2 threads, in both orders of memory; and every variant at every level."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolov5_utils import _C
from yolov5_utils.torch_utils import scale_img

from .. import older_torch
from ..support import assert_same_bits, python, takes

ORDERS = (torch.contiguous_format, torch.channels_last)
VARIANTS = range(20)
WAY = "torch" if older_torch.APPLIES else "C"  # no variant has the bits of torch before 2.1


def original(img: Tensor, ratio: float, same_shape: bool = False, gs: int = 32) -> Tensor:
    """The operations the package replaces."""
    height, width = img.shape[2:]
    size = (int(height * ratio), int(width * ratio))
    img = F.interpolate(img, size=size, mode="bilinear", align_corners=False)
    if not same_shape:
        height, width = (math.ceil(x * ratio / gs) * gs for x in (height, width))
    return F.pad(img, [0, width - size[1], 0, height - size[0]], value=0.447)


def values(*shape: int, seed: int = 0, special: bool = False) -> Tensor:
    """Random values over many binades, on request with infinities, NaN, subnormals and −0."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator)
    numbers *= torch.exp2(torch.randint(-12, 6, shape, generator=generator).float())
    if special:
        picks = torch.randint(0, 400, shape, generator=generator)
        odd = (math.inf, -math.inf, math.nan, -0.0, 0.0, 1e-45, -1e-40, 3e38)
        for pick, value in enumerate(odd):
            numbers[picks == pick] = value
    return numbers


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """The same bits in the same order in memory; a NaN equals every NaN."""
    assert actual.shape == expected.shape
    for size, stride, wanted in zip(actual.shape, actual.stride(), expected.stride(), strict=True):
        assert stride == wanted or size <= 1 or actual.numel() == 0
    assert_same_bits(actual, expected)


def check(img: Tensor, ratio: float, same_shape: bool = False, gs: int = 32) -> None:
    """The package, in C, against the original operations; the image must stay as it was.

    On a torch whose bits no variant has, the package must know it and leave the call to torch. So
    it does where the order in memory cannot be told, or is one of torch's own kernel.
    """
    unclear = img.shape[2] * img.shape[3] == 1 or not (img.is_contiguous() or img.shape[1] <= 3)
    way = "torch" if unclear else WAY
    before = img.clone()
    with takes("scale_img", way):
        actual = scale_img(img, ratio, same_shape, gs)
    assert_same(actual, original(img, ratio, same_shape, gs))
    assert_same(img, before)
    assert actual.data_ptr() != img.data_ptr() or actual.numel() == 0


def random_ratio(draw: random.Random) -> float:
    ranges = ((0.15, 0.5), (0.5, 1.0), (0.5, 1.0), (1.0, 1.1), (1.0, 2.7))
    return draw.choice((draw.uniform(*draw.choice(ranges)), 0.5, 0.25, 2.0, 0.83, 0.67))


@pytest.mark.parametrize("seed", range(4))
def test_random_shapes(level: str, threads: int, pool: None, seed: int) -> None:
    draw = random.Random(seed)
    for number in range(120):
        batch, channels = draw.choice((1, 1, 2, 3)), draw.choice((1, 2, 3, 3, 4, 5))
        longest = draw.choice((9, 70, 160))
        height, width = draw.randint(1, longest), draw.randint(1, 2 * longest)
        ratio = random_ratio(draw)
        if min(int(height * ratio), int(width * ratio)) < 1:
            continue
        order = draw.choice(ORDERS) if channels <= 3 else torch.contiguous_format
        img = values(batch, channels, height, width, seed=number, special=draw.random() < 0.3)
        img = img.contiguous(memory_format=order)
        check(img, ratio, draw.random() < 0.3, draw.choice((1, 7, 16, 32, 64)))


@pytest.mark.parametrize("count", [3, 4])
def test_more_threads(level: str, pool: None, count: int) -> None:
    """The same bits on any number of threads above 1, and torch's on that number."""
    draw = random.Random(count)
    for number in range(60):
        img = values(draw.choice((1, 3)), 3, draw.randint(9, 200), draw.randint(9, 200))
        ratio = random_ratio(draw)
        order = draw.choice(ORDERS)
        img = img.contiguous(memory_format=order)
        torch.set_num_threads(count)
        check(img, ratio, number % 3 == 0)
        several = scale_img(img, ratio)
        torch.set_num_threads(2)
        assert_same(several, scale_img(img, ratio))


# Around every vector width, window of two vectors, and tile of 1024 columns.
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 2500)


@pytest.mark.parametrize("order", ORDERS, ids=("contiguous", "channels_last"))
def test_widths(level: str, threads: int, pool: None, order: torch.memory_format) -> None:
    for width, ratio in itertools.product(WIDTHS, (0.83, 0.67, 0.5, 0.3, 1.0001, 1.3, 3.1)):
        if int(width * ratio) >= 1:
            img = values(1, 3, 9, width, seed=width, special=True).contiguous(memory_format=order)
            check(img, ratio)
            check(img, ratio, same_shape=True)


def test_tall_and_batched(level: str, threads: int, pool: None) -> None:
    """More rows than a task has, and bands that begin in the middle of an image."""
    check(values(1, 3, 1500, 70), 0.83)
    check(values(5, 3, 200, 150), 0.67)
    check(values(1, 1, 3, 70_000), 0.83)
    check(values(3, 3, 150, 130).contiguous(memory_format=torch.channels_last), 1.2)


def test_empty_batch() -> None:
    """Its strides tell of the padded result or of the resized one, as torch has it."""
    choices = (ORDERS, (1, 3, 5), (0.5, 1.001, 1.7), (False, True))
    for order, channels, ratio, same_shape in itertools.product(*choices):
        img = torch.empty(0, channels, 40, 50, memory_format=order)
        actual, expected = (f(img, ratio, same_shape) for f in (scale_img, original))
        assert (actual.shape, actual.stride()) == (expected.shape, expected.stride())


def test_ratio_1_returns_the_image() -> None:
    img = values(1, 3, 8, 8)
    assert scale_img(img) is img
    assert scale_img(img, 1) is img
    assert scale_img(img, 1.0, True, 0) is img


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 90), st.integers(1, 90)),
    ratio=st.floats(0.05, 4.0),
    same_shape=st.booleans(),
    gs=st.integers(1, 70),
    last=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_any_image(
    shape: tuple[int, int, int, int],
    ratio: float,
    same_shape: bool,
    gs: int,
    last: bool,
    seed: int,
) -> None:
    if ratio == 1.0 or int(shape[2] * ratio) < 1 or int(shape[3] * ratio) < 1:
        return
    img = values(*shape, seed=seed, special=bool(seed % 2))
    if last and shape[1] <= 3:
        img = img.contiguous(memory_format=torch.channels_last)
    check(img, ratio, same_shape, gs)


def test_memory_around_stays(level: str, threads: int, pool: None) -> None:
    """Not one element in front of the output or behind it changes, at any alignment."""
    for offset, width in itertools.product((1, 3, 16), (1, 15, 16, 33, 64)):
        for ratio, extra in ((0.83, 0), (0.83, 5), (1.4, 0), (1.4, -1)):
            size = (max(1, int(5 * ratio)), max(1, int(width * ratio)))
            shape = (1, 2, size[0] + extra, size[1] + extra)
            count = math.prod(shape)
            memory = torch.full((count + 2 * offset,), 7.0)
            img = values(1, 2, 5, width + 3)[..., :width].contiguous()
            _C.scale_img(img, memory[offset : offset + count].view(shape), size, 7)
            assert (memory[:offset] == 7).all()
            assert (memory[offset + count :] == 7).all()


def emulate(img: Tensor, size: tuple[int, int], variant: int) -> Tensor:
    """A variant's arithmetic in float64, rounded to float32 where it rounds: slow and plain.

    A product of two float32 is exact in float64. Adding to it rounds once there and once more to
    float32, which shows in a value or two of 10⁸: none of the images below is hit.
    """
    fused_index, fused, way = variant & 1, variant & 2, variant // 4

    def rounded(x: Tensor) -> Tensor:
        return x.float().double()

    def taps(length: int, resized: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scale = rounded(torch.tensor(length, dtype=torch.float64) / resized)
        centre = rounded(torch.arange(resized, dtype=torch.float64) + 0.5)
        product = scale * centre
        place = rounded((product if fused_index else rounded(product)) - 0.5).clamp(min=0)
        if length == resized:
            place = torch.arange(resized, dtype=torch.float64)
        first = place.floor().clamp(max=length - 1)
        second = first if length == resized else (first + 1).clamp(max=length - 1)
        weight = rounded(place - first).clamp(max=1)
        return first.long(), second.long(), rounded(1 - weight), weight

    def multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return rounded((a * b if fused else rounded(a * b)) + c)

    top, bottom, up, down = taps(img.shape[2], size[0])
    first, second, left, right = taps(img.shape[3], size[1])
    up, down = up[:, None], down[:, None]
    wide = img.double()
    above, below = wide[:, :, top], wide[:, :, bottom]
    p, q, u, v = above[..., first], above[..., second], below[..., first], below[..., second]
    if way:
        weighted = [(q, up * right), (p, up * left), (u, down * left), (v, down * right)]
        sums = []
        for order in ((0, 1, 2, 3), (2, 3, 0, 1) if way > 1 else (0, 1, 2, 3)):
            (tap, weight), *others = (weighted[i] for i in order)
            total = rounded(tap * rounded(weight))
            for tap, weight in others:
                total = multiply_add(tap, rounded(weight), total)
            sums.append(total.float())
        turned = img.shape[1] >> way << way
        return torch.cat((sums[1][:, :turned], sums[0][:, turned:]), dim=1)
    a = multiply_add(p, left, rounded(q * right))
    b = multiply_add(u, left, rounded(v * right))
    return multiply_add(a, up, rounded(b * down)).float()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(level: str, threads: int, pool: None, variant: int) -> None:
    """Also those that the torch at hand does not use."""
    generator = torch.Generator().manual_seed(1)
    for channels, order in ((3, ORDERS[0]), (3, ORDERS[1]), (21, ORDERS[0])):
        img = torch.randint(0, 2**10, (1, channels, 61, 83), generator=generator) / 2**10
        for size in ((50, 68), (40, 55), (83, 113), (20, 30), (61, 99)):
            given = img.contiguous(memory_format=order)
            output = torch.empty((1, channels, *size)).contiguous(memory_format=order)
            _C.scale_img(given, output, size, variant)
            assert_same(output.contiguous(), emulate(img, size, variant))


def test_planted_faults_are_caught() -> None:
    """The comparison sees a padding rounded otherwise, and an index rounded half up."""
    img = values(1, 3, 64, 64)
    expected = original(img, 0.83)
    padding = expected.clone()
    padding[..., -1] = torch.nextafter(torch.tensor(0.447), torch.tensor(1.0))
    index = original(img, 0.83)
    index[..., 20] = index[..., 21]
    for wrong in (padding, index, torch.nextafter(expected, torch.tensor(math.inf))):
        with pytest.raises(AssertionError, match="element .* expected"):
            assert_same(wrong, expected)


CAPABILITY_CHECK = """
import random, torch
from tests.unit.test_scale_img import ORDERS, check, random_ratio, values
from yolov5_utils import _native
print(torch.backends.cpu.get_cpu_capability())
draw = random.Random(5)
for threads in (1, 2, 1):
    torch.set_num_threads(threads)
    for number in range(60):
        channels, order = draw.choice((1, 2, 3)), draw.choice(ORDERS)
        img = values(1, channels, draw.randint(9, 160), draw.randint(9, 160), seed=number)
        check(img.contiguous(memory_format=order), random_ratio(draw))
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_torch_of_other_cpus(capability: str) -> None:
    """torch told to use its kernels for older CPUs, which round otherwise."""
    run = python("-c", CAPABILITY_CHECK, ATEN_CPU_CAPABILITY=capability)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == capability.upper()
