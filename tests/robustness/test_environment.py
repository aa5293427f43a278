"""What surrounds a call: torch's modes, transforms and switches, compilers, defaults. A call inside
one of them ends as the original's operations would there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C, reference
from yolov5_utils.ops.ema import ModelEMA, update_modules
from yolov5_utils.ops.sparsity import sparsity

from ..support import Holder, Watch, original
from .outcomes import Pair, assert_like_original, bits, state

Update = Callable[[nn.Module, nn.Module, float], None]


def build() -> Pair:
    modules = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        modules.append(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)))
    return modules[0], modules[1]


def assert_same_end(
    wrap: Callable[[Update], Update], build: Callable[[], Pair] = build, decay: float = 0.75
) -> None:
    """Both updates, wrapped alike, leave the same bits."""
    ends = []
    for function in (original, update_modules):
        average, source = build()
        wrap(function)(average, source, decay)
        ends.append(state(average))
    assert ends[0] == ends[1]


@contextmanager
def switched(switch: Callable[[Any], Any], on: Any, off: Any) -> Iterator[None]:
    switch(on)
    try:
        yield
    finally:
        switch(off)


class DoublesScalars(torch.overrides.TorchFunctionMode):
    """A mode that changes what in-place multiplication does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("__imul__", "mul_"):
            args = (args[0], args[1] * 2)
        return func(*args, **(kwargs or {}))


ENVIRONMENTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "grad_enabled": torch.enable_grad,
    "anomaly": lambda: torch.autograd.detect_anomaly(check_nan=False),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "flush_denormal": lambda: switched(torch.set_flush_denormal, True, False),
    "function_mode": Watch,
    "changing_mode": DoublesScalars,
    "device": lambda: torch.device("cpu"),
    "meta_device": lambda: torch.device("meta"),
    "no_dispatch_torch_function": torch._C.DisableTorchFunction,
    "saved_tensors_hooks": lambda: torch.autograd.graph.save_on_cpu(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_update(name: str) -> None:
    def within(function: Update) -> Update:
        def run(average: nn.Module, source: nn.Module, decay: float) -> None:
            with ENVIRONMENTS[name]():
                function(average, source, decay)

        return run

    assert_same_end(within)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_sparsity(name: str) -> None:
    model, _ = build()
    with torch.no_grad():
        model[0].weight.view(-1)[::5] = 0
        model[0].weight.view(-1)[1::5] = 1e-42
    with ENVIRONMENTS[name]():
        ours, expected = sparsity(model), reference.sparsity(model)
    assert (ours.dtype, ours.device) == (expected.dtype, expected.device)
    assert ours.is_inference() == expected.is_inference()
    assert bits(ours) == bits(expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("which", ["average", "source", "both"])
def test_inference_tensors(which: str, inside: bool) -> None:
    def build_some() -> Pair:
        with torch.inference_mode(which != "source"):
            average = Holder(torch.arange(5.0))
        with torch.inference_mode(which != "average"):
            return average, Holder(torch.full((5,), 9.0))

    with torch.inference_mode() if inside else nullcontext():
        assert_like_original(build_some)


def test_fake_tensor_mode() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    average, source = build()
    before = state(average)
    with FakeTensorMode(allow_non_fake_inputs=True):
        update_modules(average, source, 0.5)
        update_modules(Holder(torch.ones(3)), Holder(torch.ones(3)), 0.5)
        assert type(sparsity(nn.Linear(2, 2))) is not Tensor
    for function in (original, update_modules):
        with FakeTensorMode(), pytest.raises(Exception, match="[Ff]ake"):
            function(average, source, 0.5)
    assert state(average) == before


def transformed(transform: Any, *arguments: Any) -> Callable[[Update], Update]:
    """The update as a side effect inside a function transform."""

    def wrap(function: Update) -> Update:
        def run(average: nn.Module, source: nn.Module, decay: float) -> None:
            def inner(x: Tensor) -> Tensor:
                function(average, source, decay)
                return (x * x).sum()

            transform(inner)(*arguments)

        return run

    return wrap


TRANSFORMS = {
    "grad": transformed(torch.func.grad, torch.ones(3)),
    "vmap": transformed(torch.func.vmap, torch.ones(3)),
    "functionalize": transformed(torch.func.functionalize, torch.ones(3)),
    "jacrev": transformed(torch.func.jacrev, torch.ones(3)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_captured_modules_in_transforms(name: str) -> None:
    """What torch forbids to write there must not be written."""
    wrap = TRANSFORMS[name]
    results = []
    for function in (original, update_modules):
        average, source = build()
        try:
            wrap(function)(average, source, 0.5)
        except RuntimeError:
            results.append(("RuntimeError", state(build()[0])))
        else:
            results.append(("fine", state(average)))
        assert results[-1][1] == state(average)
    assert results[0] == results[1]


@pytest.mark.parametrize("batched", ["average", "source", "both"])
def test_batched_entries(batched: str) -> None:
    def run(function: Update) -> Any:
        plain = Holder(torch.ones(2))

        def inner(x: Tensor) -> Tensor:
            average = Holder(x * 1) if batched != "source" else plain
            function(average, Holder(x * 3) if batched != "average" else plain, 0.5)
            return average.b0

        try:
            return torch.func.vmap(inner)(torch.arange(6.0).view(3, 2)).tolist()
        except RuntimeError:
            return plain.b0.tolist()

    expected = run(original) if batched != "source" else [1.0, 1.0]  # an error: nothing changed
    assert run(update_modules) == expected


def test_functional_call() -> None:
    class Averages(nn.Module):
        def __init__(self, function: Update) -> None:
            super().__init__()
            self.average, self.function = nn.Linear(2, 2), function

        def forward(self, source: nn.Module) -> Tensor:
            self.function(self.average, source, 0.5)
            return self.average.weight

    results = []
    for function in (original, update_modules):
        replaced = {"average.weight": torch.full((2, 2), 4.0), "average.bias": torch.ones(2)}
        torch.manual_seed(0)
        torch.func.functional_call(Averages(function), replaced, (nn.Linear(2, 2),))
        results.append([bits(t) for t in replaced.values()])
    assert results[0] == results[1]


def test_tangents_of_forward_mode() -> None:
    import torch.autograd.forward_ad as forward_ad

    results = []
    for function in (original, update_modules):
        with forward_ad.dual_level():
            average = Holder(forward_ad.make_dual(torch.ones(2), torch.full((2,), 3.0)))
            function(average, Holder(forward_ad.make_dual(torch.zeros(2), torch.ones(2))), 0.5)
            results.append([bits(t) for t in forward_ad.unpack_dual(average.b0)])
    assert results[0] == results[1]


@pytest.mark.filterwarnings("ignore")
def test_trace_records_the_operations() -> None:
    average, source = Holder(torch.ones(2)), Holder(torch.zeros(2))

    def step(x: Tensor) -> Tensor:
        update_modules(average, source, 0.5)
        return x + average.b0

    traced = torch.jit.trace(step, torch.zeros(2), check_trace=False)
    assert average.b0.tolist() == [0.5, 0.5]
    assert traced(torch.zeros(2)).tolist() == [0.25, 0.25]


@pytest.mark.filterwarnings("ignore")
def test_scripted_modules() -> None:
    def build_scripted() -> Pair:
        average, source = build()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.script(average), torch.jit.script(source)

    assert_same_end(lambda function: function, build_scripted)
    average, _ = build_scripted()
    assert torch.equal(sparsity(average), reference.sparsity(average))


@pytest.mark.filterwarnings("ignore")
def test_compiled() -> None:
    """A compiled training step that updates an average, and counts."""
    model, _ = build()
    ours, twin = ModelEMA(model), ModelEMA(model)
    for ema in (ours, twin):
        ema.decay = lambda updates: 0.5 if updates < 3 else 0.25

    def step(ema: ModelEMA, x: Tensor) -> Tensor:
        ema.update(model)
        return x * 2 + sparsity(ema.ema)

    compiled = torch.compile(step, backend="eager")
    for _ in range(4):
        with torch.no_grad():
            model[0].weight += 1
        assert torch.equal(compiled(ours, torch.ones(2)), step(twin, torch.ones(2)))
    assert ours.updates == twin.updates == 4
    for a, b in zip(ours.ema.state_dict().values(), twin.ema.state_dict().values(), strict=True):
        assert bits(a) == bits(b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", [original, update_modules])
def test_lazy_modules(function: Update) -> None:
    """Parameters without a shape are an error, as in the original."""
    average = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="uninitialized parameter"):
        function(average, nn.Sequential(nn.LazyLinear(3)), 0.5)
    assert torch.nn.parameter.is_lazy(average[0].weight)


def test_rounding_toward_zero() -> None:
    """The rounding mode another library left behind applies to C as it does to torch."""
    import ctypes
    import ctypes.util

    name = ctypes.util.find_library("m")
    if name is None or _C.info()["level"] == "portable":
        pytest.skip("no libm, or an unknown architecture")
    libm = ctypes.CDLL(name)
    toward_zero, nearest = 0xC00, 0
    torch.set_num_threads(1)

    def rounded(function: Update) -> Update:
        def run(average: nn.Module, source: nn.Module, decay: float) -> None:
            libm.fesetround(toward_zero)
            try:
                function(average, source, decay)
            finally:
                libm.fesetround(nearest)

        return run

    assert_same_end(rounded, decay=0.9)
