"""The names that came after YOLOv5 5.0: what they build, log and refuse, worked out by hand."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest
import torch
from torch import nn

from yolov5_utils.torch_utils import (
    EarlyStopping,
    ModelEMA,
    reshape_classifier_output,
    smart_amp_autocast,
    smart_DDP,
    smart_hub_load,
    smart_inference_mode,
    smart_optimizer,
    smart_resume,
    smartCrossEntropyLoss,
)


class Parts(nn.Module):
    """One parameter of every kind that smart_optimizer tells apart, norms of several families."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.weight, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.conv = nn.Conv2d(3, 4, 1)
        self.plain = nn.Conv2d(4, 4, 1, bias=False)
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4, affine=False)]
        )
        self.frozen = nn.Linear(4, 2).requires_grad_(False)
        self.lstm = nn.LSTM(2, 2)


BIASES = ["bias", "conv.bias", "norms.0.bias", "norms.1.bias", "frozen.bias"]
NORMS = ["norms.0.weight", "norms.1.weight"]
LSTM = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
OTHERS = ["scale", "weight", "conv.weight", "plain.weight", "frozen.weight"]
OTHERS += [f"lstm.{name}" for name in LSTM]


class TestSmartOptimizer:
    @pytest.mark.parametrize(
        ("name", "kind", "expected"),
        [
            ("Adam", torch.optim.Adam, {"betas": (0.8, 0.999)}),
            ("AdamW", torch.optim.AdamW, {"betas": (0.8, 0.999)}),
            ("RMSProp", torch.optim.RMSprop, {"momentum": 0.8, "alpha": 0.99, "centered": False}),
            ("SGD", torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "dampening": 0}),
        ],
    )
    def test_groups_in_their_order(self, messages, name, kind, expected):
        model = Parts()
        optimizer = smart_optimizer(model, name, lr=0.02, momentum=0.8, decay=5e-4)
        assert type(optimizer) is kind
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        groups = optimizer.param_groups
        found = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
        assert found == [BIASES, OTHERS, NORMS]
        assert [group["weight_decay"] for group in groups] == [0, 5e-4, 0]
        for group in groups:
            assert group["lr"] == 0.02
            assert {key: group[key] for key in expected} == expected
        assert messages() == [
            f"\x1b[34m\x1b[1moptimizer:\x1b[0m {kind.__name__}(lr=0.02) with parameter groups "
            "2 weight(decay=0.0), 9 weight(decay=0.0005), 5 bias"
        ]

    def test_defaults(self, messages):
        optimizer = smart_optimizer(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
        assert type(optimizer) is torch.optim.Adam
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 1e-5, 0.0]
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
        assert messages()[0].endswith(
            "Adam(lr=0.001) with parameter groups "
            "1 weight(decay=0.0), 1 weight(decay=1e-05), 2 bias"
        )

    def test_it_trains(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        before = deepcopy(model.state_dict())
        optimizer = smart_optimizer(model, "SGD", lr=0.1)
        (model(torch.rand(2, 3, 4, 4)) * torch.rand(4, 4, 4)).sum().backward()
        optimizer.step()
        for key in ("0.weight", "1.weight", "1.bias"):
            assert not torch.equal(before[key], model.state_dict()[key]), key

    def test_a_normalisation_that_somebody_added_to_torch(self, monkeypatch):
        class OwnNorm(nn.Linear):
            pass

        assert len(smart_optimizer(OwnNorm(2, 2)).param_groups[2]["params"]) == 0
        monkeypatch.setattr(nn, "OwnNorm", OwnNorm, raising=False)
        assert len(smart_optimizer(OwnNorm(2, 2)).param_groups[2]["params"]) == 1

    @pytest.mark.parametrize("name", ["adam", "LION", "RMSprop", None])
    def test_unknown_name(self, messages, name):
        with pytest.raises(NotImplementedError, match=f"^Optimizer {name} not implemented\\.$"):
            smart_optimizer(nn.Linear(1, 1), name)
        assert messages() == []

    def test_a_model_without_a_bias(self):
        with pytest.raises(ValueError, match="empty parameter list"):
            smart_optimizer(nn.Linear(1, 1, bias=False))


class TestEarlyStopping:
    def test_stops_after_patience_epochs_without_improvement(self, messages):
        stopper = EarlyStopping(patience=3)
        assert vars(stopper) == {
            "best_fitness": -1.0,
            "best_epoch": 0,
            "patience": 3,
            "possible_stop": False,
        }
        fitness = [0.1, 0.5, 0.4, 0.3, 0.2, 0.6]
        stops, possible = [], []
        for epoch, value in enumerate(fitness):
            stops.append(stopper(epoch=epoch, fitness=value))
            possible.append(stopper.possible_stop)
        assert stops == [False, False, False, False, True, False]
        assert possible == [False, False, False, True, True, False]
        assert (stopper.best_epoch, stopper.best_fitness) == (5, 0.6)
        (message,) = messages()
        assert message == (
            "Stopping training early as no improvement observed in last 3 epochs. Best results "
            "observed at epoch 1, best model saved as best.pt.\nTo update EarlyStopping(patience=3)"
            " pass a new patience value, i.e. `python train.py --patience 300` or use "
            "`--patience 0` to disable EarlyStopping."
        )

    @pytest.mark.parametrize("fitness", [0.0, 0.3])
    def test_a_plateau_stops(self, messages, fitness):
        stopper = EarlyStopping(patience=3)
        assert [stopper(epoch, fitness) for epoch in range(4)] == [False, False, False, True]
        assert (stopper.best_epoch, stopper.best_fitness) == (0, fitness)
        assert "Best results observed at epoch 0, " in messages()[0]

    def test_any_course_of_a_training(self):
        """Stops where the best epoch, the first of equals, lies `patience` epochs back."""
        draw = random.Random(15)
        for _ in range(300):
            patience = draw.randint(1, 6)
            fitness = [draw.choice((0.0, 0.25, 0.5, 0.75)) for _ in range(draw.randint(1, 30))]
            stopper = EarlyStopping(patience=patience)
            for epoch, value in enumerate(fitness):
                best = max(fitness[: epoch + 1])
                since = epoch - fitness.index(best)
                assert stopper(epoch, value) is (since >= patience)
                assert stopper.possible_stop is (since >= patience - 1)
                assert (stopper.best_epoch, stopper.best_fitness) == (epoch - since, best)

    @pytest.mark.parametrize("patience", [0, None])
    def test_no_patience_never_stops(self, patience):
        stopper = EarlyStopping(patience=patience)
        stopper(0, 1.0)
        assert not any(stopper(epoch, 0.0) for epoch in range(1, 1000))
        assert stopper.patience == float("inf")

    def test_nan_is_no_improvement(self):
        stopper = EarlyStopping(patience=2)
        assert [stopper(epoch, float("nan")) for epoch in range(3)] == [False, False, True]

    def test_default_patience(self):
        assert EarlyStopping().patience == 30


def small_model():
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


class TestSmartResume:
    @staticmethod
    def checkpoint(epoch):
        trained = small_model()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.fill_(0.75)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.25, momentum=0.5)
        trained(torch.rand(2, 1, 3, 3)).sum().backward()
        optimizer.step()
        return {
            "epoch": epoch,
            "best_fitness": 0.625,
            "optimizer": optimizer.state_dict(),
            "ema": deepcopy(trained).half(),
            "updates": 1234,
        }

    @pytest.fixture
    def training(self):
        model = small_model()
        return torch.optim.SGD(model.parameters(), lr=9.0, momentum=0.1), ModelEMA(model)

    def test_everything_is_restored(self, messages, training):
        optimizer, average = training
        checkpoint = self.checkpoint(epoch=4)
        stored = {key: value.float() for key, value in checkpoint["ema"].state_dict().items()}
        assert smart_resume(checkpoint, optimizer, average, "last.pt", 100, True) == (0.625, 5, 100)
        assert messages() == ["Resuming training from last.pt from epoch 5 to 100 total epochs"]
        assert optimizer.param_groups[0]["lr"] == 0.25
        momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
        kept = checkpoint["optimizer"]["state"].values()
        assert all(map(torch.equal, momenta, (state["momentum_buffer"] for state in kept)))
        assert (average.updates, type(average.updates)) == (1234, int)
        for key, value in average.ema.state_dict().items():
            assert torch.equal(value.float(), stored[key]), key
        assert average.ema[0].weight.dtype is torch.float32

    def test_finished_training_goes_on_for_as_many_epochs(self, messages, training):
        optimizer, _ = training
        checkpoint = self.checkpoint(epoch=99)
        found = smart_resume(checkpoint, optimizer, weights="best.pt", epochs=10, resume=False)
        assert found == (0.625, 100, 109)
        assert messages() == [
            "best.pt has been trained for 99 epochs. Fine-tuning for 10 more epochs."
        ]

    def test_resuming_beyond_the_epochs_asked_for(self, messages, training):
        found = smart_resume(self.checkpoint(epoch=20), training[0], epochs=10)
        assert found == (0.625, 21, 30)
        assert messages() == [
            "Resuming training from yolov5s.pt from epoch 21 to 10 total epochs",
            "yolov5s.pt has been trained for 20 epochs. Fine-tuning for 10 more epochs.",
        ]

    def test_finished_checkpoint_as_pretrained_weights(self, messages, training):
        optimizer, average = training
        checkpoint = {"epoch": -1, "optimizer": None, "ema": None, "best_fitness": 0.9}
        assert smart_resume(checkpoint, optimizer, average, epochs=7, resume=False) == (0.0, 0, 7)
        assert (average.updates, optimizer.param_groups[0]["lr"]) == (0, 9.0)
        assert messages() == []

    def test_a_finished_training_cannot_be_resumed(self, messages, training):
        optimizer, average = training
        before = deepcopy(average.ema.state_dict())
        with pytest.raises(AssertionError) as caught:
            smart_resume(self.checkpoint(epoch=-1), optimizer, average, "w.pt", 3)
        assert str(caught.value) == (
            "w.pt training to 3 epochs is finished, nothing to resume.\n"
            "Start a new training without --resume, i.e. 'python train.py --weights w.pt'"
        )
        assert (average.updates, optimizer.param_groups[0]["lr"]) == (0, 9.0)
        assert all(map(torch.equal, before.values(), average.ema.state_dict().values()))
        assert messages() == []


class Classify(nn.Module):
    """The head of YOLOv5's classification models, by name and by its layer `linear`."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(4, 10)


class OwnClassify(Classify):
    pass


class Ending(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.body, self.last = nn.Conv2d(3, 4, 1), last


def inside(model):
    whole = nn.Module()
    whole.model = model
    return whole


class TestReshapeClassifierOutput:
    @pytest.mark.parametrize(
        ("model", "at"),
        [
            (inside(nn.Sequential(nn.ReLU(), Classify())), "model.1.linear"),
            (nn.Sequential(OwnClassify()), "0.linear"),
            (Ending(nn.Linear(4, 10)), "last"),
            (inside(Ending(nn.Linear(4, 10))), "model.last"),
            (Ending(nn.Sequential(nn.Dropout(), nn.Linear(4, 10))), "last.1"),
            (Ending(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 10))), "last.2"),
            (Ending(nn.Sequential(nn.Linear(4, 10), nn.Conv2d(1, 1, 1))), "last.0"),
        ],
    )
    def test_the_last_linear_layer_is_replaced(self, model, at):
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        others = {key: value for key, value in model.state_dict().items() if not key.startswith(at)}
        torch.manual_seed(3)
        assert reshape_classifier_output(model, 7) is None
        torch.manual_seed(3)
        expected = nn.Linear(4, 7)
        layer = model.get_submodule(at)
        assert type(layer) is nn.Linear
        assert torch.equal(layer.weight, expected.weight)
        assert torch.equal(layer.bias, expected.bias)
        shapes |= {f"{at}.weight": [7, 4], f"{at}.bias": [7]}
        assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes
        state = model.state_dict()
        assert all(state[key].data_ptr() == value.data_ptr() for key, value in others.items())

    @pytest.mark.parametrize("bias", [True, False])
    def test_a_convolution_where_there_is_no_linear_layer(self, bias):
        last = nn.Sequential(nn.Conv2d(4, 10, 3, 2, padding=1, bias=bias), nn.ReLU())
        model = Ending(last)
        reshape_classifier_output(model, 7)
        layer = model.last[0]
        assert type(layer) is nn.Conv2d
        assert (layer.in_channels, layer.out_channels) == (4, 7)
        assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (2, 2), (0, 0))
        assert (layer.bias is not None) is bias

    @pytest.mark.parametrize(
        "last",
        [
            nn.Linear(4, 7),
            nn.Sequential(nn.Linear(4, 7)),
            nn.Sequential(nn.Conv2d(4, 7, 1)),
            nn.Conv2d(4, 10, 1),
            nn.Sequential(nn.ReLU()),
            nn.ReLU(),
        ],
    )
    def test_what_fits_or_is_unknown_stays(self, last):
        model = Ending(last)
        random = torch.get_rng_state()
        layers = list(model.modules())
        reshape_classifier_output(model, n=7)
        assert all(a is b for a, b in zip(layers, model.modules(), strict=True))
        assert torch.equal(random, torch.get_rng_state())

    def test_default_is_1000(self):
        model = Ending(nn.Linear(4, 10))
        reshape_classifier_output(model)
        assert model.last.out_features == 1000

    def test_a_model_without_children(self):
        with pytest.raises(IndexError):
            reshape_classifier_output(nn.ReLU(), 3)


class TestSmallOnes:
    def test_loss(self):
        logits, target = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([1])
        logs = logits.log_softmax(1)[0]
        assert smartCrossEntropyLoss()(logits, target).item() == pytest.approx(-logs[1].item())
        smooth = -(0.7 * logs[1] + 0.3 * logs.mean()).item()
        loss = smartCrossEntropyLoss(label_smoothing=0.3)
        assert type(loss) is nn.CrossEntropyLoss
        assert loss(logits, target).item() == pytest.approx(smooth)

    @pytest.mark.parametrize(
        ("arguments", "inference"), [((), True), ((True,), True), ((False,), False)]
    )
    def test_inference_mode(self, arguments, inference):
        @smart_inference_mode(*arguments)
        def run(depth):
            """What run says."""
            inner = run(depth - 1) if depth else None
            modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
            return [modes, *(inner or [])]

        assert run(1) == [(inference, False)] * 2
        assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == (False, True)
        assert (run.__name__, run.__doc__) == ("run", "What run says.")

    def test_autocast(self):
        x = torch.ones(2, 2)
        with smart_amp_autocast(True, "cpu"):
            assert (x @ x).dtype is torch.bfloat16
        with smart_amp_autocast(enabled=False, device="cpu"):
            assert (x @ x).dtype is torch.float32

    def test_autocast_is_for_cuda_unless_told_otherwise(self):
        context = smart_amp_autocast(False)
        assert isinstance(context, torch.amp.autocast)
        assert (context.device, context._enabled) == ("cuda", False)


class TestSmartHubLoad:
    @pytest.fixture
    def hub(self, monkeypatch):
        """A torch.hub.load that notes its arguments, and fails as often as `failures` says."""

        class Calls(list):
            failures = 0

        calls = Calls()

        def load(repo_or_dir, model, *, trust_repo=None, skip_validation=False, **options):
            options |= {"trust_repo": trust_repo, "skip_validation": skip_validation}
            calls.append((repo_or_dir, model, options))
            if len(calls) <= calls.failures:
                raise OSError(f"failure {len(calls)}")
            return "a model"

        monkeypatch.setattr(torch.hub, "load", load)
        return calls

    def test_asks_nothing(self, hub):
        assert smart_hub_load() == "a model"
        answers = {"trust_repo": True, "skip_validation": True}
        assert hub == [("ultralytics/yolov5", "yolov5s", answers)]

    def test_second_try_is_a_fresh_download(self, hub):
        hub.failures = 1
        assert smart_hub_load("a/b", "c", classes=3, force_reload=False) == "a model"
        answers = {"trust_repo": True, "skip_validation": True, "classes": 3}
        assert [call[:2] for call in hub] == [("a/b", "c")] * 2
        assert [call[2] for call in hub] == [
            {**answers, "force_reload": False},
            {**answers, "force_reload": True},
        ]

    def test_second_failure_passes_through(self, hub):
        hub.failures = 2
        with pytest.raises(OSError, match="failure 2"):
            smart_hub_load()

    def test_torch_before_trust_repo(self, hub, monkeypatch):
        """torch 1.11 takes skip_validation alone; what it does not know goes to the model."""
        given = []

        def load(repo_or_dir, model, *args, skip_validation=False, **options):
            given.append({"skip_validation": skip_validation, **options})

        monkeypatch.setattr(torch.hub, "load", load)
        smart_hub_load(pretrained=False)
        assert given == [{"skip_validation": True, "pretrained": False}]


class TestSmartDDP:
    @pytest.fixture
    def wrapped(self, monkeypatch):
        """What DistributedDataParallel, which needs GPUs here, was given."""
        given = []
        monkeypatch.setattr(
            nn.parallel,
            "DistributedDataParallel",
            lambda model, **options: given.append((model, options)) or "wrapped",
        )
        return given

    def test_the_device_is_the_local_rank(self, wrapped, monkeypatch):
        monkeypatch.setenv("LOCAL_RANK", "3")
        model = nn.Linear(1, 1)
        assert smart_DDP(model) == "wrapped"
        options = {"device_ids": [3], "output_device": 3, "static_graph": True}
        assert wrapped == [(model, options)]

    def test_torch_1_12_0_is_refused(self, wrapped, monkeypatch):
        monkeypatch.setattr(torch, "__version__", "1.12.0")
        with pytest.raises(AssertionError, match="torch==1.12.0"):
            smart_DDP(nn.Linear(1, 1))
        assert wrapped == []

    def test_without_a_process_group(self, monkeypatch):
        monkeypatch.setenv("LOCAL_RANK", "0")
        with pytest.raises((ValueError, RuntimeError), match="process group|device_ids"):
            smart_DDP(nn.Linear(1, 1))
