"""Run by test_borrowed_phase.py on its own: python -m tests.robustness.attack SEED ROUNDS

Legal Python code that runs in the middle of a call, wherever the extension has to run any (look-ups
by odd keys, attributes that are computed, finalizers, guards), and changes what the call works on:
drawn at random. Whatever comes of the call, memory must stay sound; results are of no interest.
"""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from yolov5_utils import _C, _native
from yolov5_utils.ops.fuse import convolution_prototype

KINDS = (torch.float32, torch.float64, torch.float16, torch.int64)


def assign(value: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """A change of tensor.data to what this makes of it."""

    def change(tensor: Tensor) -> None:
        tensor.data = value(tensor.data)

    return change


def resize_to_nothing(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


TENSOR_CHANGES: dict[str, Callable[[Tensor], None]] = {
    "no elements": assign(lambda data: torch.zeros(0)),
    "one element": assign(lambda data: torch.zeros(1)),
    "two elements": assign(lambda data: torch.zeros(2)),
    **{f"as {kind}": assign(lambda data, kind=kind: data.to(kind)) for kind in KINDS},
    "a copy": assign(lambda data: data.clone()),
    "no storage": resize_to_nothing,
    "twice as large": assign(lambda data: data.repeat(2, *[1] * (data.dim() - 1)).clone()),
    "the other order": assign(lambda data: data.t() if data.dim() == 2 else data[:1]),
}


def copy_dict(name: str) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        module.__dict__[name] = dict(module.__dict__[name])

    return change


def clear_dict(name: str) -> Callable[[nn.Module], None]:
    return lambda module: module.__dict__[name].clear()


class Overridden(nn.Module):
    """A type that some walk cannot replace."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {}

    def parameters(self, recurse: bool = True) -> Any:
        return iter(())


def change_type(module: nn.Module) -> None:
    module.__class__ = Overridden


def replace_parameters(module: nn.Module) -> None:
    for name, value in list(module._parameters.items()):
        if value is not None:
            module._parameters[name] = nn.Parameter(torch.zeros(2), value.requires_grad)


DICTS = ("_parameters", "_buffers", "_modules")
MODULE_CHANGES: dict[str, Callable[[nn.Module], object]] = {
    **{f"a copy of {name}": copy_dict(name) for name in DICTS},
    **{f"nothing in {name}": clear_dict(name) for name in DICTS},
    "new parameters": replace_parameters,
    "a hook": lambda module: module._register_state_dict_hook(lambda *_: None),
    "another type": change_type,
}


def free_what_gc_lists() -> None:
    for found in gc.get_objects():
        if type(found) is Tensor and found.numel() > 500 and not found.requires_grad:
            found.data = torch.zeros(1)


def register_again() -> None:
    _C.register_torch(_native.TorchFacts())


CHANGES: dict[str, Callable[[], object]] = {
    "a collection": gc.collect,
    "what gc lists": free_what_gc_lists,
    "torch again": register_again,
}


class Attacker:
    """Strikes once, at the `after`-th chance it gets from the start of a call on."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.countdown = 0
        self.targets: list[Any] = []
        self.kept: list[Any] = []

    def chance(self) -> None:
        if self.countdown > 0:
            self.countdown -= 1
            if self.countdown == 0:
                self.strike()

    def strike(self) -> None:
        target = self.draw.choice(self.targets)
        if isinstance(target, Tensor):
            with contextlib.suppress(RuntimeError):
                self.draw.choice([*TENSOR_CHANGES.values()])(target)
        elif isinstance(target, nn.Module):
            self.draw.choice([*MODULE_CHANGES.values()])(target)
        elif isinstance(target, list):
            target.clear()
        else:
            target()
        if self.draw.random() < 0.3:  # whatever was freed is used by others
            self.kept = [b"\xaa" * n for n in range(1, 200)]
        if self.draw.random() < 0.2:
            gc.collect()

    def arm(self, *targets: Any) -> None:
        self.targets = [*targets, *CHANGES.values()]
        self.countdown = self.draw.randrange(1, 25)


ATTACKER = Attacker(random.Random(0))


class Key(str):
    """A name whose look-up runs code."""

    __slots__ = ()

    def __hash__(self) -> int:
        ATTACKER.chance()
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        ATTACKER.chance()
        return str.__eq__(self, other)


class Norm(nn.BatchNorm2d):
    """A batch norm whose attributes are computed; nobody but the reader holds some of them."""

    def __getattr__(self, name: str) -> Any:
        ATTACKER.chance()
        value = super().__getattr__(name)
        # torch itself reads through a storage that was taken away
        whole = isinstance(value, Tensor) and value.untyped_storage().nbytes() > 0
        if whole and ATTACKER.draw.random() < 0.3:
            value = value.detach().clone()
            ATTACKER.kept.append(weakref.ref(value, lambda _: ATTACKER.chance()))
        return value


class Conv(nn.Conv2d):
    """The same of a convolution; it may enter a function mode."""

    def __getattr__(self, name: str) -> Any:
        ATTACKER.chance()
        if ATTACKER.draw.random() < 0.01:
            Mode().__enter__()
        return super().__getattr__(name)


class Mode(TorchFunctionMode):
    """Answers what it likes, once."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        ATTACKER.chance()
        result = function(*args, **(kwargs or {}))
        return torch.zeros(1) if isinstance(result, Tensor) and len(args) == 4 else result


def leave_modes() -> None:
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()


def module_tree(draw: random.Random, depth: int = 0) -> nn.Module:
    module = nn.Module()
    for i in range(draw.randrange(1, 4)):
        name = Key(f"n{i}") if draw.random() < 0.3 else f"n{i}"
        kind = draw.choice(("_parameters", "_buffers", "_modules") if depth < 3 else ("_buffers",))
        if kind == "_modules":
            module._modules[name] = module_tree(draw, depth + 1)
        elif kind == "_parameters":
            module._parameters[name] = nn.Parameter(torch.rand(draw.randrange(1, 9), 3), False)
        else:
            module._buffers[name] = torch.rand(draw.randrange(1, 9), 3).to(draw.choice(KINDS))
    if draw.random() < 0.3:
        module._non_persistent_buffers_set.add(Key("n0"))
    return module


def same_tree(draw: random.Random) -> tuple[nn.Module, nn.Module]:
    seed = draw.random()
    return module_tree(random.Random(seed)), module_tree(random.Random(seed))


def pieces(module: nn.Module) -> list[Any]:
    tensors = [t for m in module.modules() for t in (*m._parameters.values(), *m._buffers.values())]
    return [*module.modules(), *(t for t in tensors if t is not None)]


def ema(draw: random.Random) -> Callable[[], object]:
    average, source = same_tree(draw)
    ATTACKER.arm(*pieces(average), *pieces(source))
    return lambda: _C.ema_update(average, source, 0.5)


def sparsity(draw: random.Random) -> Callable[[], object]:
    model = module_tree(draw)
    ATTACKER.arm(*pieces(model))
    return lambda: _C.count_module_zeros(model)


def fuse(draw: random.Random) -> Callable[[], object]:
    sizes = [draw.choice((1, 3, 16, 64)) for _ in range(draw.randrange(1, 4))]
    convs = [draw.choice((Conv, nn.Conv2d))(n, n, 3).requires_grad_(False) for n in sizes]
    bns = [draw.choice((Norm, nn.BatchNorm2d))(n).eval().requires_grad_(False) for n in sizes]
    ATTACKER.arm(convs, bns, *(p for module in (*convs, *bns) for p in pieces(module)))
    prototype = convolution_prototype()
    return lambda: _C.fuse(list(convs), list(bns), prototype)


class Number(int):
    """An integer that runs code when it is taken for one."""

    def __index__(self) -> int:
        ATTACKER.chance()
        return int(self)


def prune(draw: random.Random) -> Callable[[], object]:
    weights = [torch.rand(draw.randrange(1, 2000)) for _ in range(3)]
    pruned = [torch.empty_like(weight) for weight in weights]
    counts = [Number(draw.randrange(weight.numel())) for weight in weights]
    ATTACKER.arm(weights, pruned, counts, *weights, *pruned)
    return lambda: _C.prune(weights, pruned, counts, bool(draw.randrange(2)))


def scale_img(draw: random.Random) -> Callable[[], object]:
    image, output = torch.rand(1, 3, 64, 64), torch.empty(1, 3, 32, 32)
    size = (Number(32), Number(32))
    ATTACKER.arm(image, output)
    return lambda: _C.scale_img(image, output, size, Number(0))


def skip_random(draw: random.Random) -> Callable[[], object]:
    real = torch.Generator()

    class Generator:
        def get_state(self) -> Tensor:
            ATTACKER.chance()
            self.state = real.get_state()
            ATTACKER.targets.append(self.state)
            return self.state

        def set_state(self, state: Tensor) -> None:
            ATTACKER.chance()

    ATTACKER.arm()
    return lambda: _C.skip_random(Generator(), Number(1000))


CALLS = (ema, sparsity, fuse, prune, scale_img, skip_random)


def guard() -> bool:
    ATTACKER.chance()
    return False


def main(seed: int, rounds: int) -> None:
    for number in range(seed, seed + rounds):
        draw = random.Random(number)
        ATTACKER.draw, ATTACKER.countdown = draw, 0
        facts = _native.TorchFacts(use_exchange=draw.random() < 0.7)
        if draw.random() < 0.3:
            facts.guards = (*facts.guards, (guard, "never " + str(number)))
        before = _C.configure(gil_bytes=draw.choice((0, 1 << 40)))
        _C.register_torch(facts)
        print(number, file=sys.stderr)
        call = draw.choice(CALLS)(draw)
        with contextlib.suppress(Exception):
            call()
        ATTACKER.countdown = 0
        leave_modes()
        _C.configure(**before)
        ATTACKER.kept.clear()
    print("done")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
