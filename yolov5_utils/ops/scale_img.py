"""scale_img: resize a batch of images and pad it to the model's stride."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from .. import _native, bits, probe, reference, verify
from ..operation import Operation, is_plain_number
from ..originals import Originals

# torch takes another kernel for resized images whose height and width add up to at most this.
_SMALL = 128
# (height, width, ratio) of the images tried, by whether that makes them small: at the border and
# far from it, of sizes at which no two variants give the same bits; ones that keep their height, or
# both sides; and long thin ones.
_PROBES = {
    True: (
        *((41, 114, 0.83), (37, 45, 1.37), (9, 57, 1.05), (9, 57, 1.01)),
        *((1, 70, 1.37), (70, 1, 1.37)),
    ),
    False: (
        *((77, 80, 0.83), (61, 83, 1.37), (19, 115, 1.05), (77, 80, 1.01)),
        *((1, 1201, 1.37), (1201, 2, 0.83), (401, 307, 0.83)),
    ),
}
# Elements of a wide probe, of which fewer rows are tried where there are more channels; on a GPU
# they are 12 MiB in float32, and as much three times more for results: it may be almost full.
_WIDE = 256
_ELEMENTS = 3 * 401 * 307
_GPU_ELEMENTS = 3 * 1201 * 907
# Images of more channels are not tried.
_MOST_CHANNELS = 128
# torch's kernel for more channels side by side is not in C.
_MOST_INTERLEAVED = 3
# Variants of the CUDA library, numbered in cuda/y5_cuda.h; first those that torch is expected to
# have, for contiguous images and for many channels side by side.
_LIKELY_ON_GPU = (27, 29)
_GPU_VARIANTS = (*_LIKELY_ON_GPU, *(v for v in range(54) if v not in _LIKELY_ON_GPU))
# 16-bit results hide most differences between variants, so that it takes many of them.
_GPU_PROBES = ((77, 80, 0.83), (401, 307, 0.83), (701, 503, 1.37), (1201, 907, 0.83))
# Of a GPU; torch before 1.13 has no type of its own for it.
_OUT_OF_MEMORY: type[Exception] = getattr(torch.cuda, "OutOfMemoryError", MemoryError)
# In place of a variant: none has torch's bits, or more than one.
_NEVER = -1
_MOST_REFUSED = 256  # calls remembered to have no variant
_MOST_PIXELS = 2**31  # of a side
_FLOAT32 = torch.float32
_NO_VARIANT = "no variant in C has the bits of this torch"


class Calibration:
    """Which variant has the bits of the installed torch: found by trying, kept as numbers.

    A class is what torch's own choice depends on (aten/src/ATen/native/cpu/UpSampleKernel.cpp,
    upsample_bilinear2d_kernel_impl): whether it runs on one thread, the number of channels, whether
    the result is small, the order in memory. Nothing else is looked at, and none is rounded.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[bool, int, bool, bool], int] = {}
        # Calls known to be refused: shape, ratio and number of threads.
        self.refused: set[tuple[torch.Size, float, int]] = set()

    def variant(self, channels: int, channels_last: bool, small: bool) -> int:
        """The variant to use now, or _NEVER."""
        key = (torch.get_num_threads() == 1, channels, small, channels_last)
        if key not in self._found:
            self._found[key] = self._try_all(*key[1:])
        return self._found[key]

    def refuse(self, img: Tensor, ratio: float, channels_last: bool, small: bool) -> None:
        """Remember a call without a variant; of either order in memory, if the other has none."""
        other = self.variant(img.shape[1], not channels_last, small)
        if other != _NEVER or type(ratio) is not float:
            return
        if len(self.refused) >= _MOST_REFUSED:
            self.refused.clear()
        self.refused.add((img.shape, ratio, torch.get_num_threads()))

    @staticmethod
    def _try_all(channels: int, small: bool, channels_last: bool) -> int:
        if channels > _MOST_CHANNELS or (channels_last and channels > _MOST_INTERLEAVED):
            return _NEVER
        left = variants(channels)
        for height, width, ratio in _PROBES[small]:
            rows = _rows(height, width, channels, _ELEMENTS)
            image = _probe(channels, rows, width, channels_last)
            expected = reference.scale_img(image, ratio)
            size = (int(rows * ratio), int(width * ratio))
            left = [variant for variant in left if _agrees(image, expected, size, variant)]
        return left[0] if len(left) == 1 else _NEVER


def variants(channels: int) -> list[int]:
    """The variants of _native._C.scale_img that differ for so many channels.

    They are numbered in csrc/core/ops.h: sums of 1 (fused index), 2 (fused blend) and 4 times: 0
    for columns before rows, 1 for four taps, or k for four taps that are added up from the last one
    on in channels that fill vectors of 2ᵏ.
    """
    ways = {0: 1}  # channels added up from the last tap on -> how
    for way in (2, 3, 4):
        ways.setdefault(channels >> way << way, way)
    return [4 * way + fused for way in (0, *ways.values()) for fused in range(4)]


class GpuCalibration:
    """The same for torch's kernels on a GPU: by device, dtype, channels and order in memory."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, torch.dtype, int, bool], int] = {}

    def variant(self, device: int, img: Tensor, channels_last: bool) -> int:
        """The variant to use for `img` on a device, or _NEVER."""
        channels = img.shape[1]
        key = (device, img.dtype, channels, channels_last)
        if key not in self._found:
            if img.is_cuda and torch.cuda.is_current_stream_capturing():
                raise _native.Unsupported("not tried on this GPU before a graph was captured")
            try:
                self._found[key] = self._choose(img, channels, channels_last)
            except (_OUT_OF_MEMORY, MemoryError) as problem:
                raise _native.Unsupported("no memory to try the variants on this GPU") from problem
        return self._found[key]

    def _choose(self, img: Tensor, channels: int, channels_last: bool) -> int:
        if channels > _MOST_CHANNELS:
            return _NEVER
        left = self._try_all(img, channels, channels_last)
        if len(left) > 1 and img.dtype != torch.float32:
            # torch has one source for all dtypes, and float32 tells the variants apart.
            exact = self._try_all(img.new_empty(0, dtype=torch.float32), channels, channels_last)
            left = [variant for variant in exact if variant in left]
        return left[0] if len(left) == 1 else _NEVER

    @staticmethod
    def _try_all(like: Tensor, channels: int, channels_last: bool) -> list[int]:
        left = list(_GPU_VARIANTS)
        for height, width, ratio in _GPU_PROBES:
            rows = _rows(height, width, channels, _GPU_ELEMENTS)
            image = _probe(channels, rows, width, channels_last).to(like.device, like.dtype)
            expected = reference.scale_img(image, ratio)
            size = (int(rows * ratio), int(width * ratio))
            left = [variant for variant in left if _agrees(image, expected, size, variant)]
        return left


def _rows(height: int, width: int, channels: int, elements: int) -> int:
    """The rows of a probe: all, or of a wide one as many as it has room for."""
    return height if width < _WIDE else max(1, min(height, elements // (channels * width)))


def _probe(channels: int, height: int, width: int, channels_last: bool) -> Tensor:
    """An image of many different float32 values, and infinity, without a draw from a generator."""
    numbers = torch.arange(channels * height * width, dtype=torch.float64, device="cpu")
    image = (numbers * (math.sqrt(5) / 2)).frac_().to(torch.float32)
    order = torch.channels_last if channels_last else torch.contiguous_format
    shape = (1, channels, height, width)
    probe = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=order)
    probe.copy_(image.view(shape))
    probe[..., 0, 0] = math.inf
    return probe


def _agrees(image: Tensor, expected: Tensor, size: tuple[int, int], variant: int) -> bool:
    """True where the variant gives exactly the expected image."""
    output = torch.empty_like(expected)
    _native._C.scale_img(image, output, size, variant)
    return torch.equal(bits.of(output), bits.of(expected))


def _in_channels_last(img: Tensor, size: tuple[int, int]) -> bool:
    """True where torch's interpolation and padding of `img` return channels-last memory.

    Unsupported for an order in memory that is neither that nor contiguous.
    """
    _, channels, height, width = img.shape
    one_pixel = channels == 1 and size == (1, 1)  # of the result, which lies in both at once
    strides = (channels * height * width, 1, channels * width, channels)
    if not one_pixel and img.stride() == strides:
        return True
    if img.is_contiguous() and (channels > 1 or one_pixel or img.stride(1) != 1):
        return False
    raise _native.Unsupported("neither contiguous nor channels last")


def resize(
    img: Tensor, ratio: float, same_shape: bool = False, gs: int = 32
) -> tuple[Tensor, int | None]:
    """scale_img in C: the result, and the number of the GPU that made it.

    Unsupported, before anything was made, where torch must do it.
    """
    device = _native._C.scale_img(img)  # only checks
    if device is not None and torch.are_deterministic_algorithms_enabled():
        raise _native.Unsupported("deterministic algorithms are on, which torch has others for")
    if img.requires_grad and torch.is_grad_enabled():
        raise _native.Unsupported("img requires grad")
    if probe.in_forward_mode():
        raise _native.Unsupported("inside forward-mode differentiation")
    batch, channels, height, width = img.shape
    if batch == 0:
        raise _native.Unsupported("an empty batch, whose strides are for torch to say")
    if height * width == 1:
        raise _native.Unsupported("images of one pixel, which lie in both orders at once")
    if not is_plain_number(ratio):
        raise _native.Unsupported("a ratio that is no plain number")
    size = (int(height * ratio), int(width * ratio))
    # torch complains of a size before the original comes to `gs`.
    if not 1 <= min(size) <= max(size) < _MOST_PIXELS:
        raise _native.Unsupported("the result would not be an image")
    if not same_shape:
        if type(gs) is not int or not 0 < abs(gs) < _MOST_PIXELS:
            raise _native.Unsupported("a gs that is no number of pixels")
        height, width = (math.ceil(x * ratio / gs) * gs for x in (height, width))
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise _native.Unsupported("the result would not be an image")
    channels_last = _in_channels_last(img, size)
    if device is None:
        small = sum(size) <= _SMALL
        variant = _calibration.variant(channels, channels_last, small)
        if variant == _NEVER:
            _calibration.refuse(img, ratio, channels_last, small)
    else:
        variant = _gpu_calibration.variant(device, img, channels_last)
    if variant == _NEVER:
        raise _native.Unsupported(_NO_VARIANT)
    order = torch.channels_last if channels_last else torch.contiguous_format
    output = torch.empty(
        (batch, channels, height, width), dtype=img.dtype, device=img.device, memory_format=order
    )
    _native._C.scale_img(img, output, size, variant)
    return output, device


def _known_refusal(img: Tensor, ratio: float) -> str | None:
    """Why torch has to run, where that can be told in half a microsecond; None: `resize` knows."""
    refused = _calibration.refused
    known = refused and type(ratio) is float
    if known and (img.shape, ratio, torch.get_num_threads()) in refused:
        return _NO_VARIANT
    if img.dtype is not _FLOAT32:
        return "image: not float32"
    return "img requires grad" if img.requires_grad and torch.is_grad_enabled() else None


_calibration = Calibration()
_gpu_calibration = GpuCalibration()


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Resize (batch, channels, height, width) images by `ratio`, bilinear, and pad with 0.447.

    The result is padded (or cropped) at the right and bottom to a multiple of `gs` pixels, or with
    `same_shape` to the size it had, and has the dtype and the order in memory of `img`; `ratio` 1
    returns `img` itself. torch's errors for what cannot be resized. Paths: C for float32 on the
    CPU, the CUDA library for float32, float16 and bfloat16 on a GPU, contiguous or channels last,
    where no gradient is wanted; otherwise torch. Source of the semantics: YOLOv5 1.0 and later.

    >>> scale_img(torch.zeros(1, 3, 64, 64), 0.5).shape
    torch.Size([1, 3, 32, 32])
    """
    if ratio == 1.0:
        return img
    plain = type(img) is Tensor and not img.is_cuda and not probe.is_compiling()
    reason = _known_refusal(img, ratio) if plain else None
    if reason is not None:
        OPERATION.count_torch(reason)
    else:
        done, result = OPERATION.attempt(resize, img, ratio, same_shape, gs)
        if done:
            return cast(Tensor, result[0])
    return reference.scale_img(img, ratio, same_shape, gs)


def _check(img: Any, ratio: float = 1.0, same_shape: bool = False, gs: int = 32, **_: Any) -> None:
    if ratio != 1.0:
        resize(img, ratio, same_shape, gs)


def _usual() -> tuple[Tensor, float]:
    return torch.zeros(1, 3, 77, 80, device="cpu", dtype=torch.float32), 0.83


OPERATION = Operation(
    "scale_img",
    ("scale_img",),
    "scale_img",
    Originals(("nn.functional", "interpolate pad")),
    _usual,
    scale_img,
    reference.scale_img,
    _check,
    on_gpu=lambda result: result[1] is not None,
    compare=verify.scale_img,
)
