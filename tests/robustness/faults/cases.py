"""One call of each kind that the extension can be asked for, on tensors whose surroundings are
watched; and the ways in which its memory is reached."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_utils import _C, _native
from yolov5_utils.ops.ema import ModelEMA
from yolov5_utils.ops.fuse import convolution_prototype, fuse_conv_and_bn
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.ops.scale_img import scale_img
from yolov5_utils.ops.sparsity import sparsity

from ...cuda.stand_in import build, compiler, stand_in
from ...support import Holder
from .. import another
from ..producers import Producer

MARGIN = 8  # elements before and behind each tensor that is watched
MARK = 77


@dataclass
class Case:
    """A call, and what it works on."""

    call: Callable[[], object]
    tensors: list[Tensor] = field(default_factory=list)  # on which an adversary acts
    modules: list[nn.Module] = field(default_factory=list)
    lists: list[list[Any]] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)  # whose references are counted, too
    rooms: list[Tensor] = field(default_factory=list)  # the buffers that the tensors lie in
    facts: Callable[[], Any] = lambda: None  # what else the call changes
    fails_written: bool = False  # may raise once all is written: new memory of the caller's only

    def put(self, values: Tensor) -> Tensor:
        """The values in the midst of a buffer, so that what is written beside them shows."""
        room = torch.full((values.numel() + 2 * MARGIN,), MARK, dtype=values.dtype)
        room[MARGIN:-MARGIN] = values.detach().flatten()
        self.rooms.append(room)
        return room[MARGIN:-MARGIN].view(values.shape)

    def add(self, *values: Tensor) -> list[Tensor]:
        """Watched tensors of these values."""
        made = [self.put(value) for value in values]
        self.tensors += made
        return made

    def add_module(self, module: nn.Module) -> nn.Module:
        """A module whose tensors are watched."""
        for inner in module.modules():
            self.modules.append(inner)
            for tensor in (*inner._parameters.values(), *inner._buffers.values()):
                if tensor is not None and tensor.layout is torch.strided:
                    tensor.data = self.put(tensor.data)
                    self.tensors.append(tensor)
        return module

    def state(self) -> list[Any]:
        """All that the call may change, with the surroundings of the tensors."""
        return [*map(content, self.rooms), self.facts()]

    def surroundings(self, state: list[Any]) -> list[bytes]:
        """What stands beside the tensors in such a state."""
        sizes = [MARGIN * room.element_size() for room in self.rooms]
        return [held[:size] + held[-size:] for held, size in zip(state, sizes, strict=False)]

    def references(self) -> list[int]:
        """How many references there are to each object that takes part."""
        objects: list[Any] = [*self.tensors, *self.lists, *self.others]
        for entries in self.lists:
            objects += entries
        for module in self.modules:
            dicts = (module._parameters, module._buffers, module._modules)
            objects += [module, type(module), module.__dict__, *dicts]
        return [sys.getrefcount(x) for x in objects]


def content(room: Tensor) -> bytes:
    """The bytes of a buffer; nothing of one whose memory was taken away."""
    if room.untyped_storage().nbytes() == 0:
        return b""
    return room.view(torch.uint8).numpy().tobytes()


def fresh(make: Callable[[], Case]) -> Case:
    """A case, of the same values each time. Other devices' generators would keep each seed."""
    torch.default_generator.manual_seed(5)
    return make()


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 3)))


def pair(case: Case, make: Callable[[], nn.Module], other: Callable[[], nn.Module] | None = None):
    return case.add_module(make()), case.add_module((other or make)())


def ema_update(extension: Callable[[], Any] = lambda: _C) -> Case:
    case = Case(lambda: extension().ema_update(average, source, 0.5))
    average, source = pair(case, model)
    return case


def ema_marked() -> Case:
    done: list[bool] = []
    case = Case(lambda: _C.ema_update(average, source, 0.5, done), others=[done])
    case.facts = lambda: len(done)
    average, source = pair(case, model)
    return case


def ema_strided() -> Case:
    case = Case(lambda: _C.ema_update(average, source, 0.5))
    parts = [case.add(torch.rand(6, 4), torch.rand(9), torch.rand(1)) for _ in range(2)]
    average, source = (Holder(a.t(), b[::3], c) for a, b, c in parts)
    case.modules += [average, source]
    case.others += [t for m in (average, source) for t in m._buffers.values()]
    return case


def ema_missing() -> Case:
    case = Case(lambda: _C.ema_update(average, source, 0.5))
    average, source = pair(case, model, lambda: nn.Sequential(nn.Conv2d(1, 2, 3)))
    return case


def ema_refused() -> Case:
    case = Case(lambda: _C.ema_update(average, source, 0.5))
    average, source = pair(case, model)
    source[2][0].bias = nn.Parameter(torch.ones(5))
    return case


def ema_hooked() -> Case:
    case = Case(lambda: _C.ema_update(average, source, 0.5))
    average, source = pair(case, model)
    source[2]._register_state_dict_hook(lambda *_: None)
    return case


def ema_sparse() -> Case:
    """Integers that the exchange refuses are left out."""
    case = Case(lambda: _C.ema_update(average, source, 0.5))
    made = [case.add(torch.rand(3))[0] for _ in range(2)]
    average, source = (Holder(t, torch.eye(2).to_sparse().long()) for t in made)
    case.modules += [average, source]
    return case


def ema_check() -> Case:
    case = Case(lambda: _C.ema_check(average, source))
    average, source = pair(case, model)
    return case


def count_module_zeros(extension: Callable[[], Any] = lambda: _C) -> Case:
    case = Case(lambda: extension().count_module_zeros(counted, 1))
    counted = case.add_module(model())
    return case


def count_zeros() -> Case:
    case = Case(lambda: _C.count_zeros(tensor))
    (tensor,) = case.add(torch.tensor([0.0, 1.0, 0.0]))
    return case


def count_bytes() -> Case:
    case = Case(lambda: _C.count_zeros(tensor))
    (tensor,) = case.add(torch.zeros(5, dtype=torch.uint8))
    return case


class Wrapped(Tensor):
    """No plain tensor: asked for a capsule, as other libraries' arrays are."""


def count_wrapped() -> Case:
    case = Case(lambda: _C.count_zeros(tensor))
    (inner,) = case.add(torch.tensor([0.0, 1.0, 0.0]))
    tensor = inner.as_subclass(Wrapped)
    case.others.append(tensor)
    return case


def count_taken_away(kind: type[Tensor] = Tensor) -> Case:
    """Behind the start of a storage that was resized to nothing."""
    case = Case(lambda: _C.count_zeros(tensor), others=[])
    tensor = torch.ones(9)[3:].as_subclass(kind)
    tensor.untyped_storage().resize_(0)
    case.others.append(tensor)
    return case


def count_wrapped_taken_away() -> Case:
    return count_taken_away(Wrapped)


def count_foreign(**fields: Any) -> Case:
    producer = Producer(**fields)

    def call() -> None:
        try:
            _C.count_zeros(producer)
        finally:
            producer.calls.clear()
            producer.capsule = None

    return Case(call, others=[producer])


def count_foreign_old() -> Case:
    return count_foreign(old=True)


def count_foreign_versioned() -> Case:
    return count_foreign(version=(1, 0))


def count_foreign_refused() -> Case:
    return count_foreign(version=(1, 0), ndim=-1)


def fuse(dtype: torch.dtype = torch.float32) -> Case:
    case = Case(lambda: _C.fuse(convs, bns, prototype))
    prototype = convolution_prototype()
    convs = [nn.Conv2d(1, 2, 3).to(dtype), nn.Conv2d(2, 3, 1, bias=False).to(dtype)]
    bns = [nn.BatchNorm2d(n).to(dtype).eval() for n in (2, 3)]
    for made in (*convs, *bns):
        case.add_module(made.requires_grad_(False))
    case.lists += [convs, bns]
    case.others.append(prototype)
    return case


def fuse_other_types() -> Case:
    return fuse(torch.float64)


def fuse_gradient() -> Case:
    case = fuse()
    case.tensors[0].requires_grad_(True)
    return case


def new_convolution() -> Case:
    cpu, prototype = torch.device("cpu"), convolution_prototype()
    case = Case(lambda: _C.new_convolution(conv, prototype, cpu), others=[cpu, prototype])
    conv = case.add_module(nn.Conv2d(1, 2, 3))
    return case


def prune(like_torch: bool = False) -> Case:
    case = Case(lambda: _C.prune(weights, pruned, counts, like_torch), fails_written=True)
    values = [torch.rand(20, 9), torch.rand(7).half().float(), torch.ones(40)]
    weights = case.add(*values)
    pruned = case.add(*map(torch.zeros_like, values))
    counts = [90, 3, 20]
    case.lists += [weights, pruned, counts]
    return case


def prune_like_torch() -> Case:
    return prune(True)


def prune_check() -> Case:
    case = Case(lambda: _C.prune(weights, None, [1, 2]))
    weights = case.add(torch.rand(4), torch.rand(9))
    case.lists.append(weights)
    return case


def scale() -> Case:
    case = Case(lambda: _C.scale_img(image, output, (4, 6), 0))
    image, output = case.add(torch.rand(1, 3, 8, 12), torch.zeros(1, 3, 6, 6))
    return case


def skip_random() -> Case:
    generator = torch.Generator().manual_seed(5)
    case = Case(lambda: _C.skip_random(generator, 1000), others=[generator])
    case.facts = lambda: bytes(generator.get_state().tolist())
    return case


def register_torch() -> Case:
    facts = _native.TorchFacts()
    case = Case(lambda: _C.register_torch(facts), others=[facts])
    case.facts = case.call  # whole again: without what a failure hid, torch has fewer functions
    return case


def configure() -> Case:
    level = _C.info()["level"]
    return Case(lambda: _C.configure(level, 1 << 25, None), facts=_C.configure)


def configure_refused() -> Case:
    return Case(lambda: _C.configure("no level"), facts=_C.configure)


def info() -> Case:
    return Case(_C.info)


def cuda_info() -> Case:
    return Case(lambda: _C.cuda_info(0))


def use_cuda_library() -> Case:
    path = Path("/no/such/library")
    return Case(lambda: _C.use_cuda_library(path), others=[path])


def time_synchronized() -> Case:
    return Case(_C.time_synchronized)


def public_ema() -> Case:
    case = Case(lambda: ema.update(source))
    source = case.add_module(model())
    ema = ModelEMA(source)
    case.add_module(ema.ema)
    case.facts = lambda: ema.updates
    return case


def public_fuse() -> Case:
    case = Case(lambda: fuse_conv_and_bn(conv, bn))
    conv, bn = (case.add_module(m.requires_grad_(False)) for m in model()[:2].eval())
    return case


def public_sparsity() -> Case:
    case = Case(lambda: sparsity(counted))
    counted = case.add_module(model())
    return case


def public_prune() -> Case:
    case = Case(lambda: prune_layers(pruned, 0.3))
    pruned = case.add_module(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1)))
    weights = [layer.weight for layer in pruned]
    case.facts = lambda: [content(weight.detach()) for weight in weights]
    return case


def public_scale_img() -> Case:
    case = Case(lambda: scale_img(image, 0.5, gs=4))
    (image,) = case.add(torch.rand(1, 3, 8, 12))
    return case


def on_new_extension(make: Callable[[Any], Case], facts: Any = None) -> Case:
    """The same on an extension of its own, from its import to its end."""
    facts, module = facts or _native.TorchFacts(), ModuleType("none")
    case = make(lambda: module)

    def call() -> None:
        nonlocal module
        try:
            module = another.extension()
            module.register_torch(facts)
            inner()
        finally:
            module = ModuleType("none")
            gc.collect()

    inner, case.call = case.call, call
    return case


def new_ema_update() -> Case:
    return on_new_extension(ema_update)


def new_count_module_zeros() -> Case:
    return on_new_extension(count_module_zeros)


def new_clock(initialized: bool = True) -> Case:
    """time_synchronized of a torch that has a device."""
    torch, extension, cuda, times = (ModuleType(name) for name in ("torch", "_C", "cuda", "time"))
    torch.cuda, times.time = cuda, time.time  # type: ignore[attr-defined]
    members = {"_initialized": initialized, "_is_in_bad_fork": lambda: False}
    vars(cuda).update(members, is_available=lambda: True, synchronize=lambda: None)
    vars(extension).update(_cuda_getDeviceCount=lambda: 1, _cuda_synchronize=lambda: None)
    facts = _native.TorchFacts()
    facts.clock = (torch, extension, cuda, times, cuda.is_available, cuda.synchronize, time.time)
    return on_new_extension(lambda module: Case(lambda: module().time_synchronized()), facts)


def new_clock_before_cuda() -> Case:
    return new_clock(False)


def gpu_sums() -> Case:
    case = Case(lambda: _C.sum_zeros(numbers, total))
    numbers, total = case.add(torch.ones(3, dtype=torch.int64), torch.ones(()))
    return case


def gpu_fuse() -> Case:
    case = Case(lambda: _C.fuse_on_gpu(pairs, flags), fails_written=True)
    shapes = ((2, 1, 3, 3), *[(2,)] * 5, (2, 1, 3, 3), (2,))
    pairs = [(*case.add(*map(torch.ones, shapes)), 1e-3)]
    (flags,) = case.add(torch.zeros(1, dtype=torch.int32))
    case.lists.append(pairs)
    return case


def gpu_scale() -> Case:
    case = Case(lambda: _C.scale_img(image, output, (2, 2), 9), fails_written=True)
    image, output = case.add(torch.rand(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    return case


PUBLIC = (public_ema, public_fuse, public_sparsity, public_prune, public_scale_img)
HOT = (
    *(ema_update, ema_marked, ema_strided, ema_missing, ema_refused, ema_hooked, ema_sparse),
    *(ema_check, count_module_zeros, count_zeros, count_bytes),
    *(fuse, fuse_other_types, fuse_gradient, new_convolution),
    *(prune, prune_like_torch, prune_check, scale, skip_random, time_synchronized),
)
ONCE = (
    *(count_wrapped, count_taken_away, count_wrapped_taken_away),
    *(count_foreign, count_foreign_old, count_foreign_versioned, count_foreign_refused),
    *(register_torch, configure, configure_refused, info, cuda_info, use_cuda_library),
    *(new_ema_update, new_count_module_zeros, new_clock, new_clock_before_cuda),
)
SHORT = (ema_update, ema_sparse, count_module_zeros, count_zeros, fuse, prune, scale, skip_random)
GPU = (
    *(ema_update, ema_check, count_module_zeros, prune, prune_check),
    *(gpu_sums, gpu_fuse, gpu_scale),
)
CASES: dict[str, tuple[Callable[[], Case], ...]] = {
    "exchange": (*HOT, *PUBLIC, *ONCE),
    "capsule": SHORT,
    "pinned": SHORT,
    "pinned capsule": SHORT,
    "old capsule": SHORT,
    "gpu": GPU,
}


@contextlib.contextmanager
def way(name: str, folder: Path) -> Iterator[bool]:
    """How the memory of tensors is reached: False where this machine or torch lacks that way."""
    if name == "gpu":
        if compiler() is None or not hasattr(Tensor, "__dlpack_c_exchange_api__"):
            yield False
            return
        made = [build(source, folder) for source in ("stand_in.c", "fake_library.c")]
        with stand_in(*made):
            yield True
        return
    least = 0 if "pinned" in name else 1 << 40
    settings = _C.configure(parallel_bytes=least, gil_bytes=least)
    facts = _native.TorchFacts(use_exchange="capsule" not in name)
    if "old" in name:  # torch before 2.1
        facts.increment_version = None
    _C.register_torch(facts)
    try:
        yield True
    finally:
        _C.configure(**settings)
        _C.register_torch(_native.TorchFacts())
