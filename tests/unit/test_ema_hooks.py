"""State-dict hooks anywhere in two trees that are drawn at random, whose modules need not match:
the EMA has the original's result, or its exception, whether or not the walk in C sees the hook."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import torch
from torch import nn

from yolov5_utils import reference
from yolov5_utils.ops.ema import update_modules


class Hooked(nn.Module):
    """Doubles the first entry of the whole state dict, which is another module's."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        if late:
            self.linear = nn.Linear(2, 1)
        self._register_state_dict_hook(self.double)

    @staticmethod
    def double(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
        first = next(iter(state))
        state[first] = state[first] * 2


def tree(draw: random.Random, hooks: bool, depth: int = 0) -> nn.Module:
    """Modules under a few names, so that two trees share some of them; None here and there."""
    module = nn.Module()
    if depth == 0:
        module.first = nn.Linear(2, 2)
    for name in draw.sample("abc", draw.randrange(1, 4)):
        kind = draw.choice(("linear", "none", "nothing", "tree", "hooked"))
        if kind == "none":
            module.add_module(name, None)
        elif kind == "nothing":
            module.add_module(name, nn.Identity())
        elif kind == "tree" and depth < 2:
            module.add_module(name, tree(draw, hooks, depth + 1))
        elif kind == "hooked" and hooks:
            module.add_module(name, Hooked(draw.random() < 0.5))
        elif kind == "linear":
            module.add_module(name, nn.Linear(2, 2))
    return module.requires_grad_(False)


def outcome(update: object, average: nn.Module, source: nn.Module) -> tuple[object, object]:
    average = copy.deepcopy(average)
    try:
        update(average, source, 0.5)  # type: ignore[operator]
    except (KeyError, RuntimeError) as error:
        return type(error), None
    state = average.state_dict()
    return list(state), [value.clone() for value in state.values()]


def test_hooks_out_of_sight(rounds: Callable[[int], range]) -> None:
    taken, numbers = 0, rounds(400)
    for number in numbers:
        draw = random.Random(number)
        source, average = tree(draw, hooks=True), tree(draw, hooks=draw.random() < 0.3)
        if draw.random() < 0.5:  # the same modules, one hidden by None
            average = copy.deepcopy(source)
            names = [name for name, child in average.named_children() if name != "first"]
            if names:
                setattr(average, draw.choice(names), draw.choice((None, nn.Identity())))
        keys, values = outcome(update_modules, average, source)
        expected_keys, expected = outcome(reference.ema_update, average, source)
        assert keys == expected_keys, f"seed {number}"
        if values is not None and expected is not None:
            taken += 1
            for value, wanted in zip(values, expected, strict=True):  # type: ignore[arg-type]
                assert torch.equal(value, wanted), f"seed {number}"
    assert taken > len(numbers) // 20  # not all of them raise
