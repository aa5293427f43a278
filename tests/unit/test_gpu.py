"""What only a real GPU can show of the hot paths: streams, graphs, waiting, several devices."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

from yolov5_utils import _C, reference
from yolov5_utils.ops import prune as prune_module
from yolov5_utils.torch_utils import ModelEMA, scale_img, sparsity

from ..support import assert_same_bits, assert_same_state, original
from .devices import Device, need_gpu
from .ema_models import Net
from .test_devices import (
    check_fuse,
    check_scale_img,
    convolutions,
    original_scale_img,
    pair,
    pruned_by_sorting,
)


@pytest.fixture
def gpu() -> torch.device:
    """The first GPU, if the CUDA library runs on it."""
    need_gpu()
    problem = _C.cuda_info(0)["problem"]
    if problem is not None:
        pytest.skip(problem)
    return torch.device("cuda", 0)


def test_nothing_waits_for_the_gpu(gpu: torch.device) -> None:
    """EMA, sparsity, prune and scale_img only launch."""
    model, image = convolutions(1).to(gpu), torch.rand(1, 3, 64, 96, device=gpu)
    ema = ModelEMA(model)
    scale_img(image, 0.5)  # tries the variants, and waits for that
    torch.cuda.set_sync_debug_mode("error")
    try:
        ema.update(model)
        sparsity(model)
        prune_module.prune_layers(model, 0.3)
        scale_img(image, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_current_stream_is_used(gpu: torch.device) -> None:
    """A long wait on a stream of its own is in front of the update, and nothing else is."""
    model = convolutions(1).to(gpu)
    ema, expected = ModelEMA(model), ModelEMA(model)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        ema.update(model)
    done = stream.record_event()
    assert not done.query()
    done.synchronize()
    original(expected.ema, model, ema.decay(1))
    assert_same_state(ema.ema, expected.ema)


def test_graph_capture(gpu: torch.device) -> None:
    """Captured once, played three times: as many updates."""
    average, source = convolutions(1).to(gpu), convolutions(2).to(gpu)
    expected, image = copy.deepcopy(average), torch.rand(2, 3, 99, 130, device=gpu)
    original_image = original_scale_img(image, 0.83)
    scale_img(image, 0.83)
    _C.ema_update(copy.deepcopy(average), source, 0.9)
    weights = [parameter for parameter in source.parameters() if parameter.dim() == 4]
    pruned = [torch.full_like(weight, 7) for weight in weights]
    counts = [weight.numel() // 3 for weight in weights]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _C.ema_update(average, source, 0.9)
        share = sparsity(source)
        resized = scale_img(image, 0.83)
        _C.prune(weights, pruned, counts)
    for _ in range(3):
        graph.replay()
        original(expected, source, 0.9)
    torch.cuda.synchronize()
    assert_same_state(average, expected)
    assert_same_bits(resized.cpu(), original_image.cpu())
    assert_same_bits(share.cpu(), reference.sparsity(source).cpu())
    for weight, result, count in zip(weights, pruned, counts, strict=True):
        expected_weight = pruned_by_sorting(weight.detach().cpu(), count)
        assert_same_bits(result.cpu(), expected_weight)


def test_deterministic_algorithms_are_torchs(gpu: torch.device) -> None:
    torch.use_deterministic_algorithms(True)
    check_scale_img(torch.rand(1, 3, 64, 96), 0.83, Device(gpu, "torch"))


def test_mixed_devices_raise_as_upstream(gpu: torch.device) -> None:
    ema, model = ModelEMA(Net().to(gpu)), Net(1)
    with pytest.raises(RuntimeError) as theirs:
        original(copy.deepcopy(ema.ema), model, 0.9)
    before = {key: value.clone() for key, value in ema.ema.state_dict().items()}
    with pytest.raises(RuntimeError) as ours:
        ema.update(model)
    assert str(ours.value).splitlines()[0] == str(theirs.value).splitlines()[0]
    for key, value in before.items():
        assert torch.equal(ema.ema.state_dict()[key], value)


def test_lowered_precision_takes_the_originals_product(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, bn = (module.to(gpu) for module in pair((64, 64), torch.float32, 1))
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    check_fuse(conv, bn, "torch")


# Programs of their own: what a process does first, or can do only once.
PREPARED = """
import copy, os, sys
import torch
from torch import nn
from yolov5_utils import reference
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import ModelEMA, fuse_conv_and_bn
torch.manual_seed(1)
model = nn.Conv2d(64, 64, 3, bias=False).cuda().requires_grad_(False)
"""
PROGRAMS = {
    "captures its first call": """
ema = ModelEMA(model)
expected, graph = copy.deepcopy(ema.ema), torch.cuda.CUDAGraph()
model.weight += 1
with torch.cuda.graph(graph):
    ema.update(model)
graph.replay()
reference.ema_update(expected, model, ema.decay(1))
assert torch.equal(ema.ema.weight, expected.weight)
assert OPERATIONS["ema"].calls["CUDA"] == 1, OPERATIONS["ema"].reasons
""",
    "forks after a call": """
ema = ModelEMA(model)
ema.update(model)
if os.fork():
    _, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status))
try:
    ema.update(model)
except RuntimeError as error:
    os._exit("Cannot re-initialize CUDA in forked subprocess" not in str(error))
os._exit(2)
""",
    "has NVIDIA_TF32_OVERRIDE=1": """
bn = nn.BatchNorm2d(64).cuda().eval().requires_grad_(False)
bn.running_var.uniform_(0.1, 9)
found, expected = (f(model, bn) for f in (fuse_conv_and_bn, reference.fuse_conv_and_bn))
assert torch.equal(found.weight, expected.weight)
assert OPERATIONS["fuse"].calls["torch"] == 1
""",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_process_that(gpu: torch.device, program: str) -> None:
    name, _, value = program.rpartition(" ")[2].partition("=")
    environment = {**os.environ, name: value} if value else dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + PROGRAMS[program]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
