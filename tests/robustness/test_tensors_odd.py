"""Tensors whose memory is not simply theirs: shared, overlapping, expanded, without storage, with
bits that change their meaning; and dtypes and layouts the kernels do not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C, _native, reference
from yolov5_utils.ops.ema import ModelEMA, update_modules
from yolov5_utils.ops.sparsity import sparsity

from ..support import FLOATING, Holder
from .outcomes import Pair, assert_like_original, bits

Maker = Callable[[], Tensor]


def block(start: float = 0.0, count: int = 24) -> Tensor:
    return torch.arange(start, start + count) / 7 - 1


def complex_block() -> Tensor:
    return torch.complex(block(1), block(5))


def emptied() -> Tensor:
    """A view whose storage was taken away, as FSDP does: its address is a small offset."""
    whole = torch.ones(1000)
    view = whole[10:]
    whole.untyped_storage().resize_(0)
    return view


class Wrapped(Tensor):
    """A subclass that looks at every operation."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


def zero_d_view() -> Tensor:
    return block()[5]


TENSORS: dict[str, Maker] = {
    "plain": block,
    "zero_d": zero_d_view,
    "one_element": lambda: block()[3:4],
    "empty": lambda: torch.empty(0),
    "empty_expanded": lambda: torch.empty(1, 0).expand(4, 0),
    "empty_transposed": lambda: torch.empty(5, 0, 3).transpose(0, 2),
    "thirteen_dimensions": lambda: block().view((1,) * 10 + (2, 3, 4)),
    "many_dimensions": lambda: block().view((1,) * 60 + (2, 3, 4)),
    "every_second": lambda: block()[::2],
    "transposed": lambda: block().view(4, 6).t(),
    "injective_but_interleaved": lambda: block().as_strided((3, 2), (2, 3)),
    "overlaps_itself": lambda: block().as_strided((3, 3), (1, 1)),
    "expanded": lambda: block(0, 3).expand(4, 3),
    "zero_tensor": lambda: torch._efficientzerotensor(24),
    "negative": lambda: complex_block().conj().imag,
    "negative_dense": lambda: complex_block().conj().imag.as_strided((24,), (1,)),
    "negative_view": lambda: torch._neg_view(block()),
    "negative_one_element": lambda: complex_block().conj().imag[4:5],
    "conjugate": lambda: complex_block().conj(),
    "complex": complex_block,
    "complex_half": lambda: complex_block().to(torch.complex32),
    "float8": lambda: block().to(torch.float8_e5m2),
    "unsigned_16": lambda: torch.arange(24).to(torch.uint16),
    "unsigned_64": lambda: torch.arange(24).to(torch.uint64),
    "bool": lambda: torch.arange(24) > 5,
    "quantised": lambda: torch.quantize_per_tensor(block(), 0.1, 0, torch.qint8),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse_rows": lambda: torch.eye(3).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([block(0, 2), block(3, 3)]),
    "meta": lambda: torch.empty(24, device="meta"),
    "subclass": lambda: block().as_subclass(Wrapped),
    "inference": lambda: _inference(),
    "unaligned": lambda: torch.frombuffer(bytearray(97), dtype=torch.float32, offset=1),
    "requires_grad": lambda: block().requires_grad_(),
    "non_leaf": lambda: block().requires_grad_() * 2,
    "mkldnn": lambda: block().to_mkldnn(),
}


def _inference() -> Tensor:
    with torch.inference_mode():
        return block()


def pairs_of(average: Maker, source: Maker) -> Callable[[], Pair]:
    """The entry in question between two plain ones, so that a late error comes after writes."""
    return lambda: (
        Holder(block(), average(), block(2)),
        Holder(block(9), source(), block(8)),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TENSORS)
def test_average_and_source(name: str) -> None:
    assert_like_original(pairs_of(TENSORS[name], TENSORS[name]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TENSORS)
def test_source(name: str) -> None:
    source = TENSORS[name]
    shape = (2,) if name == "nested" else source().shape
    assert_like_original(pairs_of(lambda: torch.ones(shape), source))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TENSORS)
def test_average(name: str) -> None:
    average = TENSORS[name]
    shape = (2,) if name == "nested" else average().shape
    assert_like_original(pairs_of(average, lambda: torch.full(shape, 5.0)))


@pytest.mark.parametrize("average", FLOATING, ids=str)
@pytest.mark.parametrize("source", FLOATING, ids=str)
def test_zero_dimensions_of_every_type(average: torch.dtype, source: torch.dtype) -> None:
    """torch promotes 0-d tensors by other rules: the bits must not."""
    for value in (0.1, 1 / 3, 1e-5, 65504.0, 3e38):
        build = pairs_of(
            lambda value=value: torch.tensor(value).to(average),
            lambda value=value: torch.tensor(value * 0.7).to(source),
        )
        assert_like_original(build, 0.9997)


def overlapping(first: slice, second: slice, shared: bool) -> Callable[[], Pair]:
    """Two averages in one block; with `shared`, the second pair's source lies in it as well."""

    def build() -> Pair:
        memory = block()
        sources = block(30), memory[second] if shared else block(50)
        count = len(memory[first])
        average = Holder(memory[first], memory[second] if not shared else block(70)[:count])
        return average, Holder(sources[0][:count], sources[1][:count])

    return build


SLICES = {
    "same": (slice(0, 8), slice(0, 8)),
    "shifted": (slice(0, 8), slice(1, 9)),
    "last_element": (slice(0, 8), slice(7, 15)),
    "neighbours": (slice(0, 8), slice(8, 16)),
    "interleaved": (slice(0, 16, 2), slice(1, 17, 2)),
    "inside": (slice(0, 16, 2), slice(4, 12)),
}


@pytest.mark.parametrize("shared", [False, True], ids=["two_averages", "average_and_source"])
@pytest.mark.parametrize("name", SLICES)
def test_overlap(name: str, shared: bool) -> None:
    assert_like_original(overlapping(*SLICES[name], shared))


def test_average_is_the_model() -> None:
    def build() -> Pair:
        module = Holder(block(), block(3))
        return module, module

    assert_like_original(build)


def test_parameters_in_one_flat_buffer() -> None:
    def build() -> Pair:
        modules = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 4))
            flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
            at = 0
            for parameter in model.parameters():
                parameter.data = flat[at : at + parameter.numel()].view(parameter.shape)
                at += parameter.numel()
            modules.append(model)
        return modules[0], modules[1]

    assert_like_original(build)


@pytest.mark.parametrize("elements", [700, 40_000])
def test_tied_entries_in_order_on_every_thread(
    elements: int, threads: int, pool: None, rounds: Callable[[int], range]
) -> None:
    """Memory written twice is written in order, however eager the pool."""
    for seed in rounds(15):

        def build(seed: int = seed) -> Pair:
            torch.manual_seed(seed)
            tied = torch.randn(elements)
            return Holder(*[tied] * 12), Holder(*torch.randn(12, elements))

        average, source = build()
        update_modules(average, source, 0.9)
        expected, source = build()
        reference.ema_update(expected, source, 0.9)
        assert torch.equal(average.b0, expected.b0)


@pytest.mark.parametrize("name", ["zero_tensor", "negative_dense", "unaligned", "every_second"])
def test_sparsity(name: str) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(TENSORS[name]())
    assert torch.equal(sparsity(model), reference.sparsity(model))


@pytest.mark.parametrize(
    "function", ["ema_update", "count_module_zeros", "count_zeros", "count_zeros_of_subclass"]
)
def test_storage_that_was_taken_away(function: str) -> None:
    """torch itself dereferences such a tensor; here it must be found out before any access."""
    model = nn.Module()
    model.weight = nn.Parameter(emptied())
    calls = {
        "ema_update": lambda: _C.ema_update(Holder(torch.ones(990)), Holder(emptied()), 0.5),
        "count_module_zeros": lambda: _C.count_module_zeros(model),
        "count_zeros": lambda: _C.count_zeros(emptied()),
        "count_zeros_of_subclass": lambda: _C.count_zeros(emptied().as_subclass(Wrapped)),
    }
    # Before 2.9, torch's own maker of capsules finds it, and raises what passes through.
    errors = (_native.Unsupported, BufferError, RuntimeError)
    with pytest.raises(errors, match="resized to 0 bytes|storage of size 0"):
        calls[function]()


DECAYS = {
    "int": 1,
    "zero": 0,
    "bool": True,
    "numpy_float64": "np.float64(0.3)",
    "numpy_float32": "np.float32(0.3)",
    "tensor": torch.tensor(0.3),
    "tensor_float64": torch.tensor(0.3, dtype=torch.float64),
    "tensor_one_element": torch.tensor([0.3]),
    "tensor_that_broadcasts": torch.linspace(0, 1, 24),
    "tensor_of_wrong_shape": torch.linspace(0, 1, 5),
    "none": None,
    "text": "0.3",
    "complex": 0.5 + 1j,
    "huge_int": 10**400,
    "nan": float("nan"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DECAYS)
@pytest.mark.parametrize("last", [block, zero_d_view], ids=["vector", "zero_d"])
def test_decays(name: str, last: Maker) -> None:
    import numpy as np

    decay = DECAYS[name]
    if isinstance(decay, str) and decay.startswith("np."):
        decay = eval(decay, {"np": np})
    assert_like_original(lambda: (Holder(block(), last()), Holder(block(4), last())), decay)


@pytest.mark.parametrize("gil_bytes", [0, 2**40], ids=["without_gil", "with_gil"])
def test_version_counters_rise(gil_bytes: int) -> None:
    """Autograd must notice each write, tied entries and views included."""
    _C.configure(gil_bytes=gil_bytes)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0].bias = nn.Parameter(torch.ones(9)[::3])
    ema = ModelEMA(model)
    before = {k: v._version for k, v in ema.ema.state_dict().items()}
    ema.update(model)
    for key, value in ema.ema.state_dict().items():
        assert (value._version > before[key]) == value.dtype.is_floating_point
    weight = torch.ones(3, requires_grad=True)
    average = Holder(torch.ones(3))
    loss = (weight * average.b0).sum()
    update_modules(average, Holder(torch.zeros(3)), 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("updates", [5, torch.tensor(5), 5.0], ids=repr)
def test_error_leaves_updates_alone(updates: Any) -> None:
    """Whatever kind of number `updates` was set to."""
    ema = ModelEMA(Holder(block(), block()))
    expected = [bits(b) for b in ema.ema.buffers()]
    ema.updates = updates
    with pytest.raises(KeyError):
        ema.update(Holder(block(7)))
    assert ema.updates == 5
    assert [bits(b) for b in ema.ema.buffers()] == expected
