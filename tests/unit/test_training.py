"""initialize_weights and load_classifier (with a stand-in for torchvision, so offline)."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from yolov5_utils.torch_utils import initialize_weights, load_classifier

from ..support import python


class OwnReLU(nn.ReLU):
    pass


class TestInitializeWeights:
    @pytest.mark.parametrize(
        ("module", "changed"),
        [
            (nn.BatchNorm2d(2), {"eps": 1e-3, "momentum": 0.03}),
            (nn.Hardswish(), {"inplace": True}),
            (nn.LeakyReLU(0.1), {"inplace": True}),
            (nn.ReLU(), {"inplace": True}),
            (nn.ReLU6(), {"inplace": True}),
            (nn.SiLU(), {}),
            (OwnReLU(), {}),
            (nn.SyncBatchNorm(2), {}),
            (nn.BatchNorm1d(2), {}),
            (nn.Conv2d(2, 2, 1), {}),
            (nn.ELU(), {}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_exactly_the_known_types_change(self, module, changed):
        names = ("eps", "momentum", "inplace")
        before = {name: getattr(module, name) for name in names if hasattr(module, name)}
        assert initialize_weights(nn.Sequential(nn.Sequential(module))) is None
        after = {name: getattr(module, name) for name in names if hasattr(module, name)}
        assert after == before | changed

    def test_weights_and_random_numbers_are_left_alone(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        before = {key: value.clone() for key, value in model.state_dict().items()}
        random = torch.get_rng_state()
        initialize_weights(model)
        assert torch.equal(random, torch.get_rng_state())
        assert list(model.state_dict()) == list(before)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), key


class SmallResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 1000)

    def forward(self, images):
        return self.fc(self.conv(images).mean((2, 3)))


@pytest.fixture
def torchvision(monkeypatch):
    """torchvision.models with one builder per generation of its interface; notes their options."""
    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    package.models, models.asked = models, []

    def current(*, weights=None, progress=True, **options):
        models.asked.append({"weights": weights, **options})
        return SmallResNet()

    def old(pretrained=False, progress=True, **options):
        models.asked.append({"pretrained": pretrained, **options})
        return SmallResNet()

    def headless(*, weights=None, progress=True):
        return nn.Sequential(nn.Linear(2, 2))

    models.resnet101, models.wide = current, current
    models.old, models.vgg11 = old, headless
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return models


class TestLoadClassifier:
    def test_default_is_resnet101_with_two_classes(self, torchvision):
        model = load_classifier()
        assert torchvision.asked == [{"weights": "IMAGENET1K_V1"}]
        assert model(torch.rand(4, 3, 8, 8)).tolist() == [[0.0, 0.0]] * 4

    def test_last_layer_is_zero_and_trainable(self, torchvision):
        model = load_classifier("wide", n=5)
        assert (model.fc.in_features, model.fc.out_features) == (6, 5)
        assert [name for name, _ in model.named_parameters()][-2:] == ["fc.weight", "fc.bias"]
        for parameter, shape in ((model.fc.weight, (5, 6)), (model.fc.bias, (5,))):
            assert isinstance(parameter, nn.Parameter)
            assert parameter.requires_grad
            assert parameter.shape == shape
            assert not parameter.any()

    def test_torchvision_before_weights(self, torchvision):
        load_classifier("old")
        assert torchvision.asked == [{"pretrained": True}]

    def test_unknown_name(self, torchvision):
        with pytest.raises(KeyError, match="resnet9000"):
            load_classifier("resnet9000")

    def test_model_without_fc(self, torchvision):
        with pytest.raises(AttributeError, match=r"name='vgg11' has no last layer 'fc'"):
            load_classifier("vgg11")

    def test_without_torchvision(self):
        program = (
            "import sys; sys.modules['torchvision'] = None\n"
            "from yolov5_utils.torch_utils import load_classifier\n"
            "try: load_classifier()\n"
            "except ModuleNotFoundError as error: print(error.name)"
        )
        assert python("-c", program).stdout == "torchvision\n"

    def test_installed_torchvision(self, monkeypatch):
        """The real interface, with random numbers in the place of the download."""
        pytest.importorskip("torchvision", reason="torchvision is not installed")
        from torchvision import models

        known = models.resnet18().state_dict()
        asked = []
        monkeypatch.setattr(
            models.ResNet18_Weights,
            "get_state_dict",
            lambda self, **_: asked.append(self) or known,
        )
        model = load_classifier("resnet18", n=3)
        assert asked == [models.ResNet18_Weights.IMAGENET1K_V1]
        assert torch.equal(model.conv1.weight, known["conv1.weight"])
        assert model(torch.zeros(1, 3, 64, 64)).tolist() == [[0.0, 0.0, 0.0]]
