"""Run by test_total_references.py on a Python built for debugging, which counts all references
there are, on an extension built for it: every function, as it succeeds, as it refuses, with each
thing in its arguments replaced in turn, and with each of the calls that it makes failing once.
Needs no torch: fake_torch.py stands for it.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from yolov5_utils import _C

from .fake_torch import Convolution, Facts, Module, Norm, Tensor, floats
from .faults.instrument import FAILS_FOR_WANT_OF_MEMORY, MAY_RAISE, count_points, held, strike
from .producers import Producer

TIMES = 100


class Planted(BaseException):
    """What nothing handles."""


class Generator:
    """Gives its state, which is none that the extension knows, and takes none."""

    def get_state(self) -> Tensor:
        return floats(4)


def model(**more: Module) -> Module:
    return Module(floats(2, 3), floats(4), inner=Module(floats(5), **more))


def parameters() -> Module:
    module = Module()
    module._parameters = {"weight": floats(2, 3), "bias": None}
    return module


def fuse() -> Callable[[], object]:
    convs, bns, prototype = [Convolution(), Convolution(2)], [Norm(), Norm()], Convolution()
    return lambda: _C.fuse(convs, bns, prototype)


def cases() -> dict[str, Callable[[], object]]:
    """Calls on objects that stay."""
    average, source, lacking = model(), model(), Module(floats(2, 3))
    other = Module(floats(2, 4), floats(4), inner=Module(floats(5)))
    done: list[bool] = []
    counted, weights, pruned = parameters(), [floats(3, 3), floats(7)], [floats(3, 3), floats(7)]
    image, output = floats(1, 1, 4, 4), floats(1, 1, 2, 2)
    honest, lying, future = Producer(), Producer(ndim=-1), Producer(version=(2, 0))
    facts, generator, conv, prototype = Facts(), Generator(), Convolution(), Convolution()

    def count(producer: Producer) -> Callable[[], object]:
        def call() -> object:
            try:
                return _C.count_zeros(producer)
            finally:
                producer.calls.clear()
                producer.capsule = None

        return call

    return {
        "ema_update": lambda: _C.ema_update(average, source, 0.5),
        "ema_update done": lambda: (_C.ema_update(average, source, 0.5, done), done.clear()),
        "ema_update missing": lambda: _C.ema_update(average, lacking, 0.5),
        "ema_update shapes": lambda: _C.ema_update(average, other, 0.5),
        "ema_update shared": lambda: _C.ema_update(average, average, 0.5),
        "ema_update decay": lambda: _C.ema_update(average, source, 1),
        "ema_update arguments": lambda: _C.ema_update(average, sauce=source),
        "ema_check": lambda: _C.ema_check(average, source),
        "count_module_zeros": lambda: _C.count_module_zeros(counted, 1),
        "count_module_zeros no module": lambda: _C.count_module_zeros(5),
        "count_zeros tensor": lambda: _C.count_zeros(weights[0]),
        "count_zeros producer": count(honest),
        "count_zeros lying": count(lying),
        "count_zeros future": count(future),
        "count_zeros nothing": lambda: _C.count_zeros(None),
        "sum_zeros": lambda: _C.sum_zeros(weights[0], weights[1]),
        "fuse": fuse(),
        "fuse short": lambda: _C.fuse([conv], [], prototype),
        "fuse_on_gpu": lambda: _C.fuse_on_gpu([(1, 2)], weights[0]),
        "new_convolution": lambda: _C.new_convolution(conv, prototype, "cpu"),
        "prune": lambda: _C.prune(weights, pruned, [3, 2], True),
        "prune check": lambda: _C.prune(weights, None, [3, 2]),
        "prune counts": lambda: _C.prune(weights, pruned, [3, 200]),
        "scale_img": lambda: _C.scale_img(image, output, (2, 2), 0),
        "scale_img size": lambda: _C.scale_img(image, output, (2,), 0),
        "skip_random": lambda: _C.skip_random(generator, 5),
        "register_torch": lambda: _C.register_torch(facts),
        "register_torch nothing": lambda: _C.register_torch(None),
        "configure": lambda: _C.configure("portable"),
        "configure level": lambda: _C.configure("no level"),
        "configure bytes": lambda: _C.configure(None, -1),
        "use_cuda_library": lambda: _C.use_cuda_library(Path("/no/library")),
        "cuda_info": lambda: _C.cuda_info(0),
        "time_synchronized": _C.time_synchronized,
        "info": _C.info,
    }


def usual() -> dict[str, list[Any]]:
    """Arguments with which functions come far, or all the way."""
    convs, bns = [Convolution(), Convolution(2)], [Norm(), Norm()]
    weights, pruned = ([floats(3, 3), floats(7)] for _ in range(2))
    return {
        "ema_update": [model(), model(), 0.5],
        "count_module_zeros": [parameters(), 1],
        "count_zeros": [floats(3)],
        "sum_zeros": [floats(1), floats(1)],
        "fuse": [convs, bns, Convolution()],
        "fuse_on_gpu": [[(1, 2)], floats(1)],
        "new_convolution": [Convolution(), Convolution(), "cpu"],
        "prune": [weights, pruned, [3, 2], True],
        "scale_img": [floats(1, 1, 4, 4), floats(1, 1, 2, 2), (2, 2), 0],
        "skip_random": [Generator(), 5],
        "configure": ["portable", 1, 1],
        "use_cuda_library": [None],
        "cuda_info": [0],
    }


def places(arguments: list[Any]) -> list[tuple[Any, Any]]:
    """Each argument, entry of a list, attribute and entry of a module: what holds it, by what."""
    lists = [arguments, *(x for x in arguments if type(x) is list)]
    found = [(entries, at) for entries in lists for at in range(len(entries))]
    for module in (x for entries in lists for x in entries if isinstance(x, Module)):
        dicts = (vars(module), module._parameters, module._buffers, module._modules)
        found += [(members, name) for members in dicts for name in members]
    return found


def odd_calls() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls in which one thing, each in turn, is an object of no use."""
    for name, arguments in usual().items():
        for at in range(len(places(arguments))):
            odd = usual()[name]
            holder, key = places(odd)[at]
            holder[key] = object()
            yield f"{name} odd {at} ({key})", functools.partial(getattr(_C, name), *odd)


def try_once(call: Callable[[], object], at: int, kinds: int, exception: type | None) -> None:
    strike(call, at, kinds, None if exception is None else exception("planted"))


def grown(call: Callable[[], object], times: int) -> int:
    """How many more references there are after so many calls."""
    before = sys.gettotalrefcount()  # type: ignore[attr-defined]
    for _ in range(times):
        call()
    gc.collect()  # ctypes makes circles
    return sys.gettotalrefcount() - before  # type: ignore[attr-defined,no-any-return]


def is_clean(call: Callable[[], object], times: int) -> bool:
    """One of a few looks is enough: dicts and free lists grow in steps."""
    for _ in range(4):
        kept = held()
        gc.collect()
        if grown(call, times) == grown(lambda: None, times) and held() == kept:
            return True
    return False


def main() -> int:
    gc.disable()
    _C.register_torch(Facts())
    leaks, functions, failures = [], cases(), 0
    gc.freeze()
    assert {name.split()[0] for name in functions} == {
        name for name, value in vars(_C).items() if callable(value) and not isinstance(value, type)
    }
    for name, call in functions.items():
        print(name, file=sys.stderr)
        if not is_clean(lambda call=call: try_once(call, -1, 0, None), TIMES):
            leaks.append(name)
        for kinds, exception in ((FAILS_FOR_WANT_OF_MEMORY, None), (MAY_RAISE, Planted)):
            for at in range(count_points(call, kinds)):
                failures += 1
                trial = (call, at, kinds, exception)
                if not is_clean(lambda trial=trial: try_once(*trial), 3):
                    leaks.append(f"{name}, {exception}, {at}")
    odd = list(odd_calls())
    leaks += [
        n for n, call in odd if not is_clean(functools.partial(try_once, call, -1, 0, None), 9)
    ]
    print(*leaks, sep="\n")
    print(
        f"evidence: references: {len(functions)} calls, {len(odd)} with something odd in them and "
        f"{failures} failures in them, {len(leaks)} leaks"
    )
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
