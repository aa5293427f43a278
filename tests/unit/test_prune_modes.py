"""prune in modes of torch: inference, deterministic, intercepted functions, no subnormals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolov5_utils import reference
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops.prune import prune_layers

from ..support import Watch, assert_same_bits, takes
from .test_prune_models import check, small_model, tied_values


def test_modes() -> None:
    model = small_model()
    with Watch():
        check(model, way="torch")
    with torch.device("cpu"):
        check(model, way="torch")
    if torch.set_flush_denormal(True):
        check(model, way="torch")


@pytest.mark.parametrize("wanted", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("loaded", [True, False], ids=["made in it", "made before"])
def test_inference_mode(loaded: bool, wanted: bool) -> None:
    """val.py prunes in it. The same kinds of tensors are left as by torch, and the same bits."""
    models = []
    for prune_them in (prune_layers, reference.prune_layers):
        with torch.inference_mode(loaded):
            torch.manual_seed(5)
            model = small_model().requires_grad_(wanted)
        calls = int(prune_them is prune_layers)
        with torch.inference_mode(), takes("prune", calls=calls):
            prune_them(model, 0.3)
        models.append(model)
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        for kind in (lambda t: t, lambda t: t.data):
            assert kind(mine).is_inference() == kind(theirs).is_inference()
        assert mine.requires_grad == theirs.requires_grad == wanted
        if not mine.is_inference():
            assert mine._version == theirs._version
        assert_same_bits(mine.detach(), theirs.detach())


def test_inference_tensors_outside_of_the_mode() -> None:
    """torch refuses those that want a gradient; its own text is left to it."""
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        prune_layers(model, 0.3)
    check_reason = "a weight that is computed from others, or an inference tensor"
    assert OPERATIONS["prune"].reasons[check_reason] > 0


def test_deterministic_algorithms() -> None:
    torch.use_deterministic_algorithms(True)
    check(small_model())
    check(tied_values(small_model()), ties="torch")
