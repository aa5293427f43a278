"""explain in a process with clients: what the overlay did of a name, and with a call."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Loader, forget_clients, record
from synthetic import edited, text_of
from test_functions import needs, pair_of_layers
from test_patches import model_of

import yolov5_utils
from yolov5_utils import overlay
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.overlay.known_callables import HOT


def test_without_a_client_nothing_is_added() -> None:
    before = yolov5_utils.explain()
    overlay.install()
    assert yolov5_utils.explain() == before
    for row in before:
        assert "utils.torch_utils" not in row.why


def test_what_was_replaced_and_what_was_left(patched: Loader) -> None:
    stock = {row.name: row for row in yolov5_utils.explain()}
    patched(text=edited("old *= share", "old.mul_(share)"))
    rows = {row.name: row for row in yolov5_utils.explain()}
    assert {name: row.way for name, row in rows.items()} == {n: r.way for n, r in stock.items()}
    reason = record().left["ModelEMA.update"]
    added = f"; utils.torch_utils keeps its own ModelEMA.update: {reason}"
    assert (
        rows["ema"].why == yolov5_utils.explain("ModelEMA.update").why == stock["ema"].why + added
    )
    for name in record().replaced:
        added = f"; {name} of utils.torch_utils replaced"
        assert rows[HOT[name].operation].why == stock[HOT[name].operation].why + added


def test_every_client_has_its_part(write: Callable[..., Path]) -> None:
    write(text_of("5.0"))
    write(text_of("u8.3"), package="ultralytics.utils")
    overlay.install()
    for package in ("utils", "ultralytics.utils"):
        importlib.import_module(f"{package}.torch_utils")
    why = yolov5_utils.explain("time_sync").why
    assert why.endswith(
        "; time_synchronized of utils.torch_utils replaced"
        "; time_sync of ultralytics.utils.torch_utils replaced"
    )
    assert "ultralytics" not in yolov5_utils.explain("sparsity").why


def test_clients_that_run_as_they_are(client: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay.install()
    client(text="answer = 42\n")
    assert "utils.torch_utils" not in yolov5_utils.explain("ema").why
    overlay.uninstall()
    monkeypatch.setenv("YOLOV5_UTILS_BACKEND", "torch")
    overlay.install()
    forget_clients()
    client()
    added = "; utils.torch_utils runs as it is: YOLOV5_UTILS_BACKEND=torch"
    assert yolov5_utils.explain("ema").why.endswith(added)


HANDED_ON = "replaced, but this call is torch's: "


def test_a_call_that_the_replacement_hands_on(patched: Loader) -> None:
    needs("fuse")
    module = patched()
    path = OPERATIONS["fuse"]
    for dtype, reason in ((torch.float32, None), (torch.float64, "conv.weight is not float32")):
        conv, bn = (layer.requires_grad_(False) for layer in pair_of_layers(dtype))
        row = yolov5_utils.explain("fuse_conv_and_bn", conv, bn)
        assert row.way == "C"
        assert row.why.endswith(f"{HANDED_ON}{reason}" if reason else "torch_utils replaced")
        before = path.calls["torch"], path.reasons.get(reason, 0)
        with torch.no_grad():
            module.fuse_conv_and_bn(conv, bn)
        more = 0 if reason is None else 1
        assert (path.calls["torch"], path.reasons.get(reason, 0)) == tuple(n + more for n in before)


def test_a_sum_that_the_replacement_hands_on(patched: Loader) -> None:
    patched("5.0")
    model = model_of()
    assert HANDED_ON not in yolov5_utils.explain("sparsity", model).why
    torch.set_default_dtype(torch.bfloat16)
    row = yolov5_utils.explain("sparsity", model)
    assert row.why.endswith(f"{HANDED_ON}default dtype torch.bfloat16")


def test_a_choice_that_the_replacement_hands_on(
    patched: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for weights of a GPU, where the choice among equally small ones is torch's."""
    module, model = patched(), model_of()
    row = yolov5_utils.explain("prune", model, 0.3)
    assert row.why.endswith("prune of utils.torch_utils replaced")
    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True, raising=False)
    row = yolov5_utils.explain("prune", model, 0.3)
    assert row.why.endswith(f"{HANDED_ON}ties='torch' on a GPU")
    before = OPERATIONS["prune"].reasons.get("ties='torch' on a GPU", 0)
    module.prune(model, 0.3)
    assert OPERATIONS["prune"].reasons["ties='torch' on a GPU"] == before + 1
