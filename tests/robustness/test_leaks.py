"""Nothing is kept: references, memory, DLPack loans, on success and on every way out; and memory
that runs out is a MemoryError with nothing changed."""

from __future__ import annotations

import copy
import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C, _native
from yolov5_utils.ops.fuse import convolution_prototype

from ..support import Holder
from . import another
from .outcomes import state
from .producers import Producer

STATM = Path("/proc/self/statm")


class Hooked(nn.Linear):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return super().state_dict(*args, **kwargs)


class Subclass(Tensor):
    pass


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))


def strided() -> nn.Module:
    return Holder(torch.ones(4, 6).t(), torch.ones(9)[::3])


class Call:
    """One way through one function, with the objects that take part."""

    def __init__(self, function: str, *arguments: Any) -> None:
        self.function, self.arguments = getattr(_C, function), arguments

    def __call__(self) -> None:
        try:
            self.function(*self.arguments)
        except Exception as error:
            error.__traceback__ = None

    def objects(self) -> list[Any]:
        found: list[Any] = [None, True, _native.Unsupported, nn.Module, Tensor, torch.float32]
        for argument in self.arguments:
            found.append(argument)
            for module in argument if isinstance(argument, list) else [argument]:
                if not isinstance(module, nn.Module):
                    continue
                for inner in module.modules():
                    dicts = (inner._parameters, inner._buffers, inner._modules)
                    found += [inner, type(inner), inner.__dict__, *dicts]
                    for members in dicts:
                        found += [*members.keys(), *members.values()]
        return found


class Calling(str):
    """A key that makes another call where it is compared, and is equal to no other."""

    __slots__ = ()
    __hash__ = str.__hash__
    inner = Call("ema_update", model(), model(), 0.5)

    def __eq__(self, other: object) -> bool:
        Calling.inner()
        return self is other


def calling() -> nn.Module:
    root = model()
    root.__dict__ = {Calling("_parameters"): None, **root.__dict__}
    return root


def broken_shape() -> nn.Module:
    wrong = model()
    wrong[2].bias = nn.Parameter(torch.ones(5))
    return wrong


def cyclic() -> nn.Module:
    root = Holder(torch.ones(2))
    root._modules["again"] = root
    return root


def shared() -> tuple[nn.Module, nn.Module]:
    average = model()
    source = model()
    source[2].weight = average[2].weight
    return average, source


CALLS: dict[str, Callable[[], Call]] = {
    "update": lambda: Call("ema_update", model(), model(), 0.5),
    "update_strided": lambda: Call("ema_update", strided(), strided(), 0.5),
    "update_tied": lambda: Call("ema_update", Holder(*[torch.ones(2)] * 9), Holder(), 0.5),
    "update_empty": lambda: Call("ema_update", nn.Module(), nn.Module(), 0.5),
    "update_inside": lambda: Call("ema_update", calling(), model(), 0.5),
    "missing_key": lambda: Call("ema_update", model(), nn.Sequential(nn.Conv2d(1, 2, 3)), 0.5),
    "shape": lambda: Call("ema_update", model(), broken_shape(), 0.5),
    "shape_strided": lambda: Call(
        "ema_update", Holder(torch.ones(4, 6).t(), torch.ones(3)), Holder(torch.ones(6, 4)), 0.5
    ),
    "overlap": lambda: Call("ema_update", *shared(), 0.5),
    "expanded": lambda: Call("ema_update", Holder(torch.ones(1).expand(3)), strided(), 0.5),
    "decay": lambda: Call("ema_update", model(), model(), 1),
    "overridden": lambda: Call("ema_update", nn.Sequential(Hooked(1, 1)), model(), 0.5),
    "subclass": lambda: Call(
        "ema_update", Holder(torch.ones(2).as_subclass(Subclass)), model(), 0.5
    ),
    "sparse": lambda: Call(
        "ema_update", Holder(torch.ones(2), torch.eye(2).to_sparse()), model(), 0.5
    ),
    "cycle": lambda: Call("ema_update", cyclic(), cyclic(), 0.5),
    "no_module": lambda: Call("ema_update", 5, None, 0.5),
    "arguments": lambda: Call("ema_update", model()),
    "count": lambda: Call("count_module_zeros", model()),
    "count_gaps": lambda: Call("count_module_zeros", broken_gaps()),
    "count_cycle": lambda: Call("count_module_zeros", cyclic()),
    "count_no_module": lambda: Call("count_module_zeros", torch.ones(1)),
    "zeros": lambda: Call("count_zeros", torch.ones(3)),
    "zeros_subclass": lambda: Call("count_zeros", torch.ones(3).as_subclass(Subclass)),
    "zeros_refused": lambda: Call("count_zeros", torch.eye(2).to_sparse()),
    "zeros_nothing": lambda: Call("count_zeros", 5),
    "fuse": lambda: Call("fuse", *frozen(2)),
    "fuse_other_types": lambda: Call("fuse", *frozen(2, torch.float64)),
    "fuse_gradient": lambda: Call(
        "fuse", [nn.Conv2d(1, 2, 3)], [nn.BatchNorm2d(2)], convolution_prototype()
    ),
    "fuse_mismatch": lambda: Call("fuse", frozen(2)[0], frozen(3)[1], frozen(2)[2]),
    "fuse_no_affine": lambda: Call(
        "fuse", frozen(2)[0], [nn.BatchNorm2d(2, affine=False)], frozen(2)[2]
    ),
    "fuse_prototype": lambda: Call("fuse", padded_by_name(), *frozen(2)[1:]),
    "fuse_no_prototype": lambda: Call("fuse", *frozen(2)[:2], ()),
    "fuse_short_list": lambda: Call("fuse", frozen(2)[0], [], convolution_prototype()),
    "new_convolution": lambda: Call(
        "new_convolution", frozen(2)[0][0], convolution_prototype(), torch.device("cpu")
    ),
    "configure": lambda: Call("configure"),
    "configure_error": lambda: Call("configure", "no such level"),
    "configure_bytes": lambda: Call("configure", None, -5),
    "info": lambda: Call("info"),
    "cuda_info": lambda: Call("cuda_info"),
    "register": lambda: Call("register_torch", _native.TorchFacts()),
    "register_error": lambda: Call("register_torch", 5),
}


def frozen(channels: int, dtype: torch.dtype = torch.float32) -> tuple[list[Any], list[Any], Any]:
    """The arguments of a fusion."""
    conv, bn = nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels)
    pair = [module.to(dtype).requires_grad_(False) for module in (conv, bn)]
    return [pair[0]], [pair[1]], convolution_prototype()


def padded_by_name() -> list[nn.Module]:
    """For which the prototype was not made."""
    return [nn.Conv2d(1, 2, 3, padding="same").requires_grad_(False)]


def broken_gaps() -> nn.Module:
    root = model()
    root[2].weight = nn.Parameter(torch.ones(4, 4)[::2, ::2])
    return root


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> Iterator[None]:
    """Collections look only at what the tests here make; and there is no CUDA library, since what
    is told of one takes no memory."""
    _C.use_cuda_library(None)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    _native.find_cuda_library()


@pytest.fixture(params=["exchange", "capsule", "pinned", "pinned_capsule"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to a tensor's memory, with the GIL kept and with it released."""
    _C.register_torch(_native.TorchFacts(use_exchange="capsule" not in request.param))
    _C.configure(gil_bytes=0 if "pinned" in request.param else 2**40)
    yield
    _C.register_torch(_native.TorchFacts())


@pytest.mark.parametrize("name", CALLS)
def test_references(name: str, way: None) -> None:
    call = CALLS[name]()
    objects = call.objects()
    call()
    gc.collect()
    before = [sys.getrefcount(x) for x in objects]
    for _ in range(40):
        call()
    gc.collect()
    after = [sys.getrefcount(x) for x in objects]
    grown = [(x, b, a) for x, b, a in zip(objects, before, after, strict=True) if abs(a - b) > 3]
    assert not grown


def used_bytes() -> int:
    """What the process holds; the heap alone where a sanitizer counts it, as that keeps for a while
    what was freed."""
    of_heap = getattr(ctypes.CDLL(None), "__sanitizer_get_current_allocated_bytes", None)
    if of_heap is None:
        return int(STATM.read_text().split()[1]) * 4096
    of_heap.restype = ctypes.c_size_t
    return int(of_heap())


@pytest.mark.skipif(not STATM.exists(), reason="no /proc to read the resident size from")
@pytest.mark.parametrize("name", CALLS)
def test_memory(name: str) -> None:
    """10,000 calls: a leak of an object or of 80 bytes per call would show; it is measured thrice
    before it counts, since the allocator grows in steps. An object may find memory that tests
    before this one have left, so that objects are counted as well."""
    call = CALLS[name]()
    slow = name in ("cycle", "count_cycle", "zeros_refused", "sparse")  # C++ exceptions, deep trees
    repeats = 500 if slow else 10_000
    for _ in range(repeats // 10):
        call()
    for _attempt in range(3):
        gc.collect()
        bytes_before, blocks_before = used_bytes(), sys.getallocatedblocks()
        for _ in range(repeats):
            call()
        gc.collect()
        grown, blocks = used_bytes() - bytes_before, sys.getallocatedblocks() - blocks_before
        if grown < 80 * repeats and blocks < repeats // 2:
            return
    pytest.fail(f"{grown} bytes and {blocks} objects more after {repeats} calls")


@pytest.mark.parametrize(
    "fields", [{}, {"ndim": -1}, {"version": (2, 0)}, {"dtype": (2, 3, 1)}], ids=str
)
def test_loans(fields: dict[str, Any]) -> None:
    producer = Producer(**fields)
    call = Call("count_zeros", producer)
    for _ in range(3000):
        call()
        producer.calls.clear()
    assert producer.deleted == 3000


def test_an_extension_that_ends_keeps_no_name() -> None:
    """Nor what it was told of torch."""
    facts, watched = _native.TorchFacts(), [sys.intern("_is_in_bad_fork"), Tensor, nn.Module]

    def counts_behind_another() -> list[int]:
        extension = another.extension()
        extension.register_torch(facts)
        del extension
        gc.collect()
        return [sys.getrefcount(x) for x in watched]

    assert counts_behind_another() == counts_behind_another()


def test_tensors_die_with_their_owner() -> None:
    """No reference survives in the extension: a tensor ends as soon as its module does."""
    import weakref

    average, source = model(), model()
    _C.ema_update(average, source, 0.5)
    _C.count_module_zeros(source)
    watched = [
        weakref.ref(t) for m in (average, source) for t in m.state_dict(keep_vars=True).values()
    ]
    del average, source
    gc.collect()
    assert not [w for w in watched if w() is not None]


def test_no_memory() -> None:
    """Each allocation of a call fails in turn: MemoryError, nothing changed, no crash."""
    nomemory = pytest.importorskip("_testcapi", reason="this Python lacks its test module")
    average = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    average[0].weight.data = torch.randn(2, 3, 3, 1).permute(0, 3, 1, 2)
    source = copy.deepcopy(average)
    facts = _native.TorchFacts()
    lacking = nn.Sequential(nn.Conv2d(1, 2, 3))
    frozen = copy.deepcopy(average).requires_grad_(False)
    prototype = convolution_prototype()
    watched = nn.ModuleList([average, frozen])
    calls: list[tuple[Callable[[], object], tuple[type[Exception], ...]]] = [
        (lambda: _C.ema_update(average, source, 0.5), (_native.Unsupported,)),  # torch's own doing
        (lambda: _C.ema_update(average, lacking, 0.5), (KeyError, _native.Unsupported)),
        (lambda: _C.ema_update(average, None, 0.5), (_native.Unsupported,)),
        (lambda: _C.count_module_zeros(source), ()),
        (lambda: _C.count_zeros(source[0].bias), ()),
        (lambda: _C.fuse([frozen[0]], [frozen[1]], prototype), (_native.Unsupported, RuntimeError)),
        (lambda: _C.configure(), ()),
        (lambda: _C.info(), ()),
        (lambda: _C.register_torch(facts), ()),
    ]
    for call, usual in calls:
        lasting = 0
        for at in range(200):
            before = state(watched)
            failure: BaseException | None = None
            nomemory.set_nomemory(at, at + 1)
            try:
                call()
            except BaseException as error:
                failure = error
            finally:
                nomemory.remove_mem_hooks()
            assert isinstance(failure, (type(None), MemoryError, *usual)), (at, repr(failure))
            if isinstance(failure, KeyError):
                assert failure.args == ("1.weight",)
            if failure is not None:
                assert state(watched) == before
            lasting = 0 if isinstance(failure, MemoryError) else lasting + 1
            if lasting == 8:  # behind the last allocation
                break
        assert lasting == 8
