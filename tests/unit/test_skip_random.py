"""_C.skip_random: the state that as many draws leave, by torch and by Python's own mt19937."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
import torch
from torch import Tensor

from yolov5_utils import _native

skip_random = _native._C.skip_random

LAYOUT = struct.Struct("<QiiQ624Q40s")  # seed, left, seeded, next, words, what normal_ keeps


def generator(seed: int = 0, drawn: int = 0) -> torch.Generator:
    made = torch.Generator().manual_seed(seed)
    torch.empty(drawn).uniform_(generator=made)
    return made


def unpacked(made: torch.Generator) -> list[Any]:
    return list(LAYOUT.unpack(made.get_state().numpy().tobytes()))


def packed(fields: list[Any]) -> torch.Generator:
    made = torch.Generator()
    made.set_state(torch.frombuffer(bytearray(LAYOUT.pack(*fields)), dtype=torch.uint8))
    return made


def same_state(a: torch.Generator, b: torch.Generator) -> bool:
    return torch.equal(a.get_state(), b.get_state())


@pytest.mark.parametrize("draws", [0, 1, 2, 622, 623, 624, 625, 1247, 1248, 1249, 100_000])
@pytest.mark.parametrize("drawn", [0, 1, 2, 622, 623, 624, 625, 1000])
def test_python_leaves_the_same_words(level: str, drawn: int, draws: int) -> None:
    ours = generator(5, drawn)
    _, left, _, _, *words = unpacked(ours)[:-1]
    theirs = random.Random()
    theirs.setstate((3, (*words, 625 - left), None))
    theirs.getrandbits(32 * draws)
    skip_random(ours, draws)
    seed, left, seeded, place, *words = unpacked(ours)[:-1]
    assert (seed, seeded) == (5, 1)
    assert theirs.getstate()[1] == (*words, 625 - left)
    assert place == (625 - left if drawn or draws else 0)


@pytest.mark.parametrize("place", range(0, 1300, 13))
def test_torch_leaves_the_same_state_from_everywhere(place: int) -> None:
    for draws in (1, 15, 16, 17, 311, 623, 624, 625, 40_000):
        ours, theirs = generator(7, place), generator(7, place)
        torch.empty(draws).uniform_(generator=theirs)
        skip_random(ours, draws)
        assert same_state(ours, theirs), draws


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_normal_keeps_stays(dtype: torch.dtype) -> None:
    ours, theirs = generator(3), generator(3)
    for made in (ours, theirs):
        torch.randn(1, generator=made, dtype=dtype)
    skip_random(ours, 1000)
    torch.empty(1000).uniform_(generator=theirs)
    assert same_state(ours, theirs)
    kept, fresh = unpacked(ours)[-1], unpacked(generator(3))[-1]
    assert kept != fresh
    numbers = [torch.randn(3, generator=made, dtype=dtype) for made in (ours, theirs)]
    assert torch.equal(*numbers)


def test_inference_mode() -> None:
    ours, theirs = generator(1), generator(1)
    with torch.inference_mode():
        skip_random(ours, 700)
    torch.empty(700).uniform_(generator=theirs)
    assert same_state(ours, theirs)


def test_both_ways_to_the_state(way_to_memory: str) -> None:
    ours, theirs = generator(1), generator(1)
    skip_random(ours, 700)
    torch.empty(700).uniform_(generator=theirs)
    assert same_state(ours, theirs)


class Pretender:
    """A generator with a state of our choice, which must not be set."""

    def __init__(self, state: object) -> None:
        self.state = state

    def get_state(self) -> object:
        return self.state

    def set_state(self, state: object) -> None:
        raise AssertionError("set")


def wide_place() -> Tensor:
    fields = unpacked(generator())
    fields[3] = 1 << 32
    return torch.frombuffer(bytearray(LAYOUT.pack(*fields)), dtype=torch.uint8)


@pytest.mark.parametrize(
    "state",
    [
        torch.zeros(5056, dtype=torch.uint8),
        torch.zeros(5055, dtype=torch.uint8),
        torch.zeros(16, dtype=torch.uint8),  # a generator on a GPU
        torch.zeros(5056),
        torch.zeros(2 * 5056, dtype=torch.uint8)[::2],
        torch.zeros(2, 2528, dtype=torch.uint8),
        torch.zeros(5056, dtype=torch.uint8, device="meta"),
        wide_place(),
        bytes(5056),
        None,
    ],
    ids=str,
)
def test_other_states_are_refused(state: object) -> None:
    with pytest.raises(_native.Unsupported):
        skip_random(Pretender(state), 3)


@pytest.mark.parametrize(("left", "place"), [(300, 300), (5, 0), (624, 2)])
def test_a_state_that_no_draw_leaves_is_refused_and_kept(left: int, place: int) -> None:
    fields = unpacked(generator())
    fields[1], fields[3] = left, place
    made = packed(fields)
    with pytest.raises(_native.Unsupported, match="none that a draw leaves"):
        skip_random(made, 3)
    assert unpacked(made) == fields


def test_wrong_arguments() -> None:
    made = generator()
    before = made.get_state()
    for draws, error in ((-1, OverflowError), (1 << 64, OverflowError), (1.0, TypeError)):
        with pytest.raises(error):
            skip_random(made, draws)
    with pytest.raises(AttributeError, match="get_state"):
        skip_random(object(), 1)
    with pytest.raises(TypeError, match="missing required argument 'draws'"):
        skip_random(made)
    assert torch.equal(made.get_state(), before)


def test_errors_of_the_generator_pass_through() -> None:
    class Stubborn(Pretender):
        def set_state(self, state: object) -> None:
            raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        skip_random(Stubborn(generator().get_state()), 3)


class Busy:
    """A generator from which others draw a number after each of the first looks at its state."""

    def __init__(self, busy: int) -> None:
        self.own, self.busy = generator(9), busy

    def get_state(self) -> Tensor:
        state = self.own.get_state()
        if self.busy:
            self.busy -= 1
            torch.empty(1).uniform_(generator=self.own)
        return state

    def set_state(self, state: Tensor) -> None:
        self.own.set_state(state)


@pytest.mark.parametrize("draws", [3, 1000])
@pytest.mark.parametrize("busy", [1, 2, 5])
def test_draws_of_others_meanwhile_count(busy: int, draws: int) -> None:
    ours, theirs = Busy(busy), generator(9)
    skip_random(ours, draws)
    torch.empty(busy + draws).uniform_(generator=theirs)
    assert same_state(ours.own, theirs)


def test_draws_of_others_without_end_are_refused() -> None:
    ours, theirs = Busy(1000), generator(9)
    with pytest.raises(_native.Unsupported, match="all the time"):
        skip_random(ours, 3)
    torch.empty(1000 - ours.busy).uniform_(generator=theirs)
    assert same_state(ours.own, theirs)


@pytest.mark.skipif(not hasattr(torch.device, "__enter__"), reason="this torch has no such mode")
def test_a_mode_of_torch_is_refused() -> None:
    with torch.device("cpu"), pytest.raises(_native.Unsupported, match="mode"):
        skip_random(generator(), 3)
