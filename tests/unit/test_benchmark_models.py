"""The benchmarks' model trees have the counts, names and behaviour of YOLOv5 v7.0's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import models

# Of the published models, counted in another way than models.EXPECTED: elements of all convolution
# weights, of the largest one, and the number of float entries with at most 1024 elements.
CONVOLUTIONS = {
    "n": (1_861_888, 294_912, 239),
    "s": (7_215_616, 1_179_648, 233),
    "m": (21_153_024, 2_654_208, 320),
    "l": (46_502_912, 4_718_592, 408),
    "x": (86_659_840, 7_372_800, 480),
}


@pytest.fixture(scope="module")
def nano() -> nn.Module:
    return models.build("n")


@pytest.mark.parametrize("name", models.SIZES)
def test_counts(name: str) -> None:
    with torch.device("meta"):  # shapes only: the large models would take seconds to fill
        model = models.DetectionModel(models.SIZES[name])
    assert models.count(model) == models.EXPECTED[name]
    weights = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)]
    floats = [v.numel() for v in model.state_dict().values() if v.dtype.is_floating_point]
    small = sum(elements <= 1024 for elements in floats)
    assert (sum(weights), max(weights), small) == CONVOLUTIONS[name]


def test_names_are_yolov5s(nano: nn.Module) -> None:
    keys = list(nano.state_dict())
    assert keys[0] == "model.0.conv.weight"
    assert "model.2.m.0.cv1.bn.running_var" in keys
    assert "model.9.cv2.bn.num_batches_tracked" in keys
    assert keys[-7:] == ["model.24.anchors"] + [
        f"model.24.m.{scale}.{part}" for scale in range(3) for part in ("weight", "bias")
    ]


def test_forward_shapes(nano: nn.Module) -> None:
    with torch.no_grad():
        outputs = nano.eval()(torch.zeros(2, 3, 64, 96))
    shapes = [tuple(output.shape) for output in outputs]
    assert shapes == [(2, 3, 64 // s, 96 // s, models.CLASSES + 5) for s in (8, 16, 32)]


def test_seed_decides_the_values_and_leaves_the_stream(nano: nn.Module) -> None:
    before = torch.random.get_rng_state()
    again, other = models.build("n").state_dict(), models.build("n", seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, value in nano.state_dict().items():
        assert torch.equal(value, again[key])
    assert not torch.equal(again["model.0.conv.weight"], other["model.0.conv.weight"])


def test_running_statistics_are_not_initial(nano: nn.Module) -> None:
    state = nano.state_dict()
    assert not (state["model.0.bn.running_mean"] == 0).any()
    assert not (state["model.0.bn.running_var"] == 1).any()


def test_half_once_went_through_float16() -> None:
    for value in models.build("n", half_once=True).state_dict().values():
        if value.dtype.is_floating_point:
            assert value.dtype == torch.float32
            assert torch.equal(value, value.half().float())


def test_skeleton_keeps_the_tree_and_drops_the_elements(nano: nn.Module) -> None:
    small = models.skeleton(nano)
    whole = models.EXPECTED["n"]
    counted = models.count(small)
    assert counted.float_elements == 2 * whole.float_entries
    for field in ("entries", "parameter_tensors", "modules", "visits"):
        assert getattr(counted, field) == getattr(whole, field)
    assert list(small.state_dict()) == list(nano.state_dict())
    assert models.count(nano) == whole


def test_unknown_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="allowed are n, s, m, l, x"):
        models.build("tiny")
