"""scale_img: images of many sizes and channels, in both orders in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import reference, torch_utils
from .comparison import Comparison


def _image(function: Callable[..., Tensor], *args: Any) -> dict[str, Any]:
    """The result and where its elements lie; the stride of a single one is nobody's business."""
    image = function(*args)
    strides = [stride for size, stride in zip(image.shape, image.stride(), strict=True) if size > 1]
    return {"image": image, "strides": strides}


def _check_scale_img() -> Comparison:
    to = Comparison("scale_img")
    generator = torch.Generator().manual_seed(3)
    for batch, channels in ((2, 3), (1, 1), (1, 8), (2, 17), (0, 3)):
        for height, width in ((33, 47), (150, 90), (64, 310)):
            for ratio in (0.5, 0.67, 0.83, 1.3):
                for order in (torch.contiguous_format, torch.channels_last):
                    img = torch.randn(batch, channels, height, width, generator=generator)
                    call = (img.contiguous(memory_format=order), ratio, ratio == 0.67)
                    to.add(
                        f"{tuple(img.shape)}, {order}, ratio {ratio}",
                        partial(_image, torch_utils.scale_img, *call),
                        partial(_image, reference.scale_img, *call),
                    )
    return to


CHECKS = {"scale_img": _check_scale_img}
