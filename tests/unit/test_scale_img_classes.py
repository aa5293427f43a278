"""scale_img's choice of a variant: that every class of images which torch may treat in a way of its
own is tried for itself, with images that tell the variants apart. Images of all classes are drawn
and compared with torch's operations."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable

import pytest
import torch

from yolov5_utils import _C, reference
from yolov5_utils.torch_utils import scale_img

from ..support import takes
from .test_scale_img import ORDERS, WAY, assert_same, check, random_ratio, values
from .test_scale_img_ways import reason_of

OP = sys.modules["yolov5_utils.ops.scale_img"]
MOST_ELEMENTS = 1_500_000  # of an image or its result


def compare_random_images(numbers: range) -> None:
    """Batches, channels, orders, sizes and ratios around every border, on 1 and 2 threads."""
    for number in numbers:
        draw = random.Random(number)
        torch.set_num_threads(draw.choice((1, 2)))
        channels = draw.choice((1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, draw.randint(1, 64)))
        ratio = random_ratio(draw)
        total = draw.choice((128, 128, draw.randint(100, 160), draw.randint(3, 500)))
        total += draw.randint(-2, 2)  # of the height and width of the result
        height = draw.choice((1, 2, draw.randint(1, max(1, total - 1))))
        sides = [max(1, round(side / ratio)) for side in (height, max(1, total - height))]
        draw.shuffle(sides)
        plane = max(1, *(round(sides[0] * r) * round(sides[1] * r) for r in (1, ratio)))
        batch = min(draw.choice((1, 1, 2, 32)), max(1, MOST_ELEMENTS // (channels * plane)))
        if batch * channels * plane > MOST_ELEMENTS or min(sides) * ratio < 1:
            continue
        img = values(batch, channels, *sides, seed=number, special=draw.random() < 0.3)
        img = img.contiguous(memory_format=draw.choice(ORDERS))
        gs, same_shape = draw.choice((1, 7, 32, 64)), draw.random() < 0.3
        try:
            check(img, ratio, same_shape, gs)
        except AssertionError as error:
            raise AssertionError(
                f"round {number}: {tuple(img.shape)} strides {img.stride()} "
                f"ratio {ratio!r} {same_shape=} {gs=} on {torch.get_num_threads()} threads: {error}"
            ) from error


def test_random_images(level: str, rounds: Callable[[int], range]) -> None:
    compare_random_images(rounds(100))


@pytest.mark.skipif(WAY == "torch", reason="no variant has the bits of torch before 2.1")
@pytest.mark.parametrize(
    "coarser",
    [
        lambda channels, last, small: (min(channels, 5), last, small),
        lambda channels, last, small: (channels, last, False),
        lambda channels, last, small: (channels // 8 * 8 + 1, last, small),
    ],
    ids=("channels above 5", "small ones", "channels in eights"),
)
def test_a_coarser_class_is_noticed(monkeypatch: pytest.MonkeyPatch, coarser: object) -> None:
    """The drawn images would have told of each of these."""
    calibration = OP.Calibration()
    exact = calibration.variant
    monkeypatch.setattr(calibration, "variant", lambda *key: exact(*coarser(*key)))  # type: ignore
    monkeypatch.setattr(OP, "_calibration", calibration)
    with pytest.raises(AssertionError):
        compare_random_images(range(300))


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8, 9, 16, 31, 64, 128])
def test_probes_tell_all_variants_apart(channels: int) -> None:
    for small, probes in OP._PROBES.items():
        together: dict[tuple[int, int], bool] = {}
        for height, width, ratio in probes:
            rows = OP._rows(height, width, channels, OP._ELEMENTS)
            size = (int(rows * ratio), int(width * ratio))
            assert (sum(size) <= OP._SMALL) == small
            image = OP._probe(channels, rows, width, False)
            outputs = {
                variant: torch.empty(1, channels, *size) for variant in OP.variants(channels)
            }
            for variant, output in outputs.items():
                _C.scale_img(image, output, size, variant)
            for pair in itertools.combinations(outputs, 2):
                one, other = (outputs[variant].view(torch.int32) for variant in pair)
                together[pair] = together.get(pair, True) and torch.equal(one, other)
        assert not any(together.values())


def test_variants_that_are_not_tried_are_others_again() -> None:
    """For every number of channels: what `variants` leaves out gives the bits of one it has."""
    for channels in (1, 3, 4, 7, 8, 12, 16, 17, 24, 33):
        image, size = OP._probe(channels, 19, 23, False), (15, 19)
        outputs = [torch.empty(1, channels, *size) for _ in range(20)]
        for variant, output in enumerate(outputs):
            _C.scale_img(image, output, size, variant)
        tried = OP.variants(channels)
        assert len(tried) == len(set(tried))
        for variant, output in enumerate(outputs):
            same = [v for v in tried if torch.equal(outputs[v], output)]
            assert len(same) == 1
            assert same == [variant] or variant not in tried


def test_every_number_of_channels_is_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = OP.Calibration()
    monkeypatch.setattr(OP, "_calibration", calibration)
    for threads, channels, side in itertools.product((1, 2), (4, 5, 6, 33, 34), (40, 100)):
        torch.set_num_threads(threads)
        check(values(1, channels, side, side), 0.83)
    assert len({key[:3] for key in calibration._found}) == 20


def test_more_channels_than_are_tried() -> None:
    img = values(1, OP._MOST_CHANNELS + 1, 20, 30)
    with takes("scale_img", "torch"):
        assert_same(scale_img(img, 0.83), reference.scale_img(img, 0.83))


def test_a_refusal_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call asks neither C nor the calibration, and no exception is made."""
    calibration = OP.Calibration()
    monkeypatch.setattr(OP, "_calibration", calibration)
    monkeypatch.setattr(OP, "_agrees", lambda *args: False)
    img = values(1, 3, 40, 50)
    scale_img(img, 0.83)
    monkeypatch.setattr(calibration, "variant", None)
    monkeypatch.setattr(OP, "resize", None)
    with takes("scale_img", "torch", 2):
        for order in ORDERS:
            given = img.contiguous(memory_format=order)
            assert_same(scale_img(given, 0.83), reference.scale_img(given, 0.83))
    with pytest.raises(TypeError):
        scale_img(values(1, 3, 400, 50), 0.83)  # of another class


@pytest.mark.parametrize(
    ("img", "ratio", "reason"),
    [
        (torch.ones(1, 3, 1, 1), 3.0, "one pixel"),
        (torch.ones(1, 8, 1, 1), 300.0, "one pixel"),
        (torch.ones(0, 3, 8, 8), 0.5, "empty batch"),
    ],
)
def test_left_to_torch(img: torch.Tensor, ratio: float, reason: str) -> None:
    results: list[torch.Tensor] = []
    assert reason in reason_of(lambda: results.append(scale_img(img, ratio)))
    expected = reference.scale_img(img, ratio)
    assert torch.equal(results[0], expected)
    assert results[0].stride() == expected.stride()
