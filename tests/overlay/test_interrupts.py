"""What a signal handler raises while a client's average is updated, or its layers are pruned, at
any instruction: the count and the average agree, and all layers are pruned or none."""

from __future__ import annotations

import pytest
from conftest import Loader
from torch import nn

from tests.robustness.stepping import interrupted_at_each
from yolov5_utils import _native


@pytest.mark.slow
@pytest.mark.parametrize("use_c", [True, False], ids=["C", "torch"])
@pytest.mark.parametrize("release", ["5.0", "6.2", "7.0", "u8.0", "u8.3"])
def test_average(
    patched: Loader, release: str, use_c: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm2d(3)).requires_grad_(False)
    average = patched(release).ModelEMA(model)
    monkeypatch.setattr(_native, "_USE_C", use_c)
    average.decay = lambda updates: 0.5
    for tensor in model.state_dict().values():
        tensor.zero_()
    seen = set()

    def begin() -> None:
        average.updates = 0
        for tensor in average.ema.state_dict().values():
            tensor.fill_(1)

    def check(interrupted: bool) -> None:
        expected = 0.5**average.updates
        for tensor in average.ema.state_dict().values():
            assert not tensor.is_floating_point() or bool((tensor == expected).all())
        seen.add((interrupted, average.updates))
        begin()

    begin()
    interrupted_at_each(lambda: average.update(model), check)
    assert seen == {(True, 0), (True, 1), (False, 1)}


@pytest.mark.parametrize("release", ["5.0", "7.0"])
def test_prune(patched: Loader, release: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, model = patched(release), nn.Sequential(*(nn.Conv2d(2, 2, 3) for _ in range(3)))
    values = [layer.weight.detach().clone() for layer in model]
    module.prune(model, 0.5)  # tries first how torch chooses, which takes many instructions
    seen = set()

    def begin() -> None:
        for layer, value in zip(model, values, strict=True):
            layer.weight.data = value.clone()

    def check(interrupted: bool) -> None:
        pruned = {int((layer.weight == 0).sum()) for layer in model}
        assert pruned in ({0}, {18})
        seen.add((interrupted, *pruned))
        capsys.readouterr()
        begin()

    begin()
    interrupted_at_each(lambda: module.prune(model, 0.5), check)
    assert seen >= {(True, 0), (True, 18), (False, 18)}
