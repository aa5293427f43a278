"""ShardedEMA: ModelEMA for models whose parameters are spread over ranks, as FSDP2 leaves them.

Each rank averages its own parts with the kernel of ModelEMA. No part needs another one: an update
makes no collective, and the parts together have the bits of an unsharded ModelEMA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..ops.ema import update_counted
from ..parallel import bare, copy_attr
from . import entries, layouts
from .meeting import meet

_NAME = "ShardedEMA"


class ShardedEMA:
    """Exponential moving average of a model, each rank with its own parts of it.

    Made on every rank, of a plain model or of one that is sharded already (by FSDP2's
    `fully_shard`, tensor parallel; torch 2.7 or later). `updates` and `decay` are those of
    ModelEMA and may be replaced; `ema` holds this rank's parts, `attributes` what `update_attr`
    copied. The average is kept on `device` and, where floating, in `dtype`; by default each tensor
    as the model has it.

    RuntimeError where the ranks do not have the same model, TimeoutError where one does not come.

    >>> model = nn.Linear(2, 2)
    >>> ema = ShardedEMA(model)
    >>> ema.update(model)
    >>> ema.updates
    1
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.9999,
        updates: int = 0,
        *,
        tau: float = 2000,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        layouts.require()
        self.updates = updates
        self.decay: Callable[[int], float] = lambda x: decay * (1 - math.exp(-x / tau))
        self.attributes = SimpleNamespace()
        self.ema, self._source = nn.Module(), nn.Module()
        self._device, self._dtype = device, dtype
        state = _state_of(model)
        _raise_unless_alike(state)
        self._keep(self._copies(state))

    def update(self, model: nn.Module) -> None:
        """Average this rank's part of `model` (also in DDP or torch.compile); no collective.

        KeyError names an entry that `model` lacks, RuntimeError one that is laid out otherwise than
        the average; nothing has changed then. An average of a model that was sharded since is
        sharded likewise.
        """
        try:
            update_counted(self, model, self._parts_of)
        finally:
            self._source._buffers = {}  # else a model that is gone would keep its memory

    def state_dict(self) -> dict[str, Any]:
        """{"module": {name: DTensor or tensor}, "updates": int}, the average itself, not copied.

        With `load_state_dict` the protocol of torch.distributed.checkpoint for what has a state.
        """
        return {"module": dict(self._state), "updates": self.updates}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over such a state on every rank; its tensors are sharded as here, or whole.

        RuntimeError on every rank, with nothing changed, where one of them cannot take it.
        """
        module = state_dict["module"]
        problem = next(self._problems_with(module), "")
        said = _meet("load_state_dict", self._state, problem)
        worst = next((f"rank {rank}: {text}" for rank, text in said.items() if text), problem)
        if worst:
            raise RuntimeError(f"{_NAME}.load_state_dict: {worst}")
        others = [(mine, module[name]) for name, mine in self._state.items()]
        others = [(mine, other) for mine, other in others if other is not mine]
        with torch.no_grad():
            for mine, other in others:
                kept, new = layouts.parts([mine, layouts.like(other, mine)])
                kept.copy_(new)
        self.updates = state_dict["updates"]

    def full_state_dict(self, rank0_only: bool = True) -> dict[str, Tensor]:
        """The whole average on the CPU, as `ema.ema.state_dict()` of a plain ModelEMA has it.

        Called on every rank: gathers one tensor after the other, the only collectives of the class.
        With `rank0_only` the other ranks get {}.
        """
        _meet("full_state_dict", self._state)
        wanted = not rank0_only or not dist.is_initialized() or dist.get_rank() == 0
        whole: dict[str, Tensor] = {}
        for name, value in self._state.items():
            full = layouts.gathered(value)
            if wanted:
                whole[name] = full.detach().to("cpu", copy=True)
        return whole

    @contextmanager
    def swap(self, model: nn.Module) -> Iterator[nn.Module]:
        """`model` with the average in place of its own weights and buffers, as long as it lasts.

        Its own come back also after an exception. Memory: this rank's parts once more.
        """
        parts = layouts.parts(self._matched(model))
        before = [part.detach().clone() for part in parts]
        try:
            _copy(self.ema._buffers.values(), parts)
            yield model
        finally:  # asked anew: FSDP may have gathered its parameters meanwhile, or moved them
            _copy(before, layouts.parts(self._matched(model)))

    def update_attr(
        self,
        model: nn.Module,
        include: Collection[str] = (),
        exclude: Collection[str] = ("process_group", "reducer"),
    ) -> None:
        """Copy the model's public attributes (only `include` where given) to `attributes`."""
        copy_attr(self.attributes, model, include, exclude)

    def _copies(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The average at its start: what was one tensor, or one memory, is one again."""
        copies: dict[int, Tensor] = {}
        memo: dict[int, Any] = {}
        for value in state.values():
            if id(value) not in copies:
                new = value.detach()
                new = new.clone() if layouts.is_sharded(new) else deepcopy(new, memo)
                dtype = self._dtype if new.is_floating_point() else None
                copies[id(value)] = new.to(device=self._device, dtype=dtype)
        return {name: copies[id(value)] for name, value in state.items()}

    def _keep(self, state: dict[str, Tensor]) -> None:
        """Make this the average. C takes no names with dots, as they might name two entries."""
        names = (f"{i} {name.replace('.', '/')}" for i, name in enumerate(state))
        self._state, self._seen = state, list[object]()
        self.ema._buffers = dict(zip(names, layouts.parts(state.values()), strict=True))

    def _parts_of(self, model: nn.Module) -> nn.Module:
        """This rank's part of the model, by the names that `ema` has."""
        parts = layouts.parts(self._matched(model))
        if self._device is not None:
            parts = [part.to(self._device) for part in parts]
        self._source._buffers = dict(zip(self.ema._buffers, parts, strict=True))
        return self._source

    def _matched(self, model: nn.Module) -> list[Tensor]:
        """The model's tensors in the order of the average's, laid out as those are."""
        model = bare(model)
        for state in (entries.read(model), None):
            if state is None:
                state = model.state_dict(keep_vars=True)  # puts back what FSDP2 has gathered
            values = [state[name] for name in self._state]
            keys = layouts.keys(values)
            if keys == self._seen:
                return values
        self._follow(values)
        self._seen = keys
        return values

    def _follow(self, values: list[Tensor]) -> None:
        """Shard what the model has sharded since; RuntimeError where layouts differ otherwise."""
        laid_out: dict[int, Tensor] = {}
        for (name, mine), value in zip(self._state.items(), values, strict=True):
            if layouts.same(mine, value):
                laid_out[id(mine)] = mine
            elif layouts.is_sharded(mine) or mine.shape != value.shape:
                raise RuntimeError(
                    f"{_NAME}: rank {_rank()}: {name} is {layouts.text(value)} in the model, "
                    f"{layouts.text(mine)} in the average"
                )
            elif id(mine) not in laid_out:
                laid_out[id(mine)] = layouts.like(mine, value).to(mine.device).clone()
        self._keep({name: laid_out[id(mine)] for name, mine in self._state.items()})

    def _problems_with(self, module: Mapping[str, Any]) -> Iterator[str]:
        """Why these entries cannot be the average's, in words."""
        for name in [*self._state, *module]:
            if name not in module or name not in self._state:
                yield f"{name} is only in the {'average' if name in self._state else 'checkpoint'}"
        for name, mine in self._state.items():
            new = module[name]
            fits = layouts.same(mine, new) or (
                mine.shape == new.shape and not layouts.is_sharded(new)
            )
            if not fits:
                yield (
                    f"{name} is {layouts.text(new)} in the checkpoint, "
                    f"{layouts.text(mine)} in the average"
                )


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors by name; TypeError or RuntimeError for what has no average."""
    state: dict[str, Any] = bare(model).state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{_NAME}: {name} is no tensor but a {type(value).__name__}")
        if layouts.is_partial(value):
            raise RuntimeError(f"{_NAME}: {name} is {layouts.text(value)}: sums, no elements")
    return state


def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _meet(topic: str, state: Mapping[str, Tensor], said: str = "") -> dict[int, str]:
    """meeting.meet of all ranks that share the state; {} where it is nobody else's."""
    ranks = layouts.ranks(state.values())
    if not ranks:
        return {}
    if not dist.is_initialized():
        raise RuntimeError(f"{_NAME}: a sharded model needs torch.distributed's process group")
    return meet(f"{_NAME} {topic}", ranks, said)


def _raise_unless_alike(state: Mapping[str, Tensor]) -> None:
    """RuntimeError on every rank for the first entry in which the ranks' models differ."""
    lines = [f"{name}: {layouts.text(v)}, {v.dtype}" for name, v in state.items()]
    said = _meet("made", state, "\n".join(lines))
    if said:
        first, *others = ((rank, text.splitlines()) for rank, text in said.items())
        rank, one, other = next(
            (rank, one, other)
            for rank, theirs in others
            for one, other in zip_longest(first[1], theirs, fillvalue="nothing more")
            if one != other
        )
        raise RuntimeError(
            f"{_NAME}: the models differ: rank {first[0]} has {one}; rank {rank} has {other}"
        )
