"""scale_img: resize a batch of images and pad it to the model's stride."""

from __future__ import annotations

from torch import Tensor

from .. import _native, reference


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Resize (batch, channels, height, width) images by `ratio`, bilinear, and pad with 0.447.

    The result is padded (or cropped) at the right and bottom to a multiple of `gs` pixels, or with
    `same_shape` to the size it had. `ratio` 1 returns `img` itself. Path: torch.
    """
    _native.note_torch("scale_img", "not in C in this version")
    return reference.scale_img(img, ratio, same_shape, gs)
