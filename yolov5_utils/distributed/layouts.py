"""How torch.distributed lays tensors out over ranks: DTensors, asked and made.

Without a collective, but for `gathered`. The one file that knows DTensor, which it imports when
first asked. Must not know what is averaged.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .. import probe


@cache
def _tensors() -> Any:
    """The module with DTensor; RuntimeError in one sentence where this torch lacks it."""
    found: Any = probe.answer(import_module, "torch.distributed.tensor")
    if found is None or probe.release() < (2, 7):  # which shards without a collective
        raise RuntimeError(
            "ShardedEMA needs torch 2.7 or later with torch.distributed, "
            f"this is torch {torch.__version__}"
        )
    return found


def require() -> None:
    """RuntimeError where this torch has no sharded tensors."""
    _tensors()


def is_sharded(tensor: Tensor) -> bool:
    """True for a DTensor, which is laid out over the ranks of a mesh, also where they replicate."""
    return isinstance(tensor, _tensors().DTensor)


def parts(tensors: Iterable[Any]) -> list[Tensor]:
    """What of each is on this rank: of a DTensor its own memory, any other tensor itself.

    DTensor.to_local() would be recorded for autograd, and takes microseconds a tensor without.
    """
    kind = _tensors().DTensor
    return [tensor._local_tensor if isinstance(tensor, kind) else tensor for tensor in tensors]


def keys(tensors: Iterable[Any]) -> list[object]:
    """What is equal where layouts are, and one object where nothing changed: quick to compare."""
    kind = _tensors().DTensor
    return [tensor._spec if isinstance(tensor, kind) else tensor.shape for tensor in tensors]


def same(one: Tensor, other: Tensor) -> bool:
    """True where two tensors of one shape lie on the same ranks in the same parts."""
    if is_sharded(one) != is_sharded(other) or one.shape != other.shape:
        return False
    mine: Any = one
    yours: Any = other
    return not is_sharded(one) or (
        mine.device_mesh == yours.device_mesh and mine.placements == yours.placements
    )


def is_partial(tensor: Any) -> bool:
    """True where ranks hold summands, of which no part is an element."""
    return is_sharded(tensor) and any(place.is_partial() for place in tensor.placements)


def text(tensor: Any) -> str:
    """The layout in words for messages, equal on all ranks."""
    shape = tuple(tensor.shape)
    if not is_sharded(tensor):
        return f"a plain tensor {shape}"
    return f"{shape} as {tuple(tensor.placements)} over ranks {tensor.device_mesh.mesh.tolist()}"


def ranks(tensors: Iterable[Any]) -> list[int]:
    """The ranks of all meshes that the tensors are on, in order."""
    meshes = {tensor.device_mesh for tensor in tensors if is_sharded(tensor)}
    return sorted({rank for mesh in meshes for rank in mesh.mesh.flatten().tolist()})


def like(full: Tensor, template: Any) -> Tensor:
    """A plain tensor, the same on all ranks, laid out as the template; each rank keeps its part."""
    if not is_sharded(template):
        return full
    mesh, places = template.device_mesh, template.placements
    placed: Any = _tensors().distribute_tensor(full.detach(), mesh, places, src_data_rank=None)
    return placed


def gathered(tensor: Any) -> Tensor:
    """The whole tensor, from the parts on all ranks: a collective of its mesh.

    An average that is kept on the CPU goes where the mesh's backend can send it from.
    """
    if not is_sharded(tensor):
        return tensor
    whole: Tensor = tensor.to(tensor.device_mesh.device_type).full_tensor()
    return whole
