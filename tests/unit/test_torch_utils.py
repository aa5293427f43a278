"""The drop-in module: its names and signatures, and what importing it leaves alone."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import math
import sys
from copy import deepcopy

import pytest
from torch import nn

import yolov5_utils
from yolov5_utils import torch_utils

from ..support import python

# YOLOv5 of July 2021, with what later releases added; the paths' defaults are found at the call.
SIGNATURES = {
    "copy_attr": "(a, b, include=(), exclude=())",
    "date_modified": "(path=None)",
    "de_parallel": "(model)",
    "device_count": "()",
    "EarlyStopping": "(patience=30)",
    "find_modules": "(model, mclass=Conv2d)",
    "fuse_conv_and_bn": "(conv, bn)",
    "git_describe": "(path=None)",
    "init_torch_seeds": "(seed=0)",
    "initialize_weights": "(model)",
    "intersect_dicts": "(da, db, exclude=())",
    "is_parallel": "(model)",
    "load_classifier": "(name='resnet101', n=2)",
    "model_info": "(model, verbose=False, img_size=640, *, imgsz=None, detailed=None)",
    "ModelEMA": "(model, decay=0.9999, updates=0, *, tau=2000)",
    "ModelEMA.update": "(self, model)",
    "ModelEMA.update_attr": "(self, model, include=(), exclude=('process_group', 'reducer'))",
    "profile": "(x=None, ops=None, n=None, device=None, *, input=None)",
    "prune": "(model, amount=0.3, *, ties='position')",
    "reshape_classifier_output": "(model, n=1000)",
    "scale_img": "(img, ratio=1.0, same_shape=False, gs=32)",
    "select_device": "(device='', batch_size=None, newline=True)",
    "smartCrossEntropyLoss": "(label_smoothing=0.0)",
    "smart_DDP": "(model)",
    "smart_amp_autocast": "(enabled=True, device='cuda')",
    "smart_hub_load": "(repo='ultralytics/yolov5', model='yolov5s', **kwargs)",
    "smart_inference_mode": "(torch_1_9=True)",
    "smart_optimizer": "(model, name='Adam', lr=0.001, momentum=0.9, decay=1e-05)",
    "smart_resume": ("(ckpt, optimizer, ema=None, weights='yolov5s.pt', epochs=300, resume=True)"),
    "sparsity": "(model)",
    "time_sync": "()",
    "time_synchronized": "()",
    "torch_distributed_zero_first": "(local_rank, *, timeout_s=None)",
}
PLAIN = ["datetime", "logging", "math", "os", "platform", "subprocess", "time", "torch", "warnings"]
INCIDENTAL = {
    "F": "torch.nn.functional",
    "cudnn": "torch.backends.cudnn",
    "dist": "torch.distributed",
    "nn": "torch.nn",
    **{name: name for name in PLAIN},
}


def written(signature: inspect.Signature) -> str:
    """A signature without annotations, classes by their names."""
    parts = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        assert parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
        stars = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
        default = parameter.default
        shown = default.__name__ if isinstance(default, type) else repr(default)
        parts.append(stars + parameter.name + ("" if default is parameter.empty else f"={shown}"))
    return f"({', '.join(parts)})"


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    found = torch_utils
    for part in name.split("."):
        found = getattr(found, part)
    signature = inspect.signature(found)
    if name == "ModelEMA":
        signature = inspect.signature(found.__init__)
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    assert written(signature) == SIGNATURES[name]
    assert found.__doc__


def test_all_lists_every_name_of_the_file():
    names = {name for name in SIGNATURES if "." not in name} | {"logger"}
    assert set(torch_utils.__all__) == names
    assert len(torch_utils.__all__) == len(names)
    namespace: dict[str, object] = {}
    exec("from yolov5_utils.torch_utils import *", namespace)
    assert names == set(namespace) - {"__builtins__"}


def test_package_gives_the_same_objects():
    for name in torch_utils.__all__:
        assert getattr(yolov5_utils, name) is getattr(torch_utils, name)


def test_logger_is_named_after_the_module_and_not_set_up():
    assert torch_utils.logger is logging.getLogger("yolov5_utils.torch_utils")
    assert torch_utils.logger.handlers == []
    assert torch_utils.logger.propagate


@pytest.mark.parametrize("name", INCIDENTAL)
def test_incidental_modules(name):
    assert getattr(torch_utils, name) is importlib.import_module(INCIDENTAL[name])


def test_incidental_callables():
    from contextlib import contextmanager
    from pathlib import Path

    found = torch_utils.deepcopy, torch_utils.contextmanager, torch_utils.Path
    assert found == (deepcopy, contextmanager, Path)
    assert torch_utils.DDP is nn.parallel.DistributedDataParallel


def test_names_that_are_others_as_well():
    assert torch_utils.time_sync is torch_utils.time_synchronized
    assert torch_utils.LOGGER is torch_utils.logger


@pytest.mark.parametrize(
    ("environment", "numbers"),
    [({}, (-1, -1, 1)), ({"LOCAL_RANK": "1", "RANK": "5", "WORLD_SIZE": "8"}, (1, 5, 8))],
)
def test_ranks_are_those_of_the_launcher(environment, numbers, monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert numbers == (torch_utils.LOCAL_RANK, torch_utils.RANK, torch_utils.WORLD_SIZE)


def test_optional_packages_present(monkeypatch):
    thop, torchvision = object(), object()
    monkeypatch.setitem(sys.modules, "thop", thop)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    assert torch_utils.thop is thop
    assert torch_utils.torchvision is torchvision


def test_optional_packages_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "thop", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert torch_utils.thop is None
    with pytest.raises(AttributeError, match=r"no attribute 'torchvision': .*torchvision"):
        _ = torch_utils.torchvision
    assert not hasattr(torch_utils, "torchvision")


@pytest.mark.parametrize("module", [torch_utils, yolov5_utils])
def test_unknown_attribute(module):
    with pytest.raises(AttributeError, match=f"'{module.__name__}' has no attribute 'time_synch'"):
        _ = module.time_synch


class TestModelEMA:
    def test_attributes(self):
        average = torch_utils.ModelEMA(nn.Linear(2, 2), decay=0.5, updates=7)
        assert list(vars(average)) == ["ema", "updates", "decay"]
        assert average.updates == 7
        assert type(average.updates) is int
        assert average.decay(0) == 0
        assert not average.ema.training
        assert not any(p.requires_grad for p in average.ema.parameters())

    def test_tau_is_how_slowly_the_decay_rises(self):
        usual, quick = (torch_utils.ModelEMA(nn.Linear(2, 2), **o) for o in ({}, {"tau": 10}))
        assert usual.decay(500) == 0.9999 * (1 - math.exp(-500 / 2000))
        assert quick.decay(500) == 0.9999 * (1 - math.exp(-500 / 10))
        assert list(vars(quick)) == ["ema", "updates", "decay"]

    def test_the_third_argument_is_updates_in_5x_and_tau_later(self):
        assert torch_utils.ModelEMA(nn.Linear(2, 2), 0.5, 7).updates == 7
        with pytest.raises(TypeError, match="positional"):
            torch_utils.ModelEMA(nn.Linear(2, 2), 0.9999, 2000, 7)

    def test_attributes_stay_the_same_when_used(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        average = torch_utils.ModelEMA(model)
        keys, attributes = list(model.state_dict()), list(vars(average.ema))
        average.update(model)
        assert average.updates == 1
        copied = deepcopy(average)
        assert list(vars(copied)) == list(vars(average)) == ["ema", "updates", "decay"]
        assert list(average.ema.state_dict()) == keys
        assert list(vars(average.ema)) == attributes


# Imports what its argument names, and prints what that changed of the process, as JSON.
HYGIENE = """
import json, logging, os, random, sys, threading, warnings
wants_torch = sys.argv[1] == "with torch"
if wants_torch:
    import torch
    import torch.nn.utils.prune  # all that the package takes from torch; torch's own effects first

def state():
    found = {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "sys.path": list(sys.path),
        "finders": [repr(finder) for finder in sys.meta_path],
        "warnings": [repr(entry) for entry in warnings.filters],
        "handlers": [repr(handler) for handler in logging.root.handlers],
        "log levels": [logging.root.level, logging.root.manager.disable],
        "random": repr(random.getstate()),
        "threads": threading.active_count(),
        "system threads": len(os.listdir("/proc/self/task")) if os.path.isdir("/proc") else 0,
        "excepthook": repr(sys.excepthook),
    }
    if wants_torch:
        found |= {
            "torch random": torch.get_rng_state().tolist(),
            "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "default dtype": str(torch.get_default_dtype()),
            "gradients": torch.is_grad_enabled(),
            "print options": repr(vars(torch._tensor_str.PRINT_OPTS)),
            "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        }
    return found

before, modules = state(), set(sys.modules)
exec(sys.argv[2])
after = state()
print(json.dumps({
    "changed": [name for name in before if before[name] != after[name]],
    "new packages": sorted(
        {name.partition(".")[0] for name in set(sys.modules) - modules} - sys.stdlib_module_names
    ),
    "CUDA started": "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized(),
}))
"""


def effects(statement: str, torch_first: bool) -> dict:
    start = "with torch" if torch_first else "without torch"
    ran = python("-c", HYGIENE, start, statement)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


class TestImportHygiene:
    def test_the_package_alone_does_not_import_torch(self):
        found = effects("import yolov5_utils", torch_first=False)
        assert found == {"changed": [], "new packages": ["yolov5_utils"], "CUDA started": False}

    @pytest.mark.parametrize(
        "statement",
        [
            "import yolov5_utils.torch_utils",
            "from yolov5_utils import ModelEMA",
            "from yolov5_utils.torch_utils import *",
        ],
    )
    def test_the_module_changes_nothing_of_the_process(self, statement):
        found = effects(statement, torch_first=True)
        assert found["changed"] == []
        assert found["CUDA started"] is False
        assert "yolov5_utils" in found["new packages"]
        assert not {"torchvision", "cv2", "thop", "numpy"} & set(found["new packages"])

    def test_the_probe_notices_changes(self):
        statement = (
            "sys.modules['a_new_one'] = sys\n"
            "warnings.simplefilter('ignore'); torch.rand(1); os.environ['A_NEW_ONE'] = '1'\n"
            "torch.set_num_threads(torch.get_num_threads() + 1); sys.path.append('x')\n"
            "logging.basicConfig(); random.random()"
        )
        found = effects(statement, torch_first=True)
        assert {"environment", "sys.path", "warnings", "handlers", "random"} <= set(
            found["changed"]
        )
        assert {"torch random", "torch threads"} <= set(found["changed"])
        assert found["new packages"] == ["a_new_one"]
