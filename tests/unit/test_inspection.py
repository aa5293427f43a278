"""profile and model_info, against texts worked out by hand."""

from __future__ import annotations

import logging
import math
import sys
import threading
from copy import deepcopy
from types import ModuleType

import pytest
import torch
from torch import nn

from yolov5_utils.torch_utils import model_info, profile

HEADER = (
    "      Params      GFLOPs    forward (ms)   backward (ms)                   input"
    "                  output"
)
COLUMN_ENDS = (12, 24, 40, 56, 80, 104)


class Detector(nn.Module):
    """What model_info looks at in YOLOv5's Model: yaml, stride, and modules in a list."""

    def __init__(self, channels=3, stride=32):
        super().__init__()
        self.yaml = {"ch": channels}
        self.stride = torch.tensor([8.0, float(stride)])
        self.module_list = nn.ModuleList([nn.Conv2d(channels, 2, 1), nn.BatchNorm2d(2), nn.SiLU()])

    def forward(self, images):
        for module in self.module_list:
            images = module(images)
        return images


@pytest.fixture
def no_thop(monkeypatch):
    monkeypatch.setitem(sys.modules, "thop", None)


@pytest.fixture
def thop(monkeypatch):
    """A thop that counts one multiply-add per 1e-9 input value.

    It leaves buffers, hooks and evaluation mode behind, more of them than thop does.
    """
    module = ModuleType("thop")
    module.models, module.shapes = [], []

    def count(model, inputs, verbose):
        assert verbose is False
        module.models.append(model)
        module.shapes.append(tuple(inputs[0].shape))
        model.eval()
        for part in model.modules():
            part.register_buffer("total_ops", torch.zeros(1))
            part.register_buffer("total_params", torch.zeros(1))
            part.register_forward_hook(lambda *_: None)
        model(*inputs)
        return inputs[0].numel() * 1e9, 0

    module.profile = count
    monkeypatch.setitem(sys.modules, "thop", module)
    return module


def rows(text: str) -> list[list[str]]:
    """The columns of each row that `profile` printed; its head is checked on the way."""
    lines = text.split("\n")
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else ""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert lines[:3] == [f"{torch.__version__} {kind} {gpu}", "", HEADER]
    assert lines[-1] == ""
    starts = (0, *COLUMN_ENDS)
    for line in lines[3:-1]:
        assert len(line) == COLUMN_ENDS[-1]
    return [
        [line[start:end].strip() for start, end in zip(starts, COLUMN_ENDS, strict=False)]
        for line in lines[3:-1]
    ]


def kept(model: nn.Module) -> list[object]:
    """What a count must leave as it is, of each module in the model."""
    return [
        (
            set(vars(module)),
            module.training,
            dict(module._forward_hooks),
            {name: (id(value), value.tolist()) for name, value in module._buffers.items()},
            set(module._non_persistent_buffers_set),
        )
        for module in model.modules()
    ]


class Counted(nn.Module):
    """A model of mixed modes with a hook and with names that thop uses; `fails` when it is run."""

    def __init__(self, fails=False):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2).eval(), nn.SiLU())
        self.inner.register_buffer("total_ops", torch.ones(2), persistent=False)
        self.inner[1].register_buffer("total_params", torch.ones(3))
        self.inner[0].register_forward_hook(lambda *_: None)
        self.fails = fails

    def forward(self, images):
        if self.fails:
            raise ValueError("it cannot run")
        return self.inner(images)


UNCOPYABLE = {
    "lock": threading.Lock,
    "generator": lambda: (k for k in range(3)),
    "computed tensor": lambda: torch.ones(2, requires_grad=True) * 2,
}


class TestProfile:
    def test_one_row_per_operation(self, no_thop, capsys):
        x = torch.rand(2, 3, 8, 8)
        ops = [nn.Conv2d(3, 5, 3), nn.SiLU(), lambda x: x * 2, lambda x: [x, x]]
        assert profile(x, ops, n=3) is None
        table = rows(capsys.readouterr().out)
        assert [row[0] for row in table] == ["140", "0", "0", "0"]  # 3 · 5 · 3 · 3 + 5
        assert [row[1] for row in table] == ["0"] * 4
        assert [row[4] for row in table] == ["(2, 3, 8, 8)"] * 4
        assert [row[5] for row in table] == ["(2, 5, 6, 6)", *["(2, 3, 8, 8)"] * 2, "list"]
        assert all(float(row[2]) > 0 for row in table)
        assert all(float(row[3]) > 0 for row in table[:3])
        assert table[3][3] == "nan"  # a list has no backward pass

    def test_times_are_means_in_milliseconds(self, no_thop, capsys, monkeypatch):
        ticks = iter([1.0, 1.004, 1.014, 2.0, 2.002, 2.022])  # seconds; start, forward, backward
        monkeypatch.setattr(
            "yolov5_utils.helpers.inspection.time_synchronized", lambda: next(ticks)
        )
        profile(torch.rand(1, 2), nn.Linear(2, 2), n=2)
        assert rows(capsys.readouterr().out)[0][2:4] == ["3", "15"]

    def test_runs_n_times(self, no_thop):
        seen = []
        profile(torch.rand(4), lambda x: seen.append(x) or x.sum(), n=7)
        assert len(seen) == 7
        profile(torch.rand(4), (lambda x: seen.append(x) or x.sum(),))
        assert len(seen) == 107

    def test_without_gradients_backward_is_nan(self, no_thop, capsys):
        profile(torch.rand(4), lambda x: x.detach(), n=2)
        assert rows(capsys.readouterr().out)[0][3] == "nan"

    def test_side_effects_are_the_original_ones(self, no_thop):
        x = torch.rand(2, 3)
        layer = nn.Linear(3, 3)
        profile(x, layer, n=1, device="cpu")
        assert x.requires_grad
        assert x.grad is not None
        assert layer.weight.grad is not None

    def test_half_input_makes_half_modules(self, no_thop, capsys):
        layer = nn.Linear(3, 3)
        profile(torch.rand(2, 3).half(), layer, n=1, device=torch.device("cpu"))
        assert layer.weight.dtype is torch.float16

    def test_thop_counts_on_the_module_itself(self, thop, capsys):
        layer = nn.Linear(3, 3)
        profile(torch.rand(2, 3), [layer], n=1)
        assert rows(capsys.readouterr().out)[0][1] == "12"  # 6 multiply-adds of 1e9, times 2
        assert thop.models[0] is layer

    @pytest.mark.parametrize("held", UNCOPYABLE)
    def test_modules_that_cannot_be_copied_are_counted(self, thop, capsys, held):
        model = nn.Sequential(nn.Linear(3, 3))
        model[0].held = UNCOPYABLE[held]()
        with pytest.raises((TypeError, RuntimeError)):
            deepcopy(model)
        profile(torch.rand(2, 3), model, n=1)
        assert rows(capsys.readouterr().out)[0][1] == "12"
        (result,) = profile([torch.rand(2, 3)], model, n=1, device=torch.device("cpu"))
        assert result[1] == 12

    @pytest.mark.parametrize("fails", [False, True])
    def test_nothing_of_thop_stays(self, thop, fails):
        self.check_nothing_stays(fails)
        assert len(thop.models) == 1

    @pytest.mark.parametrize("fails", [False, True])
    def test_nothing_of_the_installed_thop_stays(self, fails):
        pytest.importorskip("thop")
        self.check_nothing_stays(fails)

    @staticmethod
    def check_nothing_stays(fails):
        model = Counted(fails)
        model.inner[1].num_batches_tracked += 1
        before = kept(model)
        (result,) = profile([torch.rand(1, 3, 4, 4)], model, n=1, device=torch.device("cpu"))
        assert (result is None) == fails
        if not fails:
            assert result[1] > 0
        assert kept(model) == before

    def test_what_the_first_run_makes_stays(self, thop):
        """A module may add hooks and buffers of its own, and rely on them afterwards."""
        model = nn.Sequential(nn.LazyConv2d(2, 1), nn.LazyBatchNorm2d())
        profile(torch.rand(1, 3, 4, 4), model, n=2)
        assert type(model[0]) is nn.Conv2d
        assert model[1].num_batches_tracked == 2
        assert not model[0]._forward_pre_hooks

    def test_an_operation_thop_cannot_count(self, thop, capsys):
        profile(torch.rand(2, 3), lambda x: x, n=1)  # a function has no modules()
        assert rows(capsys.readouterr().out)[0][1] == "0"

    def test_error_of_an_operation_passes_through(self, no_thop):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            profile(torch.rand(2, 3), nn.Linear(4, 4), n=1)

    @pytest.mark.parametrize("n", [0, -1])
    def test_number_of_runs(self, n, capsys):
        with pytest.raises(ValueError, match=f"n={n}, allowed are numbers of runs from 1"):
            profile(torch.rand(2, 3), nn.Identity(), n=n)
        assert capsys.readouterr().out == ""


LATER_HEADER = (
    "      Params      GFLOPs  GPU_mem (GB)  forward (ms) backward (ms)                   input"
    "                  output"
)
LATER_COLUMN_ENDS = (12, 24, 38, 52, 66, 90, 114)


class TestProfileOfLaterReleases:
    """Inputs named `input`, or a list of them."""

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch, no_thop):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    @staticmethod
    def rows(text):
        head, *lines = text.splitlines()
        assert head == LATER_HEADER
        starts = (0, *LATER_COLUMN_ENDS)
        return [
            [line[start:end].strip() for start, end in zip(starts, LATER_COLUMN_ENDS, strict=False)]
            for line in lines
        ]

    def test_a_row_and_a_result_for_each_operation_on_each_input(self, capsys):
        inputs = [torch.rand(size, 3, 8, 8) for size in (1, 2)]
        results = profile(inputs, [nn.Conv2d(3, 5, 3), lambda x: x * 2], n=3)
        shapes = [(1, 3, 8, 8), (1, 5, 6, 6)], [(1, 3, 8, 8)] * 2, [(2, 3, 8, 8), (2, 5, 6, 6)]
        assert [result[5:] for result in results] == [*map(list, shapes), [(2, 3, 8, 8)] * 2]
        assert [result[:3] for result in results] == [[140, 0, 0], [0, 0, 0]] * 2
        assert all(result[3] > 0 < result[4] for result in results)
        table = self.rows(capsys.readouterr().out)
        assert [row[0] for row in table] == ["140", "0", "140", "0"]
        assert [row[2] for row in table] == ["0.000"] * 4
        assert [row[5:] for row in table] == [[str(s) for s in r[5:]] for r in results]

    def test_named_input_runs_ten_times(self):
        seen = []
        (result,) = profile(input=torch.rand(4), ops=lambda x: seen.append(x) or x.sum())
        assert len(seen) == 10
        assert result[5:] == [(4,), ()]

    def test_times_are_means_in_milliseconds(self, monkeypatch):
        ticks = iter([1.0, 1.004, 1.014, 2.0, 2.002, 2.022])  # seconds; start, forward, backward
        monkeypatch.setattr(
            "yolov5_utils.helpers.inspection.time_synchronized", lambda: next(ticks)
        )
        (result,) = profile(input=torch.rand(1, 2), ops=[nn.Linear(2, 2)], n=2)
        assert result[3:5] == pytest.approx([3, 15])

    def test_a_list_of_outputs_has_a_backward_pass(self):
        x = torch.rand(4)
        (result,) = profile([x], lambda x: [x, x.repeat(2)], n=1)
        assert not math.isnan(result[4])
        assert result[6] == "list"
        assert x.grad.tolist() == [3.0] * 4

    def test_without_gradients_backward_is_nan(self):
        (result,) = profile([torch.rand(4)], lambda x: x.detach(), n=2)
        assert math.isnan(result[4])

    def test_a_failing_operation_is_a_printed_none(self, capsys):
        results = profile([torch.rand(2, 3)], [nn.Linear(4, 4), nn.Linear(3, 1)], n=1)
        assert results[0] is None
        assert results[1][0] == 4
        assert "shapes cannot be multiplied" in capsys.readouterr().out

    def test_what_cannot_go_to_the_device_raises(self, capsys):
        with pytest.raises(NotImplementedError, match="meta tensor"):
            profile([torch.rand(2, 3)], nn.Linear(3, 3, device="meta"), device=torch.device("cpu"))

    def test_memory_is_what_cuda_has_reserved(self, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2_500_000_000)
        (result,) = profile([torch.rand(4)], nn.SiLU(), n=1, device=torch.device("cpu"))
        assert result[2] == 2.5
        assert self.rows(capsys.readouterr().out)[0][2] == "2.500"

    @pytest.mark.parametrize(
        ("device", "banners"), [(None, 1), ("cpu", 1), (torch.device("cpu"), 0)]
    )
    def test_other_than_a_torch_device_is_selected(self, device, banners, caplog):
        caplog.set_level(logging.INFO, logger="yolov5_utils.torch_utils")
        profile([torch.rand(4)], nn.SiLU(), n=1, device=device)
        assert [record.getMessage()[:6] for record in caplog.records] == ["YOLOv5"] * banners

    def test_number_of_runs(self):
        with pytest.raises(ValueError, match="n=0, allowed are numbers of runs from 1"):
            profile([torch.rand(4)], nn.SiLU(), n=0)

    @pytest.mark.parametrize("given", [("ops",), ("x",), ("input",), ("x", "input", "ops")])
    def test_needed_are_operations_and_one_input(self, given, capsys):
        values = {"x": torch.rand(1), "input": torch.rand(1), "ops": nn.SiLU()}
        with pytest.raises(TypeError, match="needed are ops and one of the arguments x and input"):
            profile(**{name: values[name] for name in given})
        assert capsys.readouterr().out == ""


class TestModelInfo:
    def test_without_thop(self, no_thop, message, capsys):
        assert model_info(Detector()) is None
        assert message() == "Model Summary: 5 layers, 12 parameters, 12 gradients"
        assert capsys.readouterr().out == ""

    def test_frozen_parameters_have_no_gradients(self, no_thop, message):
        model = Detector()
        model.module_list[0].requires_grad_(False)
        model_info(model)
        assert message() == "Model Summary: 5 layers, 12 parameters, 4 gradients"

    @pytest.mark.parametrize(
        ("model", "img_size", "gflops"),
        [  # 2 · channels · height · width, from the count for one stride
            (Detector(), 640, "2457600.0"),
            (Detector(), [640, 320], "1228800.0"),
            (Detector(), (640, 320), "1228800.0"),
            (Detector(channels=1), 64, "8192.0"),
            (Detector(stride=16), 32, "6144.0"),
            (Detector(stride=64), 32, "6144.0"),
        ],
    )
    def test_gflops_scale_with_the_image(self, thop, message, model, img_size, gflops):
        model_info(model, img_size=img_size)
        assert message().endswith(f" gradients, {gflops} GFLOPs")
        stride = max(32, int(model.stride.max()))
        assert thop.shapes == [(1, model.yaml["ch"], stride, stride)]

    def test_thop_counts_on_a_copy(self, thop):
        model = Detector()
        keys = list(model.state_dict())
        model_info(model)
        assert thop.models[0] is not model
        assert list(model.state_dict()) == keys

    def test_model_without_stride(self, thop, message):
        model = Detector()
        del model.stride
        model_info(model, img_size=32)
        assert message().endswith(", 6144.0 GFLOPs")

    @pytest.mark.parametrize("settings", [None, "yolov5s-cls.yaml"])
    def test_without_settings_the_first_parameter_has_the_channels(self, thop, message, settings):
        model = nn.Sequential(nn.Conv2d(5, 2, 1), nn.Flatten())
        if settings is not None:
            model.yaml = settings
        model_info(model, imgsz=64)
        assert thop.shapes == [(1, 5, 32, 32)]
        assert message().endswith(", 40960.0 GFLOPs")  # 2 · 5 · 64 · 64

    def test_settings_come_before_the_first_parameter(self, thop, message):
        """5.0's first layer makes four channels of each before its convolution."""
        model = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 1))
        model.yaml = {"ch": 3}
        model_info(model, img_size=64)
        assert message().endswith(", 24576.0 GFLOPs")

    @pytest.mark.parametrize("broken", [nn.Linear(2, 2), Detector().half(), nn.Module()], ids=repr)
    def test_a_count_that_fails_is_left_out(self, thop, message, broken):
        model_info(broken)
        assert message().startswith("Model Summary: ")
        assert message().endswith(" gradients")

    def test_a_model_that_cannot_be_copied_is_not_counted_on(self, thop, message):
        model = Detector()
        model.lock = threading.Lock()
        model_info(model)
        assert thop.models == []
        assert message().endswith(" gradients")

    def test_verbose_prints_a_row_per_parameter(self, no_thop, capsys):
        model = Detector()
        with torch.no_grad():
            model.module_list[0].weight.copy_(torch.arange(6.0).reshape(2, 3, 1, 1))
            model.module_list[0].bias.fill_(-0.25)
        model.module_list[1].requires_grad_(False)
        model_info(model, verbose=True)
        deviation = math.sqrt(sum((k - 2.5) ** 2 for k in range(6)) / 5)
        assert capsys.readouterr().out == (
            "layer                                     name  gradient   parameters"
            "                shape         mu      sigma\n"
            "    0                                 0.weight      True            6"
            f"         [2, 3, 1, 1]        2.5{deviation:11.3g}\n"
            "    1                                   0.bias      True            2"
            "                  [2]      -0.25          0\n"
            "    2                                 1.weight     False            2"
            "                  [2]          1          0\n"
            "    3                                   1.bias     False            2"
            "                  [2]          0          0\n"
        )

    def test_a_table_of_what_has_no_mean(self, no_thop, message, capsys):
        model = nn.Sequential(nn.LazyLinear(3), nn.Linear(2, 2, device="meta"), nn.Module())
        model[2].count = nn.Parameter(torch.arange(4), requires_grad=False)
        model_info(model, verbose=True)
        rows = capsys.readouterr().out.splitlines()[1:]
        assert len(rows) == 5
        assert all(row.endswith("nan        nan") for row in rows)
        assert message() == "Model Summary: 4 layers, 10 parameters, 6 gradients"

    @pytest.mark.parametrize("names", [{"img_size": 64}, {"imgsz": 64}])
    def test_names_of_the_image_size(self, thop, message, names):
        model_info(Detector(), **names)
        assert message().endswith(", 24576.0 GFLOPs")

    def test_detailed_is_verbose(self, no_thop, message, capsys):
        model_info(Detector(), detailed=True)
        assert len(capsys.readouterr().out.splitlines()) == 5
        assert message().startswith("Model Summary: 5 layers")

    def test_large_counts_keep_their_column(self, no_thop, capsys):
        model_info(nn.Linear(1200, 1100, bias=False), verbose=True)
        row = capsys.readouterr().out.splitlines()[1]
        assert row[57:69] == "    1.32e+06"
