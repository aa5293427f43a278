"""What only the CUDA library minds never reaches the user: torch does what was asked, with its own
bits, whichever call of the library was refused, and every call asks again where that may help."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolov5_utils import _C
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops import prune as prune_module
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.ops.sparsity import _share_on_gpu
from yolov5_utils.torch_utils import ModelEMA, fuse_conv_and_bn, scale_img, sparsity

from ..support import takes
from .test_loader import BAD_ARGUMENT, FAILED, NO_DRIVER, NO_KERNEL, NOT_NOW, Faked, model

OURS = (NO_DRIVER, NO_KERNEL, NOT_NOW, BAD_ARGUMENT)
WHERE = ("FAKE_CHECK_STATUS", "FAKE_STATUS")  # when the device is asked, and in each call


def results() -> list[torch.Tensor]:
    """Of every operation, on models and images of drawn numbers."""
    ema, counted, pruned, pair = ModelEMA(model()), model(2), model(3), model(4).eval()
    ema.update(model(1))
    assert ema.updates == 1
    with torch.no_grad():
        counted[0].weight.view(-1)[::3] = 0
        prune_layers(pruned, 0.3)
        fused = fuse_conv_and_bn(pair[0], pair[1])
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    return [
        *ema.ema.state_dict().values(),
        sparsity(counted),
        *pruned.state_dict().values(),
        fused.weight,
        fused.bias,
        scale_img(image, 0.83),
    ]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("status", OURS)
def test_torch_does_it(faked: Faked, status: int, where: str) -> None:
    expected = copy.deepcopy(results())
    faked(f"{where}={status}", "FAKE_TAKEOVER")
    names = ("ema", "sparsity", "prune", "scale_img")
    before = {name: dict(OPERATIONS[name].calls) for name in names}
    for found, wanted in zip(results(), expected, strict=True):
        assert torch.equal(found, wanted)
    for name in names:
        calls = OPERATIONS[name].calls
        assert calls == {**before[name], "torch": before[name]["torch"] + 1}, name
        reasons = OPERATIONS[name].reasons
        assert any(why.endswith(f"the fake library says {status}") for why in reasons), name


def test_a_sum_is_torchs_where_only_the_count_was_the_librarys(faked: Faked) -> None:
    zeros = torch.tensor([(1 << 24) + 1, 1, 1, 5])
    total = torch.zeros(())
    for number in zeros:
        total += number
    _, record = faked(f"FAKE_STATUS={NOT_NOW}", "FAKE_SUM")
    assert torch.equal(_share_on_gpu(zeros, 7, torch.float32), total / 7.0)
    assert record.calls == 1


def test_a_refusal_behind_pruned_layers(faked: Faked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of two layers takes two calls, and only the first succeeds. torch prunes both."""
    expected, pruned = shared(), shared()
    prune_layers(expected, 0.3)
    _, record = faked(f"FAKE_STATUS={NOT_NOW}", "FAKE_CALLS_GOOD=1")
    fill = prune_module._fill

    def filled(batch: list[prune_module._Layer], ties: str) -> tuple[list[torch.Tensor], object]:
        """With what the library would have left: the fake one computes nothing."""
        tensors, answer = fill(batch, ties)
        for tensor, layer in zip(tensors, batch, strict=True):
            tensor.copy_(prune_module._prune_as_torch(layer.weight, layer.pruned))
        return tensors, answer

    monkeypatch.setattr(prune_module, "_fill", filled)
    prune_layers(pruned, 0.3)
    assert record.calls == 2
    for found, wanted in zip(pruned.parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted)


def shared() -> nn.Module:
    """A model of two convolutions with one weight."""
    made = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(3, 8, 3))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    made[1].weight = made[0].weight
    return made


def test_an_update_that_stopped_halfway_is_an_error(faked: Faked) -> None:
    """torch must not average again what was averaged."""
    faked(f"FAKE_STATUS={FAILED}", "FAKE_HALFWAY")
    ema, source = ModelEMA(model()), model(1)
    with (
        takes("ema", calls=0),
        pytest.raises(RuntimeError, match=f"^the fake library says {FAILED}$"),
    ):
        ema.update(source)
    assert ema.updates == 0


def test_a_refusal_for_now_says_its_own_words(faked: Faked) -> None:
    """Also where the tensors had to be borrowed again after the device was asked."""
    _, record = faked(f"FAKE_CHECK_STATUS={NOT_NOW}", "FAKE_CHECKS_FAILED=2")
    weight: nn.Parameter = model()[0].weight
    for _ in range(2):
        with pytest.raises(_C.Unsupported, match=f"the fake library says {NOT_NOW}$"):
            _C.prune([weight], [torch.empty_like(weight)], [1])
    assert _C.prune([weight], [torch.empty_like(weight)], [1]) == 0
    assert (record.checks, record.calls) == (3, 1)
