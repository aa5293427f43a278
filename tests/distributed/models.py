"""A model with every kind of entry, ways to shard it, and the unsharded twin that is compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from yolov5_utils import ModelEMA, ShardedEMA
from yolov5_utils.ops import OPERATIONS

from ..support import assert_same_bits, values

DECAY, TAU = 0.97, 1.5  # so that the first updates keep something of what there was


class Net(nn.Module):
    """Uneven rows (7), fewer rows than ranks (1), tied weights, buffers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3)
        self.bn = nn.BatchNorm2d(7)
        self.one = nn.Linear(7, 1)
        self.first = nn.Linear(6, 6, bias=False)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("anchors", torch.ones(3, 2))
        self.register_buffer("hidden", torch.ones(3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        mixed = self.bn(self.conv(images)).mean((2, 3))
        wide = self.tied(self.first(mixed[:, :6]))
        return self.one(mixed).sum() + (wide.sum() * self.scale).sum() + self.anchors.sum()


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    """The same values on every rank, as torch begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net().to(dtype)


def fill(model: nn.Module, seed: int) -> None:
    """Values over many binades in all that floats; of a DTensor each rank makes the whole."""
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict(keep_vars=True).values()):
            if tensor.is_floating_point():
                new = values(tensor.numel(), tensor.dtype, 1000 * seed + number).view(tensor.shape)
                if isinstance(tensor, DTensor):
                    mesh, places = tensor.device_mesh, tensor.placements
                    new = distribute_tensor(new, mesh, places, src_data_rank=None).to_local()
                    tensor = tensor.to_local()
                tensor.copy_(new)


def mesh_of(*sizes: int) -> Any:
    names = ("replicas", "shards")[-len(sizes) :]
    return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def replicated(model: nn.Module) -> nn.Module:
    """Every parameter a DTensor: whole on each rank, or split by its last dimension."""
    mesh = mesh_of(dist.get_world_size())
    placed: dict[Tensor, nn.Parameter] = {}
    for number, module in enumerate(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in placed:
                place = [Replicate() if number % 2 else Shard(parameter.ndim - 1)]
                split = distribute_tensor(parameter.detach(), mesh, place, src_data_rank=None)
                placed[parameter] = nn.Parameter(split)
            module.register_parameter(name, placed[parameter])
    return model


def shard(model: nn.Module, way: str) -> nn.Module:
    """The model, sharded in one of several ways."""
    world = dist.get_world_size()
    if way == "fsdp":
        fully_shard(model.bn)
        return fully_shard(model)
    if way == "kept":  # the parameters stay whole after a forward pass
        return fully_shard(model, reshard_after_forward=False)
    if way == "hybrid":
        return fully_shard(model, mesh=mesh_of(2, world // 2))
    if way == "columns":
        mesh = mesh_of(world)
        return fully_shard(
            model, mesh=mesh, shard_placement_fn=lambda p: Shard(1) if p.shape[0] == 6 else None
        )
    return replicated(model) if way == "replicated" else model


WAYS = ("fsdp", "kept", "hybrid", "columns", "replicated", "plain")


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies without shards; a collective."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in state.items()
    }


class Twin:
    """An unsharded ModelEMA that is given the same full tensors."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None) -> None:
        self.model = net()
        self.take(model)
        self.average = ModelEMA(self.model, DECAY, tau=TAU)
        if dtype is not None:
            self.average.ema.to(dtype)

    def take(self, model: nn.Module) -> None:
        state = whole(model.state_dict())
        self.model.to(state["conv.weight"].dtype).load_state_dict(state)

    def update(self, model: nn.Module) -> None:
        self.take(model)
        self.average.update(self.model)

    def assert_equals(self, sharded: ShardedEMA) -> None:
        assert sharded.updates == self.average.updates
        found, expected = whole(sharded.state_dict()["module"]), self.average.ema.state_dict()
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_same_bits(found[name], value)
        finite = [value.isfinite().float().mean() for value in expected.values()]
        assert sum(finite) / len(finite) > 0.5  # of NaNs all are equal


def average_of(model: nn.Module, **options: Any) -> ShardedEMA:
    return ShardedEMA(model, DECAY, tau=TAU, **options)


def train(model: nn.Module, steps: int, rate: float = 1e-3) -> Iterator[int]:
    """Steps of SGD on numbers of each rank's own."""
    optimizer = torch.optim.SGD(model.parameters(), rate)
    generator = torch.Generator().manual_seed(dist.get_rank())
    for step in range(steps):
        model(torch.rand(2, 3, 8, 8, generator=generator)).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield step


def snapshot(module: dict[str, Tensor]) -> dict[str, Tensor]:
    """This rank's parts, copied."""
    return {
        name: copy.deepcopy(value.to_local() if isinstance(value, DTensor) else value.detach())
        for name, value in module.items()
    }


def assert_parts(module: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    found = snapshot(module)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert_same_bits(found[name], value)


def calls() -> dict[str, int]:
    return OPERATIONS["ema"].counted()
