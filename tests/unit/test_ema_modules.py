"""ModelEMA on whole models: which entries move, what is refused, what stays untouched on errors.
The oracle is the original loop of torch operations on copies."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C, _native, reference
from yolov5_utils.torch_utils import ModelEMA

from .test_ema import assert_same_bits, original


class Net(nn.Module):
    """Everything a YOLOv5 model's state holds: convolutions, norms, anchors, a hidden grid."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Identity(), nn.Linear(4, 4)])
        self.register_buffer("anchors", torch.rand(3, 2, generator=generator))
        self.register_buffer("grid", torch.rand(4, generator=generator), persistent=False)
        self.register_buffer("complex", torch.ones(2, dtype=torch.complex64))
        self.register_buffer("none", None)
        for tensor in [*self.parameters(), self.bn.running_mean, self.bn.running_var]:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator))


def way() -> dict[str, int]:
    return dict(_native.HOT_PATHS["ema"].calls)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def assert_state(model: nn.Module, expected: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        if not isinstance(value, Tensor):
            assert state[key] == value
        elif value.dtype.is_floating_point and value.layout is torch.strided:
            assert_same_bits(state[key], value)


def check(ema: ModelEMA, model: nn.Module, takes: str = "C") -> None:
    """One update against the original loop on copies, and which way it took."""
    expected = copy.deepcopy(ema.ema)
    bare = model.module if type(model) is nn.DataParallel else model
    original(expected, bare, ema.decay(ema.updates + 1))
    hidden = {k: v.clone() for k, v in ema.ema.named_buffers()}
    untouched, before = snapshot(model), way()
    ema.update(model)
    after = way()
    assert {k for k in after if after[k] > before[k]} == {takes}
    assert_state(ema.ema, expected.state_dict())
    assert_state(model, untouched)
    for key in ("grid", "bn.num_batches_tracked"):
        if key in hidden:
            assert torch.equal(dict(ema.ema.named_buffers())[key], hidden[key])


def trained(model: nn.Module, seed: int = 1) -> nn.Module:
    """The model after some steps: other values everywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.dtype.is_floating_point:
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor))
            elif tensor.dtype == torch.int64:
                tensor.add_(7)
    return model


def test_many_updates(level: str) -> None:
    model = Net()
    ema = ModelEMA(model)
    for step in range(1, 12):
        check(ema, trained(model, step))
        assert ema.updates == step


def test_attributes() -> None:
    ema = ModelEMA(Net(), decay=0.9, updates=3)
    assert sorted(vars(ema)) == ["decay", "ema", "updates"]
    assert ema.updates == 3
    assert ema.decay(5) == 0.9 * (1 - math.exp(-5 / 2000))
    assert not ema.ema.training
    assert not any(p.requires_grad for p in ema.ema.parameters())
    twin = copy.deepcopy(ema)
    assert twin.updates == 3
    assert twin.ema is not ema.ema


def test_decay_and_updates_are_read_at_every_update() -> None:
    model = Net()
    ema = ModelEMA(model)
    ema.updates = 1000
    check(ema, trained(model))
    assert ema.updates == 1001
    ema.decay = lambda x: 0.25
    check(ema, trained(model, 2))


def test_decay_that_is_no_float() -> None:
    model = Net()
    ema = ModelEMA(model)
    ema.decay = lambda x: torch.tensor([0.5])
    check(ema, trained(model), takes="torch")
    ema.decay = lambda x: 1
    check(ema, trained(model), takes="torch")


def test_wrapped_models() -> None:
    model = Net()
    ema = ModelEMA(nn.DataParallel(model))
    assert type(ema.ema) is Net
    check(ema, nn.DataParallel(trained(model)))


def test_wrapper_subclass_is_not_unwrapped() -> None:
    class Parallel(nn.DataParallel):
        pass

    model = Net()
    ema = ModelEMA(model)
    expected = snapshot(ema.ema)
    with pytest.raises(KeyError, match="anchors"):
        ema.update(Parallel(model))
    assert_state(ema.ema, expected)


def test_tied_tensors_move_once_per_key() -> None:
    model = Net()
    model.head[2].weight = nn.Parameter(torch.rand(4, 4))
    model.tied = nn.Linear(4, 4)
    model.tied.weight = model.head[2].weight
    ema = ModelEMA(model)
    assert ema.ema.tied.weight is ema.ema.head[2].weight
    ema.decay = lambda x: 0.5
    before = ema.ema.tied.weight.clone()
    check(ema, trained(model))
    moved = (ema.ema.tied.weight - before) / (model.tied.weight - before)
    assert moved.mean().item() == pytest.approx(0.75, abs=1e-3)


def test_module_used_twice() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared)
    check(ModelEMA(model), trained(model))


def test_frozen_parameters_move() -> None:
    model = Net()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    check(ModelEMA(model), trained(model))


@pytest.mark.parametrize("side", ("ema", "model", "both"))
@pytest.mark.parametrize("cast", ("half", "double", "bfloat16"))
def test_casts_after_the_copy(level: str, side: str, cast: str) -> None:
    model = Net()
    ema = ModelEMA(model)
    trained(model)
    if side in ("ema", "both"):
        getattr(ema.ema, cast)()
    if side in ("model", "both"):
        getattr(model, cast)()
    check(ema, model)


def test_half_and_back_between_updates() -> None:
    """What validation does to the EMA every epoch: new storage, new buffer objects."""
    model = Net()
    ema = ModelEMA(model)
    for step in range(4):
        check(ema, trained(model, step))
        ema.ema.half().float()


def test_storage_that_moved() -> None:
    model = Net()
    ema = ModelEMA(model)
    check(ema, trained(model))
    model.conv.weight.data = torch.rand(8, 3, 3, 3)
    check(ema, model)
    ema.ema.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    check(ema, trained(model, 3))
    model.to(memory_format=torch.channels_last)
    check(ema, trained(model, 4))
    model.head[0] = nn.Conv2d(8, 4, 1)
    check(ema, model)
    model.to(memory_format=torch.contiguous_format)
    nn.utils.prune.l1_unstructured(model.conv, "weight", 0.3)
    nn.utils.prune.remove(model.conv, "weight")
    check(ema, model)


def test_sync_batch_norm_conversion() -> None:
    model = Net()
    ema = ModelEMA(model)
    check(ema, nn.SyncBatchNorm.convert_sync_batchnorm(trained(model)))


def test_extra_entries_of_the_model_are_ignored() -> None:
    model = Net()
    ema = ModelEMA(model)
    model.more = nn.Linear(2, 2)
    model.register_buffer("extra", torch.ones(3))
    ema_keys = list(ema.ema.state_dict())
    expected = copy.deepcopy(ema.ema)
    original(expected, trained(model), ema.decay(1))
    ema.update(model)
    assert list(ema.ema.state_dict()) == ema_keys
    assert_state(ema.ema, expected.state_dict())


def test_parameter_on_one_side_buffer_on_the_other() -> None:
    model = Net()
    ema = ModelEMA(model)
    anchors = model.anchors
    del model.anchors
    model.anchors = nn.Parameter(anchors + 1)
    expected = copy.deepcopy(ema.ema)
    original(expected, model, ema.decay(1))
    ema.update(model)
    assert_state(ema.ema, expected.state_dict())


def fails(ema: ModelEMA, model: nn.Module, error: type[Exception], match: str) -> None:
    """The update raises, as the original does, and leaves everything as it was."""
    with pytest.raises(error):
        original(copy.deepcopy(ema.ema), model, ema.decay(1))
    expected, updates = snapshot(ema.ema), ema.updates
    with pytest.raises(error, match=match):
        ema.update(model)
    assert_state(ema.ema, expected)
    assert ema.updates == updates


@pytest.mark.parametrize("key", ("bn.running_var", "head.2.bias", "anchors"))
def test_missing_entry(key: str) -> None:
    model = Net()
    ema = ModelEMA(model)
    module, _, name = key.rpartition(".")
    delattr(model.get_submodule(module), name)
    with pytest.raises(KeyError) as raised:
        original(copy.deepcopy(ema.ema), model, 0.5)
    fails(ema, model, KeyError, key)
    with pytest.raises(KeyError) as ours:
        ema.update(model)
    assert ours.value.args == raised.value.args == (key,)


def test_missing_module() -> None:
    model = Net()
    ema = ModelEMA(model)
    del model.head[2]
    fails(ema, model, KeyError, r"head\.2\.weight")


def test_entry_that_is_not_persistent_in_the_model() -> None:
    model = Net()
    ema = ModelEMA(model)
    model._non_persistent_buffers_set.add("anchors")
    fails(ema, model, KeyError, "anchors")


def test_missing_counter_is_no_error() -> None:
    model = Net()
    ema = ModelEMA(model)
    model.bn.num_batches_tracked = None
    expected = copy.deepcopy(ema.ema)
    original(expected, trained(model), ema.decay(1))
    ema.update(model)
    assert_state(ema.ema, expected.state_dict())


def test_shape_mismatch() -> None:
    model = Net()
    ema = ModelEMA(model)
    model.head[2].bias = nn.Parameter(torch.ones(5))
    fails(ema, model, RuntimeError, "must match")


def test_shape_that_broadcasts_does_so() -> None:
    model = Net()
    ema = ModelEMA(model)
    model.head[2].bias = nn.Parameter(torch.ones(1))
    check(ema, model, takes="torch")


def test_ema_too_small_for_the_model() -> None:
    model = Net()
    ema = ModelEMA(model)
    ema.ema.head[2].bias = nn.Parameter(torch.ones(1), False)
    fails(ema, model, RuntimeError, "broadcast")


def test_float8_is_refused_as_torch_refuses_it() -> None:
    model = Net()
    ema = ModelEMA(model)
    ema.ema.anchors = ema.ema.anchors.to(torch.float8_e4m3fn)
    fails(ema, model, NotImplementedError, "not implemented for 'Float8_e4m3fn'")


def test_expanded_average() -> None:
    model = Net()
    ema = ModelEMA(model)
    ema.ema.anchors = torch.ones(1, 2).expand(3, 2)
    fails(ema, model, RuntimeError, "single memory location")


def test_average_that_is_the_model() -> None:
    model = Net()
    ema = ModelEMA(model)
    ema.ema.conv.weight = model.conv.weight
    expected, expected_model = copy.deepcopy((ema.ema, model))
    original(expected, expected_model, ema.decay(1))
    before = way()
    ema.update(model)
    assert way()["torch"] == before["torch"] + 1
    assert_state(ema.ema, expected.state_dict())
    assert_state(model, expected_model.state_dict())


def test_average_that_overlaps_the_model() -> None:
    model = Net()
    ema = ModelEMA(model)
    block = torch.rand(20)
    model.register_buffer("block", block[:12])
    ema.ema.register_buffer("block", block[8:])
    twin_block = block.clone()
    twin = Net()
    twin.load_state_dict(ema.ema.state_dict(), strict=False)
    twin.register_buffer("block", twin_block[8:])
    twin_model = copy.deepcopy(model)
    twin_model.block = twin_block[:12]
    original(twin, twin_model, ema.decay(1))
    before = way()
    ema.update(model)
    assert way()["torch"] == before["torch"] + 1
    assert_same_bits(block, twin_block)


def test_versions_rise(level: str) -> None:
    model = Net()
    ema = ModelEMA(model)
    tensors = {k: v for k, v in ema.ema.state_dict(keep_vars=True).items()}
    before = {k: v._version for k, v in tensors.items()}
    ema.update(trained(model))
    for key, tensor in tensors.items():
        assert (tensor._version > before[key]) == tensor.dtype.is_floating_point, key


def test_inference_tensors() -> None:
    """The original updates them, outside inference mode too."""
    model = Net()
    ema = ModelEMA(model)
    with torch.inference_mode():
        ema.ema.anchors = ema.ema.anchors.clone()
    for step in range(2):
        expected = snapshot(ema.ema)
        state = trained(model, step).state_dict()
        decay = ema.decay(ema.updates + 1)
        for key, value in expected.items():
            if value.dtype.is_floating_point:
                expected[key] = value * decay + (1 - decay) * state[key]
        with torch.inference_mode(mode=step == 1):
            ema.update(model)
        assert_state(ema.ema, expected)


def test_negative_bit() -> None:
    model = Net()
    ema = ModelEMA(model)
    model.anchors = torch.complex(torch.rand(3, 2), torch.rand(3, 2)).conj().imag
    assert model.anchors.is_neg()
    check(ema, model, takes="torch")


def add_hook(module: nn.Module) -> None:
    module._register_state_dict_hook(lambda m, state, prefix, meta: None)


def add_pre_hook(module: nn.Module) -> None:
    module.register_state_dict_pre_hook(lambda m, prefix, keep_vars: None)


def add_instance_method(module: nn.Module) -> None:
    inner = module.state_dict
    module.state_dict = lambda *a, **k: inner(*a, **k)


@pytest.mark.parametrize("change", (add_hook, add_pre_hook, add_instance_method))
@pytest.mark.parametrize("side", ("ema", "model"))
@pytest.mark.parametrize("where", ("", "head.2"))
def test_modules_with_a_state_of_their_own(change: Any, side: str, where: str) -> None:
    model = Net()
    ema = ModelEMA(model)
    change((ema.ema if side == "ema" else model).get_submodule(where))
    check(ema, trained(model), takes="torch")


def test_overridden_state_dict() -> None:
    class Renamed(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            state = super().state_dict(*args, **kwargs)
            prefix = kwargs.get("prefix", "")
            state[prefix + "kernel"] = state.pop(prefix + "weight")
            return state

    model = nn.Sequential(Renamed(3, 3))
    check(ModelEMA(model), trained(model), takes="torch")


def test_extra_state() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Tensor:
            return torch.ones(2)

        def set_extra_state(self, state: Tensor) -> None: ...

    model = nn.Sequential(Extra(3, 3))
    check(ModelEMA(model), trained(model), takes="torch")

    class Dictionary(Extra):
        def get_extra_state(self) -> Any:
            return {}

    model = nn.Sequential(Dictionary(3, 3))
    fails(ModelEMA(model), model, AttributeError, "dtype")


def test_quantised_and_sparse_entries() -> None:
    model = Net()
    model.register_buffer("q", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    model.register_buffer("indices", torch.eye(3, dtype=torch.int64).to_sparse())
    ema = ModelEMA(model)
    check(ema, trained_dense(model))
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    ema = ModelEMA(model)
    ema.decay = lambda x: 0.5
    model.sparse = (torch.eye(3) * 3).to_sparse()
    expected = copy.deepcopy(ema.ema)
    original(expected, model, 0.5)
    check(ema, trained_dense(model, 2), takes="torch")
    assert torch.equal(ema.ema.sparse.to_dense(), expected.sparse.to_dense())


def trained_dense(model: nn.Module, seed: int = 1) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(seed)
    return model


def test_parameter_subclass() -> None:
    class Special(nn.Parameter):
        pass

    model = Net()
    model.head[2].weight = Special(torch.rand(4, 4))
    check(ModelEMA(model), trained(model), takes="torch")


def test_ordered_dicts_of_older_torch() -> None:
    model = Net()
    ema = ModelEMA(model)
    for module in [*ema.ema.modules(), *model.modules()]:
        for name in ("_parameters", "_buffers", "_modules"):
            module.__dict__[name] = OrderedDict(module.__dict__[name])
    check(ema, trained(model))


def test_cyclic_tree() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    ema = ModelEMA(model)
    ema.ema.add_module("loop", ema.ema)
    model.add_module("loop", model)
    with pytest.raises(RecursionError):
        ema.update(model)


def test_flushed_subnormals() -> None:
    model = Net()
    ema = ModelEMA(model)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        check(ema, trained(model), takes="torch")
    finally:
        torch.set_flush_denormal(False)


def test_modes_see_the_operations() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            Watch.seen += 1
            return func(*args, **(kwargs or {}))

    model = Net()
    ema = ModelEMA(model)
    with Watch():
        check(ema, trained(model), takes="torch")
    assert Watch.seen > 0


def test_update_attr() -> None:
    model = Net()
    model.names, model._private, model.reducer, model.stride = ["a"], 1, 2, 3
    ema = ModelEMA(Net())
    ema.update_attr(model, include=("names", "stride"))
    assert (ema.ema.names, ema.ema.stride) == (["a"], 3)
    assert not hasattr(ema.ema, "reducer")
    ema.update_attr(model)
    assert not hasattr(ema.ema, "reducer")
    assert not hasattr(ema.ema, "_private")
    assert ema.ema.training  # as upstream: public attributes include `training`


def test_no_grad_and_result() -> None:
    model = Net()
    ema = ModelEMA(model)
    assert ema.update(model) is None
    assert all(v.grad_fn is None for v in ema.ema.state_dict(keep_vars=True).values())


@pytest.mark.parametrize("arguments", ((), (1,), (1, 2), (1, 2, 3, 4)))
def test_wrong_arguments(arguments: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match="ema_update"):
        _C.ema_update(*arguments)
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        _C.ema_update(1, 2, wrong=3)
    with pytest.raises(TypeError, match="multiple values for argument 'source'"):
        _C.ema_update(1, 2, source=3)


def test_keywords() -> None:
    model = Net()
    average = copy.deepcopy(model)
    expected = copy.deepcopy(model)
    trained(model)
    original(expected, model, 0.5)
    _C.ema_update(decay=0.5, source=model, average=average)
    assert_state(average, expected.state_dict())


def test_reference_is_the_original() -> None:
    model = Net()
    average, expected = copy.deepcopy(model), copy.deepcopy(model)
    trained(model)
    reference.ema_update(average, model, 0.97)
    original(expected, model, 0.97)
    assert_state(average, expected.state_dict())
