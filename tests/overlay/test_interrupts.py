"""What a signal handler raises while a client's average is updated, or its layers are pruned, at
any instruction: the count and the average agree, and all layers are pruned or none."""

from __future__ import annotations

import pytest
from conftest import Loader
from torch import nn

from tests.robustness.stepping import Interrupt, interrupt, with_action_at
from yolov5_utils import _native, overlay


@pytest.mark.slow
@pytest.mark.parametrize("use_c", [True, False], ids=["C", "torch"])
@pytest.mark.parametrize("release", ["5.0", "6.2", "7.0", "u8.0", "u8.3"])
def test_average(
    client: Loader, release: str, use_c: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay.install()
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm2d(3)).requires_grad_(False)
    average = client(release).ModelEMA(model)
    monkeypatch.setattr(_native, "_USE_C", use_c)
    average.decay = lambda updates: 0.5
    for tensor in model.state_dict().values():
        tensor.zero_()
    seen, step, interrupted = set(), 0, True
    while interrupted:
        average.updates = 0
        for tensor in average.ema.state_dict().values():
            tensor.fill_(1)
        try:
            interrupted = with_action_at(step, interrupt, lambda: average.update(model))
        except Interrupt:
            interrupted = True
        expected = 0.5**average.updates
        for tensor in average.ema.state_dict().values():
            assert not tensor.is_floating_point() or bool((tensor == expected).all()), step
        seen.add((interrupted, average.updates))
        step += 1
    assert seen == {(True, 0), (True, 1), (False, 1)}


@pytest.mark.parametrize("release", ["5.0", "7.0"])
def test_prune(client: Loader, release: str, capsys: pytest.CaptureFixture[str]) -> None:
    overlay.install()
    module, model = client(release), nn.Sequential(*(nn.Conv2d(2, 2, 3) for _ in range(3)))
    values = [layer.weight.detach().clone() for layer in model]
    module.prune(model, 0.5)  # tries first how torch chooses, which takes many instructions
    seen, step, interrupted = set(), 0, True
    while interrupted:
        for layer, value in zip(model, values, strict=True):
            layer.weight.data = value.clone()
        try:
            interrupted = with_action_at(step, interrupt, lambda: module.prune(model, 0.5))
        except Interrupt:
            interrupted = True
        pruned = {int((layer.weight == 0).sum()) for layer in model}
        assert pruned in ({0}, {18}), step
        seen.add((interrupted, *pruned))
        capsys.readouterr()
        step += 1
    assert seen >= {(True, 0), (True, 18), (False, 18)}
