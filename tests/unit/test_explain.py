"""explain: the way of a hot path or of one call, without making the call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import yolov5_utils
from yolov5_utils import _C, _native
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.overlay.known_callables import HOT
from yolov5_utils.torch_utils import ModelEMA, prune, scale_img, sparsity, time_synchronized

from .. import older_torch
from ..support import takes

# No variant of scale_img has the bits of torch before 2.1.
SCALED = ("torch", "no variant") if older_torch.APPLIES else ("C", "level")


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


class Wrapper(nn.Module):
    """None that ModelEMA.update looks into."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def counts() -> list[Any]:
    return [(dict(path.calls), dict(path.reasons)) for path in OPERATIONS.values()]


def test_without_a_name_every_hot_path_is_explained() -> None:
    *rows, info = yolov5_utils.explain()
    assert [row.name for row in rows] == list(OPERATIONS)
    assert info == yolov5_utils.explain("model_info")
    for row in rows:
        way, known = SCALED if row.name == "scale_img" else ("C", f"level {_C.info()['level']}")
        known = "the clock" if row.name == "time_synchronized" else known
        assert row.way == way
        assert known in row.why
        assert str(row) == f"{row.name}: {row.way}: {row.why}"


@pytest.mark.parametrize("name", [*OPERATIONS, *HOT, "fuse_model"])
def test_names_of_hot_paths_and_of_clients(name: str) -> None:
    row = yolov5_utils.explain(name)
    assert row.name == name
    assert row.way in (("shapes", "torch") if name == "model_info" else ("C", "torch"))


def test_why_thop_counts_in_a_copy() -> None:
    row = yolov5_utils.explain("model_info", model_of().double())
    assert row.way == "torch"
    assert row.why.startswith("thop counts in a copy of the model: ")


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch has no compiler")
def test_the_average_of_a_compiled_model() -> None:
    average, model = ModelEMA(model_of()), torch.compile(model_of())
    assert yolov5_utils.explain("ema", average, model).way == "C"
    average.update(model)


class Block(nn.Module):
    """A pair as YOLOv5 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = model_of()

    def forward_fuse(self, x: torch.Tensor) -> Any:
        return self.conv(x)


def test_all_pairs_of_a_model() -> None:
    model = nn.Sequential(Block(), Block(), Block())
    assert str(yolov5_utils.explain("fuse_model", model)).startswith("fuse_model: torch: 3 of 3 ")
    before = counts()
    with torch.no_grad():
        row = yolov5_utils.explain("fuse_model", model)
        assert row[1:] == ("C", f"3 of 3 pairs: level {_C.info()['level']}")
        model[1].conv.weight[0] = torch.inf
        row = yolov5_utils.explain("fuse_model", model)
        assert (row.way, row.why[:14]) == ("torch", "1 of 3 pairs: ")
    assert counts() == before
    assert hasattr(model[0], "bn")
    assert "no pair" in yolov5_utils.explain("fuse_model", nn.ReLU()).why
    assert yolov5_utils.explain("fuse_model", 3).way == "error"


def test_a_wrong_number_of_arguments_is_the_calls_own() -> None:
    row = yolov5_utils.explain("ModelEMA.update", 3)
    assert row.why.startswith("TypeError: ModelEMA.update() missing 1 ")


def test_unknown_name() -> None:
    known = f"allowed are {', '.join(OPERATIONS)}, .*time_sync"
    with pytest.raises(ValueError, match=f"name: got 'emma', {known}"):
        yolov5_utils.explain("emma")


CALLS: dict[str, tuple[str, Any, str, str]] = {
    "average": ("ema", lambda: (ModelEMA(model_of()), model_of()), "C", "level"),
    "average of modules": ("ModelEMA.update", lambda: (model_of(), model_of()), "C", "level"),
    "wrapped": ("ema", lambda: (ModelEMA(model_of()), nn.DataParallel(model_of())), "C", "level"),
    "in a wrapper of its own kind": (
        "ema",
        lambda: (ModelEMA(model_of()), Wrapper(model_of())),
        "error",
        "KeyError: '0.weight'",
    ),
    "other keys": ("ema", lambda: (model_of(), nn.Linear(2, 2)), "error", "KeyError: '0.weight'"),
    "other shape": ("ema", lambda: (nn.Linear(2, 2), nn.Linear(2, 3)), "torch", "weight"),
    "share": ("sparsity", lambda: (model_of(),), "C", "level"),
    "share of sparse": ("sparsity", lambda: (sparse(),), "torch", ""),
    "pruned": ("prune", lambda: (model_of(), 0.3), "C", "level"),
    "pruned by default": ("prune", lambda: (model_of(),), "C", "level"),
    "pruned too much": ("prune", lambda: (model_of(), 1.5), "error", "ValueError: amount=1.5"),
    "pruned with a mask": ("prune", lambda: (masked(),), "torch", "mask"),
    "image": ("scale_img", lambda: (torch.rand(1, 3, 8, 8), 0.5), *SCALED),
    "same image": ("scale_img", lambda: ("anything",), "C", "level"),
    "half image": ("scale_img", lambda: (torch.rand(1, 3, 8, 8).half(), 0.5), "torch", "float32"),
}

if OPERATIONS["fuse"].refusal() is None:
    CALLS["fused"] = ("fuse", lambda: tuple(frozen()), "C", "level")
    CALLS["fused with grad"] = ("fuse_conv_and_bn", lambda: tuple(model_of()), "torch", "")
    CALLS["fused wrongly"] = ("fuse", lambda: (nn.Linear(2, 2), nn.ReLU()), "error", "")


def frozen() -> nn.Module:
    return model_of().requires_grad_(False)


def sparse() -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(torch.eye(2).to_sparse(), requires_grad=False)
    return model


def masked() -> nn.Module:
    model = model_of()
    torch_prune.l1_unstructured(model[0], "weight", amount=0.1)
    return model


@pytest.mark.parametrize("case", CALLS)
def test_a_call_is_explained_and_not_made(case: str) -> None:
    name, arguments, way, why = CALLS[case]
    given = arguments()
    modules = [getattr(value, "ema", value) for value in given]
    state = [
        (value, value._version, value.clone())
        for module in modules
        if isinstance(module, nn.Module)
        for value in module.state_dict(keep_vars=True).values()
    ]
    before, random = counts(), torch.get_rng_state()
    row = yolov5_utils.explain(name, *given)
    assert (row.name, row.way) == (name, way), row
    assert why in row.why
    assert counts() == before
    assert torch.equal(torch.get_rng_state(), random)
    for value, version, content in state:
        assert value._version == version
        assert torch.equal(value.detach().to_dense(), content.detach().to_dense())


def test_the_call_itself_goes_the_way_that_was_explained() -> None:
    model, image = model_of(), torch.rand(1, 3, 8, 8)
    calls = (
        ("ema", (ModelEMA(model), model), lambda average, model: average.update(model)),
        ("sparsity", (model,), sparsity),
        ("prune", (model, 0.2), prune),
        ("scale_img", (image, 0.5), scale_img),
        ("scale_img", (image.double(), 0.5), scale_img),
    )
    for name, arguments, function in calls:
        with takes(name, yolov5_utils.explain(name, *arguments).way):
            function(*arguments)


def test_calls_are_counted_by_backend() -> None:
    before = yolov5_utils.calls()
    model = model_of()
    sparsity(model)
    scale_img(torch.rand(1, 3, 8, 8).double(), 0.5)
    time_synchronized()
    for name, backend in (("sparsity", "C"), ("scale_img", "torch"), ("time_synchronized", "C")):
        before[name][backend] += 1
    assert yolov5_utils.calls() == before


def test_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_native, "_USE_C", False)
    row = yolov5_utils.explain("sparsity", model_of())
    assert row == ("sparsity", "torch", "YOLOV5_UTILS_BACKEND=torch")
