"""All or nothing: what a signal handler raises, at any instruction and at random moments, leaves a
model's average and the count of its updates in step, and all layers pruned or none."""

from __future__ import annotations

import random
import statistics
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from yolov5_utils import _native, reference, torch_utils
from yolov5_utils.helpers.mirrors import every_call_is_seen
from yolov5_utils.ops import ema_lists
from yolov5_utils.ops import fuse as fuse_file
from yolov5_utils.ops import prune as prune_file
from yolov5_utils.ops.ema import ModelEMA
from yolov5_utils.ops.prune import prune_layers

from .stepping import (
    Interrupt,
    interrupt,
    interrupt_that_passes,
    interrupted_at_each,
    raising_after,
)

PRUNING = torch_prune.__file__
ACTION = {"C": interrupt, "torch": interrupt_that_passes}


@pytest.fixture(params=("C", "torch"))
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(_native, "_USE_C", request.param == "C")
    return request.param


class Halved:
    """An average of ones that moves half way to zeros at each update, so that its values count."""

    def __init__(self, layers: int, size: int, own: dict[str, Any] | None = None) -> None:
        model = nn.Sequential(*(nn.Linear(size, size) for _ in range(layers)))
        self.model = model.requires_grad_(False)
        for name, buffer in (own or {}).items():
            self.model.register_buffer(name, buffer)
        self.ema = ModelEMA(self.model)
        self.ema.decay = lambda updates: 0.5
        for tensor in self.model.state_dict().values():
            tensor.zero_()
        self.begin()

    def begin(self) -> None:
        self.ema.updates = 0
        for tensor in self.ema.ema.state_dict().values():
            tensor.fill_(1)

    def check(self) -> None:
        """Every element was halved as often as was counted."""
        expected = 0.5**self.ema.updates
        for name, tensor in self.ema.ema.state_dict().items():
            assert bool((tensor == expected).all()), (name, tensor, self.ema.updates)

    def update(self) -> None:
        self.ema.update(self.model)


def at_every_instruction(
    call: Callable[[], Any], check: Callable[[bool], None], *files: str, every: int = 1, **how: Any
) -> None:
    assert interrupted_at_each(call, check, *files, every=every, **how) > 50 * every


# Entries for which the reference keeps copies: of another type, and of a shape that broadcasts.
RISKY = {"float8": torch.ones(3, 1), "wide": torch.ones(2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("risky", [False, True], ids=["", "risky"])
def test_average_at_every_instruction(way: str, risky: bool) -> None:
    halved = Halved(3, 4, RISKY if risky else None)
    if risky:
        halved.model.wide = torch.zeros(1, 3)
    seen = set()

    def check(interrupted: bool) -> None:
        halved.check()
        seen.add((interrupted, halved.ema.updates))
        halved.begin()

    at_every_instruction(halved.update, check)
    assert seen == {(True, 0), (True, 1), (False, 1)}


def usual_s(function: Callable[[], object]) -> float:
    """How long a call takes, but for the first ones, which do more."""
    return statistics.median(timeit.repeat(function, number=1, repeat=7))


@pytest.mark.parametrize(
    "dtypes",
    [(torch.float32,) * 2, (torch.float32, torch.bfloat16, torch.float64)],
    ids=["one list", "a list each"],
)
def test_average_in_lists_at_every_instruction(dtypes: tuple[torch.dtype, ...]) -> None:
    """The operations of a GPU's way, which also run on the CPU; 16-bit entries among them."""
    values = [torch.ones(3, dtype=dtype) for dtype in dtypes]
    pairs = [(value, torch.zeros_like(value)) for value in values]
    done: list[bool] = []

    def check(_: bool) -> None:
        expected = 0.5 if done else 1
        assert all(bool((value == expected).all()) for value in values)
        done.clear()
        for value in values:
            value.fill_(1)

    at_every_instruction(lambda: ema_lists.update_pairs(pairs, 0.5, done), check)


def test_average_at_random_moments(way: str) -> None:
    halved = Halved(60, 40)
    generator = random.Random(5)
    takes_s = usual_s(halved.update)
    halved.begin()
    interrupted = counted = 0
    for _ in range(300):
        if halved.ema.updates > 20:
            halved.begin()
        before = halved.ema.updates
        try:
            with raising_after(max(generator.uniform(0, 1.5 * takes_s), 1e-6)):
                halved.update()
        except Interrupt:
            interrupted += 1
            counted += halved.ema.updates - before
        halved.check()
    assert interrupted > 30
    assert counted <= interrupted


def test_what_the_decay_raises_is_not_counted(way: str) -> None:
    halved = Halved(2, 3)
    halved.ema.decay = interrupt
    with pytest.raises(Interrupt):
        halved.update()
    halved.check()
    assert halved.ema.updates == 0


def test_no_mode_is_left_behind() -> None:
    """Of model_info's, which lets no values through."""

    def check(_: bool) -> None:
        assert torch._C._len_torch_function_stack() == 0
        assert torch.zeros(1) == 0

    try:
        at_every_instruction(every_call_is_seen.__wrapped__, check, torch.overrides.__file__)
    finally:  # for the tests that follow
        while torch._C._len_torch_function_stack():
            torch.overrides._pop_mode()


class Layers:
    """Convolutions that are pruned as a whole; two are tied, one has many equal weights."""

    def __init__(self, count: int, size: int) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(*(nn.Conv2d(size, size + i % 3, 3) for i in range(count)))
        self.model.append(nn.Conv2d(size, size, 1)).append(nn.Conv2d(size, size, 1))
        self.model[-1].weight = self.model[-2].weight
        self.model[0].weight.data = self.model[0].weight.data.half().float()
        self.weights = [layer.weight for layer in self.model]
        self.values = [weight.detach().clone() for weight in self.weights]
        self.model.requires_grad_(False)
        self.prune()
        self.pruned = [weight.detach().clone() for weight in self.weights]
        self.begin()

    def begin(self) -> None:
        for layer, weight, value in zip(self.model, self.weights, self.values, strict=True):
            layer.__dict__["_parameters"] = {"weight": weight, "bias": layer.bias}
            weight.data = value.clone()

    def prune(self) -> None:
        prune_layers(self.model, 0.5, ties="torch")

    def check(self) -> bool:
        """Whether all are pruned; fails where only some are, or where a layer is not whole."""
        done = [torch.equal(w, pruned) for w, pruned in zip(self.weights, self.pruned, strict=True)]
        names = ["bias", "weight"] if all(done) else ["weight", "bias"]
        expected = self.pruned if all(done) else self.values
        for layer, weight, value in zip(self.model, self.weights, expected, strict=True):
            assert layer.weight is weight
            assert list(layer._parameters) == names, done
            assert torch.equal(weight, value), done
        return all(done)


@pytest.mark.slow
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20], ids=["one by one", "together"])
def test_prune_at_every_instruction(
    way: str, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_file, "_BATCH_BYTES", batch_bytes)
    layers = Layers(3, 4)
    seen = set()

    def check(interrupted: bool) -> None:
        seen.add((interrupted, layers.check()))
        layers.begin()

    every = 5 if way == "torch" else 1 if batch_bytes == 1 else 3
    at_every_instruction(layers.prune, check, PRUNING, every=every, action=ACTION[way])
    assert {(True, False), (False, True)} < seen or way == "torch"
    assert way == "torch" or (True, True) in seen


def test_prune_at_random_moments(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_file, "_BATCH_BYTES", 1)
    layers, generator = Layers(12, 16), random.Random(6)
    takes_s = usual_s(layers.prune)
    layers.begin()
    outcomes = []
    for _ in range(150):
        try:
            with raising_after(max(generator.uniform(0, 1.5 * takes_s), 1e-6), ACTION[way]):
                layers.prune()
        except Interrupt:
            outcomes.append(layers.check())
        else:
            assert layers.check()
        layers.begin()
    assert len(outcomes) > 15


def failing_fill(
    monkeypatch: pytest.MonkeyPatch, problem: Callable[[int], BaseException | None]
) -> list[int]:
    """Has layers pruned one by one, and each step raise what `problem` says of its number."""
    fill, calls = prune_file._fill, list[int]()

    def failing(batch: Any, ties: str) -> Any:
        calls.append(len(calls))
        error = problem(len(calls))
        if error is not None:
            raise error
        return fill(batch, ties)

    monkeypatch.setattr(prune_file, "_BATCH_BYTES", 1)
    monkeypatch.setattr(prune_file, "_fill", failing)
    return calls


def test_more_signals_while_the_rest_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one is raised, those before it are its cause."""
    layers = Layers(3, 4)
    calls = failing_fill(monkeypatch, lambda number: Interrupt(number) if number % 2 == 0 else None)
    with pytest.raises(Interrupt) as raised:
        layers.prune()
    assert layers.check()
    found, seen = raised.value, []
    while found is not None:
        seen.append(found.args)
        found = found.__cause__
    assert seen == [(n,) for n in range(len(calls) - 1, 0, -2)]
    assert len(seen) > 2


def test_errors_that_stay_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lack of memory, say: tried a few times, then raised, with the earlier batches pruned."""
    layers = Layers(3, 4)
    calls = failing_fill(monkeypatch, lambda number: MemoryError("no more") if number > 2 else None)
    with pytest.raises(MemoryError, match="no more") as raised:
        layers.prune()
    assert isinstance(raised.value.__cause__, MemoryError)
    assert len(calls) == 2 + prune_file._TRIES
    calls[:] = [0, 1]  # an error of the first batch is raised at once
    layers.begin()
    with pytest.raises(MemoryError):
        layers.prune()
    assert len(calls) == 3
    assert not layers.check()


def test_the_reference_marks_what_it_did() -> None:
    done: list[bool] = []
    reference.ema_update(nn.Linear(2, 2), nn.Linear(2, 2), 0.5, done)
    assert done == [True]
    with pytest.raises(KeyError):
        reference.ema_update(nn.Linear(2, 2), nn.ReLU(), 0.5, done := [])
    assert done == []


CONV, BN, IMAGES = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), torch.rand(1, 3, 40, 50)
CALLS: dict[str, Callable[[], Any]] = {  # that change nothing
    "fuse": lambda: torch_utils.fuse_conv_and_bn(CONV, BN),
    "sparsity": lambda: torch_utils.sparsity(CONV),
    "scale_img": lambda: torch_utils.scale_img(IMAGES, 0.83, gs=32),
    "scale_img, a gs for torch": lambda: torch_utils.scale_img(IMAGES, 0.83, gs=np.int64(32)),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_handler_raises_arrives(way: str, name: str) -> None:
    CALLS[name]()  # what is found out at the first call is no part of this
    at_every_instruction(CALLS[name], lambda interrupted: None)


TRIALS: dict[str, Callable[[], Any]] = {  # which the first call makes
    "fuse": lambda: fuse_file._agrees(torch.bfloat16, 7, 1e-3),
    "prune": lambda: prune_file._choice_is_known.__wrapped__(torch.float32),
}


@pytest.mark.parametrize("name", TRIALS)
def test_what_a_handler_raises_in_a_trial_arrives(name: str) -> None:
    """No trial takes it for torch's answer, which would be remembered."""
    TRIALS[name]()  # makes what is kept, so that all calls take the same steps
    every = 1 if name == "fuse" else 9
    at_every_instruction(TRIALS[name], lambda interrupted: None, every=every)
