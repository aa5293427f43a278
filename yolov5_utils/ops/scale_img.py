"""scale_img: resize a batch of images and pad it to the model's stride."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _native, reference, verify

# Variants of _native._C.scale_img: sums of 1 (fused index), 2 (fused blend), 4 (four taps).
_VARIANTS = range(8)
# torch takes another kernel for resized images whose height and width add up to at most this.
_SMALL = 128
# (height, width, ratio) of the images tried, by _is_small: next to the border and far from it, and
# of sizes at which no two variants give the same bits.
_PROBES = {
    True: ((41, 114, 0.83), (37, 45, 1.37)),
    False: ((77, 80, 0.83), (61, 83, 1.37), (401, 307, 0.83)),
}
# Variants of the CUDA library, numbered in cuda/y5_cuda.h; first those that torch is expected to
# have, for contiguous images and for many channels side by side.
_LIKELY_ON_GPU = (27, 29)
_GPU_VARIANTS = (*_LIKELY_ON_GPU, *(v for v in range(54) if v not in _LIKELY_ON_GPU))
# 16-bit results hide most differences between variants, so that it takes many of them.
_GPU_PROBES = ((77, 80, 0.83), (401, 307, 0.83), (701, 503, 1.37), (1201, 907, 0.83))
# Elements of the largest probe: of more channels fewer rows are tried, so that a GPU that is almost
# full has room for it (12 MiB in float32, and as much three times more for results).
_GPU_PROBE_ELEMENTS = 3 * 1201 * 907
# torch takes other kernels on a GPU for more channels; where the change is differs by release.
_GPU_CHANNELS = 32
# Of a GPU; torch before 1.13 has no type of its own for it.
_OUT_OF_MEMORY: type[Exception] = getattr(torch.cuda, "OutOfMemoryError", MemoryError)


class Calibration:
    """Which variant has the bits of the installed torch: found by trying, kept as numbers.

    torch's choice depends on its release, the CPU, whether it runs on one thread, the number of
    channels, their order in memory and the size, so each combination is tried when it first comes.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[bool, int, bool, bool], int | None] = {}

    def variant(self, channels: int, channels_last: bool, small: bool) -> int:
        """The variant to use now; Unsupported where none has torch's bits, or more than one."""
        key = (torch.get_num_threads() == 1, min(channels, 5), channels_last, small)
        if key not in self._found:
            self._found[key] = self._try_all(*key[1:])
        variant = self._found[key]
        if variant is None:
            raise _native.Unsupported("no variant in C has the bits of this torch")
        return variant

    def _try_all(self, channels: int, channels_last: bool, small: bool) -> int | None:
        left = list(_VARIANTS)
        for height, width, ratio in _PROBES[small]:
            image = _probe(channels, height, width, channels_last)
            expected = reference.scale_img(image, ratio)
            size = (int(height * ratio), int(width * ratio))
            left = [variant for variant in left if _agrees(image, expected, size, variant)]
        return left[0] if len(left) == 1 else None


class GpuCalibration:
    """The same for torch's kernels on a GPU: by device, dtype, channels and order in memory."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, torch.dtype, int, bool], int | None] = {}

    def variant(self, device: int, img: Tensor, channels_last: bool) -> int:
        """The variant to use for `img` on a device; Unsupported where none has torch's bits."""
        channels = min(img.shape[1], _GPU_CHANNELS)
        key = (device, img.dtype, channels.bit_length(), channels_last)
        if key not in self._found:
            if img.is_cuda and torch.cuda.is_current_stream_capturing():
                raise _native.Unsupported("not tried on this GPU before a graph was captured")
            try:
                self._found[key] = self._choose(img, channels, channels_last)
            except (_OUT_OF_MEMORY, MemoryError) as problem:
                raise _native.Unsupported("no memory to try the variants on this GPU") from problem
        variant = self._found[key]
        if variant is None:
            raise _native.Unsupported("no variant of the CUDA library has the bits of this torch")
        return variant

    def _choose(self, img: Tensor, channels: int, channels_last: bool) -> int | None:
        left = self._try_all(img, channels, channels_last)
        if len(left) > 1 and img.dtype != torch.float32:
            # torch has one source for all dtypes, and float32 tells the variants apart.
            exact = self._try_all(img.new_empty(0, dtype=torch.float32), channels, channels_last)
            left = [variant for variant in exact if variant in left]
        return left[0] if len(left) == 1 else None

    @staticmethod
    def _try_all(like: Tensor, channels: int, channels_last: bool) -> list[int]:
        left = list(_GPU_VARIANTS)
        for height, width, ratio in _GPU_PROBES:
            rows = min(height, _GPU_PROBE_ELEMENTS // (channels * width))
            image = _probe(channels, rows, width, channels_last).to(like.device, like.dtype)
            expected = reference.scale_img(image, ratio)
            size = (int(rows * ratio), int(width * ratio))
            left = [variant for variant in left if _agrees(image, expected, size, variant)]
        return left


def _probe(channels: int, height: int, width: int, channels_last: bool) -> Tensor:
    """An image of many different float32 values, without a draw from a random generator."""
    numbers = torch.arange(channels * height * width, dtype=torch.float64, device="cpu")
    image = (numbers * (math.sqrt(5) / 2)).frac_().to(torch.float32)
    order = torch.channels_last if channels_last else torch.contiguous_format
    return image.view(1, channels, height, width).contiguous(memory_format=order)


def _agrees(image: Tensor, expected: Tensor, size: tuple[int, int], variant: int) -> bool:
    """True where the variant gives exactly the expected image (no value is a NaN or −0)."""
    output = torch.empty_like(expected)
    _native._C.scale_img(image, output, size, variant)
    return torch.equal(output, expected)


def _in_channels_last(img: Tensor, size: tuple[int, int]) -> bool:
    """True where torch's interpolation and padding of `img` return channels-last memory.

    Unsupported for an order in memory that is neither that nor contiguous.
    """
    batch, channels, height, width = img.shape
    one_pixel = channels == 1 and (height * width == 1 or size == (1, 1))  # both at once
    strides = (channels * height * width, 1, channels * width, channels)
    if batch > 0 and not one_pixel and img.stride() == strides:
        return True
    if img.is_contiguous() and (channels > 1 or one_pixel or img.stride(1) != 1):
        return False
    raise _native.Unsupported("neither contiguous nor channels last")


def resize(img: Tensor, ratio: float, same_shape: bool = False, gs: int = 32) -> Tensor:
    """scale_img in C; Unsupported, before anything was made, where torch must do it."""
    device = _native._C.scale_img(img)  # only checks
    if device is not None and torch.are_deterministic_algorithms_enabled():
        raise _native.Unsupported("deterministic algorithms are on, which torch has others for")
    if img.requires_grad and torch.is_grad_enabled():
        raise _native.Unsupported("img requires grad")
    if forward_ad._current_level >= 0:
        raise _native.Unsupported("inside forward-mode differentiation")
    batch, channels, height, width = img.shape
    size = (int(height * ratio), int(width * ratio))
    if not same_shape:
        height, width = (math.ceil(x * ratio / gs) * gs for x in (height, width))
    if type(height) is not int or type(width) is not int or min(*size, height, width) < 1:
        raise _native.Unsupported("the result would not be an image")
    channels_last = _in_channels_last(img, size)
    if device is None:
        variant = _calibration.variant(channels, channels_last, sum(size) <= _SMALL)
    else:
        variant = _gpu_calibration.variant(device, img, channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    output = torch.empty(
        (batch, channels, height, width), dtype=img.dtype, device=img.device, memory_format=order
    )
    _native._C.scale_img(img, output, size, variant)
    if device is not None:
        _native.note_cuda("scale_img")
    return output


_calibration = Calibration()
_gpu_calibration = GpuCalibration()


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Resize (batch, channels, height, width) images by `ratio`, bilinear, and pad with 0.447.

    The result is padded (or cropped) at the right and bottom to a multiple of `gs` pixels, or with
    `same_shape` to the size it had, and has the dtype and the order in memory of `img`; `ratio` 1
    returns `img` itself. torch's errors for what cannot be resized. Paths: C for float32 on the
    CPU, the CUDA library for float32, float16 and bfloat16 on a GPU, contiguous or channels last,
    where no gradient is wanted; otherwise torch. Source of the semantics: YOLOv5 1.0 and later.
    """
    if ratio == 1.0:
        return img
    done, output = verify.attempt("scale_img", resize, img, ratio, same_shape, gs)
    return output if done else reference.scale_img(img, ratio, same_shape, gs)
