"""fuse_conv_and_bn: a convolution and its batch norm as one convolution."""

from __future__ import annotations

from torch import nn

from .. import _native, reference


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """A new nn.Conv2d with a bias that computes bn(conv(x)) of inference.

    Inputs are left as they are. Path: torch.
    """
    _native.note_torch("fuse", "not in C in this version")
    return reference.fuse_conv_and_bn(conv, bn)
