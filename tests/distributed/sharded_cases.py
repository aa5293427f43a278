"""What the ranks do in test_sharded_ema.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Partial
from torch.distributed.tensor.debug import CommDebugMode

from yolov5_utils import ModelEMA, ShardedEMA
from yolov5_utils.distributed import layouts, sharded_ema

from ..support import assert_same_bits, assert_same_state
from . import models


def follows_its_twin(way: str, fault: str = "") -> dict[str, int]:
    """Trained for some steps, the bits of an unsharded average after each; how updates ran."""
    model = models.shard(models.net(1), way)
    sharded, twin = models.average_of(model), models.Twin(model)
    if fault:
        plant(sharded, fault)
    before = models.calls()
    for _ in models.train(model, 2) if way != "replicated" else range(2):
        sharded.update(model)
        twin.update(model)
        twin.assert_equals(sharded)
    models.fill(model, 1)
    sharded.update(model)
    twin.update(model)
    twin.assert_equals(sharded)
    return {backend: count - before[backend] for backend, count in models.calls().items()}


def float32_average_of_bfloat16() -> None:
    """As ModelEMA does whose average was made float32: products of 16 bits, sums of 32."""
    model = models.shard(models.net(1, torch.bfloat16), "fsdp")
    sharded = models.average_of(model, dtype=torch.float32)
    twin = models.Twin(model, torch.float32)
    for step in range(3):
        models.fill(model, step + 2)
        sharded.update(model)
        twin.update(model)
        twin.assert_equals(sharded)
    module = sharded.state_dict()["module"]
    assert module["conv.weight"].dtype == torch.float32
    assert module["bn.num_batches_tracked"].dtype == torch.int64


def on_another_device() -> None:
    """`device` leaves layout and bits as they are; here it is the device of the model."""
    model = models.shard(models.net(1), "fsdp")
    sharded, twin = models.average_of(model, device="cpu"), models.Twin(model)
    models.fill(model, 2)
    sharded.update(model)
    twin.update(model)
    twin.assert_equals(sharded)


def sharded_after_the_copy() -> None:
    """Each rank keeps its part of the average, and none of the memory of the whole."""
    model = models.net(1)
    sharded, twin = models.average_of(model), models.Twin(model)
    for way in ("plain", "fsdp", "fsdp"):
        if way != "plain" and not layouts.is_sharded(model.conv.weight):
            models.shard(model, way)
        models.fill(model, sharded.updates + 2)
        sharded.update(model)
        twin.update(model)
        twin.assert_equals(sharded)
    module = sharded.state_dict()["module"]
    assert module["first.weight"] is module["tied.weight"]
    for part in layouts.parts(v for v in module.values() if layouts.is_sharded(v)):
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def wrapped_otherwise() -> None:
    """DDP and torch.compile around a model change neither names nor bits."""
    for make in (models.average_of, lambda made: ModelEMA(made, models.DECAY, tau=models.TAU)):
        model = models.net(1)
        average = make(model)
        parallel = nn.parallel.DistributedDataParallel(model)
        twin = models.Twin(model)
        for wrapped in (parallel, torch.compile(model), torch.compile(parallel), model):
            models.fill(model, average.updates + 2)
            average.update(wrapped)
            twin.update(model)
        if isinstance(average, ShardedEMA):
            twin.assert_equals(average)
        else:
            assert_same_state(average.ema, twin.average.ema)
    for made in (parallel, torch.compile(parallel)):
        assert list(ModelEMA(made).ema.state_dict()) == list(model.state_dict())
        assert list(ShardedEMA(made).state_dict()["module"]) == list(model.state_dict())


def no_collective(fault: str = "") -> None:
    """CommDebugMode counts none; and where only rank 0 updates, it waits for nobody."""
    model = models.shard(models.net(1), "fsdp")
    sharded = models.average_of(model)
    if fault:
        plant(sharded, fault)
    with CommDebugMode() as seen:
        sharded.update(model)
    assert seen.get_total_counts() == 0, seen.get_comm_counts()
    for _ in range(3 if dist.get_rank() == 0 else 0):
        sharded.update(model)
    assert sharded.updates == (4 if dist.get_rank() == 0 else 1)


def swaps(way: str, fault: str = "") -> None:
    """Inside, the average's values; behind, also after an exception, the model's own."""
    model = models.shard(models.net(1), way)
    sharded, twin = models.average_of(model), models.Twin(model)
    models.fill(model, 2)
    sharded.update(model)
    twin.update(model)
    if fault:
        plant(sharded, fault)
    own, average = models.whole(model.state_dict()), twin.average.ema.state_dict()
    kept = models.snapshot(sharded.state_dict()["module"])
    for raises in (False, True):
        expected = pytest.raises(OSError, match="full") if raises else contextlib.nullcontext()
        with expected, sharded.swap(model) as inside:
            assert inside is model
            for name, value in models.whole(model.state_dict()).items():
                assert_same_bits(value, average[name])
            if way != "replicated":  # of which not all operations know
                with torch.no_grad():
                    model(torch.rand(2, 3, 8, 8))  # FSDP gathers, batch norms count
            if raises:
                raise OSError("disk full")
        for name, value in models.whole(model.state_dict()).items():
            assert_same_bits(value, own[name])
        models.assert_parts(sharded.state_dict()["module"], kept)
    if way != "replicated":
        assert list(models.train(model, 1)) == [0]
        sharded.update(model)


def found(case: str, *arguments: str) -> None:
    """The case fails on every rank."""
    with pytest.raises(AssertionError):
        globals()[case](*arguments)


def plant(sharded: ShardedEMA, fault: str) -> None:
    """A mistake that the tests have to find."""
    right = sharded._parts_of

    def wrong_part(model: nn.Module) -> nn.Module:
        source = right(model)
        for name, part in source._buffers.items():
            if "first" in name and part is not None:
                source._buffers[name] = part.flip(0)
        return source

    def with_a_collective(model: nn.Module) -> nn.Module:
        model.conv.weight.full_tensor()  # type: ignore[union-attr, operator]
        return right(model)

    @contextlib.contextmanager
    def without_a_way_back(model: nn.Module) -> Iterator[nn.Module]:
        sharded_ema._copy(sharded.ema._buffers.values(), layouts.parts(sharded._matched(model)))
        yield model

    if fault == "swap":
        sharded.swap = without_a_way_back  # type: ignore[method-assign]
    else:
        sharded._parts_of = {  # type: ignore[method-assign]
            "part": wrong_part,
            "collective": with_a_collective,
        }[fault]


def refuses(change: str) -> list[str]:
    """Updating, swapping and loading a model that was changed: the error; nothing has changed."""
    model = models.shard(models.net(1), "fsdp")
    sharded = models.average_of(model)
    kept = models.snapshot(sharded.state_dict()["module"])
    other = models.net(2)
    if change == "not sharded":
        pass
    elif change == "another mesh":
        models.fully_shard(other, mesh=models.mesh_of(2, dist.get_world_size() // 2))
    elif change == "another placement":
        models.replicated(other)
    elif change == "another shape":
        other.conv = nn.Conv2d(3, 8, 3)
        models.fully_shard(other)
    elif change == "a name less":
        del other.scale
        models.fully_shard(other)
    own = models.whole(other.state_dict())
    said = []
    for call in (sharded.update, lambda changed: sharded.swap(changed).__enter__()):
        with pytest.raises((RuntimeError, KeyError)) as raised:
            call(other)
        said.append(f"{raised.type.__name__}: {raised.value}")
    assert sharded.updates == 0
    models.assert_parts(sharded.state_dict()["module"], kept)
    for name, value in models.whole(other.state_dict()).items():
        assert_same_bits(value, own[name])
    sharded.update(model)  # goes on
    assert said[0] == said[1]
    return said


class WithText(nn.Module):
    def get_extra_state(self) -> str:
        return "text"

    def set_extra_state(self, state: str) -> None:
        pass


def made_of(kind: str) -> str:
    """The error of making an average of such a model."""
    rank = dist.get_rank()
    model = models.net(1)
    if kind == "other widths":
        model.one = nn.Linear(7, 1 + rank)
        models.fully_shard(model.conv)
    elif kind == "other dtypes":
        models.fully_shard(model.conv)
        model.one.to(torch.float64 if rank == 1 else torch.float32)
    elif kind == "one entry more":
        models.fully_shard(model)
        if rank == 1:
            model.register_buffer("zoo", torch.ones(1))
    elif kind == "partial sums":
        mesh = models.mesh_of(dist.get_world_size())
        sums = DTensor.from_local(torch.ones(2), mesh, [Partial()])
        model.register_buffer("anchors", sums)
    elif kind == "an extra state":
        model.more = WithText()
    with pytest.raises((RuntimeError, TypeError)) as raised:
        ShardedEMA(model)
    return f"{raised.type.__name__}: {raised.value}"


def made_on_rank_0_alone() -> str:
    """TimeoutError where the others do not come; they are not kept either."""
    model = models.shard(models.net(1), "fsdp")
    store = dist.distributed_c10d._get_default_store()
    usual = store.timeout
    dist.barrier()
    if dist.get_rank() != 0:
        return ""
    store.set_timeout(timedelta(seconds=1))
    try:
        with pytest.raises(TimeoutError) as raised:
            ShardedEMA(model)
    finally:
        store.set_timeout(usual)
    return str(raised.value)


def model_ema_of_a_sharded_model() -> str:
    with pytest.raises(RuntimeError) as raised:
        ModelEMA(models.shard(models.net(1), "fsdp"))
    return str(raised.value)


def gathered() -> list[int]:
    """The whole average on rank 0 alone, or everywhere; the number of entries here."""
    model = models.shard(models.net(1), "fsdp")
    sharded, twin = models.average_of(model), models.Twin(model)
    models.fill(model, 2)
    sharded.update(model)
    twin.update(model)
    expected = twin.average.ema.state_dict()
    found = [sharded.full_state_dict(), sharded.full_state_dict(rank0_only=False)]
    for state in filter(None, found):
        assert list(state) == list(expected)
        for name, value in expected.items():
            assert type(state[name]) is torch.Tensor
            assert_same_bits(state[name], value)
    parts = {v.data_ptr() for v in layouts.parts(sharded.state_dict()["module"].values())}
    assert not parts & {value.data_ptr() for value in found[1].values() if value.numel()}
    return list(map(len, found))


def attributes() -> None:
    model = models.shard(models.net(1), "fsdp")
    sharded = ShardedEMA(model)
    model.names, model.nc = ["a", "b"], 2  # type: ignore[assignment]
    sharded.update_attr(model, include=["names"])
    assert vars(sharded.attributes) == {"names": ["a", "b"]}


def asked_for_its_state() -> None:
    """A model that only its state_dict knows is averaged like any other."""
    model = models.shard(models.net(1), "fsdp")
    sharded, twin = models.average_of(model), models.Twin(model)
    seen = []
    model.bn.register_state_dict_pre_hook(lambda *_: seen.append("asked"))
    models.fill(model, 2)
    seen.clear()
    sharded.update(model)
    assert seen == ["asked", "asked"]  # once to follow, once to be sure
    seen.clear()
    sharded.update(model)
    assert seen == ["asked"]
    twin.update(model)
    twin.average.update(twin.model)
    twin.assert_equals(sharded)
