"""What is found inside wrappers of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolov5_utils import ModelEMA
from yolov5_utils.parallel import bare, de_parallel, is_fsdp2

from ..support import assert_same_state


def test_wrappers_in_any_order():
    model = nn.Linear(2, 2)
    assert bare(model) is model
    assert bare(nn.DataParallel(nn.DataParallel(model))) is model
    if hasattr(torch, "compile"):
        for wrapped in (
            torch.compile(model),
            torch.compile(nn.DataParallel(model)),
            nn.DataParallel(torch.compile(model)),
        ):
            assert bare(wrapped) is model
        assert de_parallel(torch.compile(model)) is not model  # as YOLOv5 has it


def test_what_is_no_wrapper():
    """What has no modules, too: a client may hand over anything."""
    assert bare(None) is None
    assert not is_fsdp2(nn.Sequential(nn.Linear(1, 1)))


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch has no compiler")
def test_an_average_of_a_compiled_model():
    """Its names are the model's, whichever is handed over."""
    model = nn.Linear(2, 2)
    averages = ModelEMA(model), ModelEMA(torch.compile(model))
    with torch.no_grad():
        model.weight.add_(1)
    for average, given in zip(averages, (torch.compile(model), model), strict=True):
        assert list(average.ema.state_dict()) == ["weight", "bias"]
        average.update(given)
    assert_same_state(averages[1].ema, averages[0].ema)
