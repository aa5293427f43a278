"""prune: zero the smallest weights of every convolution."""

from __future__ import annotations

from torch import nn

from .. import _native, reference
from .sparsity import sparsity


def prune(model: nn.Module, amount: float = 0.3) -> None:
    """Set the `amount` smallest weights by magnitude of each Conv2d to zero, layer by layer.

    `amount` is a share in [0, 1] (float) or a count (int); ValueError and TypeError come from
    torch's pruning. Prints the global sparsity reached. Path: torch.
    """
    print("Pruning model... ", end="")
    _native.note_torch("prune", "not in C in this version")
    reference.prune_layers(model, amount)
    print(f" {sparsity(model):.3g} global sparsity")
