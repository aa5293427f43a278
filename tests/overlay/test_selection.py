"""patch(only=…), unpatch(only=…) and is_patched: some of the hot callables, and which they are."""

from __future__ import annotations

import pytest
from conftest import Loader, ours, record, replaceable
from synthetic import text_of

import yolov5_utils
from yolov5_utils import overlay
from yolov5_utils.overlay.replaced import LEFT_OUT


def replaced() -> set[str]:
    return set(record().replaced)


def test_only_these_are_replaced(client: Loader) -> None:
    """By the client's name or by the hot path's, imported before or after."""
    yolov5_utils.patch(only=["prune", "ModelEMA.update", "fuse"])
    module = client()
    assert replaced() == {"prune", "ModelEMA.update", "fuse_conv_and_bn"}
    assert record().left["sparsity"] == LEFT_OUT
    assert ours(module.prune)
    assert not ours(module.sparsity)


def test_the_last_selection_counts(client: Loader) -> None:
    module = client()
    original = module.sparsity.__code__
    yolov5_utils.patch()
    assert replaced() == set(replaceable())
    yolov5_utils.patch(only=("prune",))
    assert replaced() == {"prune"}
    assert module.sparsity.__code__ is original
    yolov5_utils.patch(only=["prune"])
    assert replaced() == {"prune"}
    yolov5_utils.patch()
    assert replaced() == set(replaceable())
    yolov5_utils.patch(only=[])
    assert replaced() == set()
    assert overlay.installed()


def test_unpatch_only(client: Loader) -> None:
    module = client()
    yolov5_utils.patch()
    yolov5_utils.unpatch(only=["sparsity", "time_sync"])
    assert replaced() == set(replaceable()) - {"sparsity", "time_sync"}
    assert not ours(module.sparsity)
    assert ours(module.prune)
    yolov5_utils.patch(only=["prune", "sparsity"])
    yolov5_utils.unpatch(only=["sparsity"])
    assert replaced() == {"prune"}
    yolov5_utils.unpatch(only=["prune"])
    assert not overlay.installed()
    assert not ours(module.prune)
    yolov5_utils.unpatch(only=["prune"])
    assert not overlay.installed()
    yolov5_utils.patch()
    assert replaced() == set(replaceable())


MISTAKES = [
    (ValueError, ["prune", "prun"], "got 'prun', allowed are ModelEMA.update, sparsity, prune, "),
    (ValueError, ["ModelEMA"], "got 'ModelEMA', allowed are "),
    (ValueError, [None], "got None, allowed are "),
    (TypeError, "prune", r"got 'prune', expected a list of names: \['prune'\]"),
    (TypeError, 3, "not iterable"),
]


@pytest.mark.parametrize(("kind", "only", "text"), MISTAKES)
def test_wrong_names_are_named_and_change_nothing(
    client: Loader, kind: type[Exception], only: object, text: str
) -> None:
    yolov5_utils.patch(only=["prune"])
    client()
    for function in (yolov5_utils.patch, yolov5_utils.unpatch):
        with pytest.raises(kind, match=text):
            function(only=only)
        assert replaced() == {"prune"}
    if isinstance(only, list) and only[-1]:
        with pytest.raises(kind, match=f"name: {text}"):
            yolov5_utils.is_patched(only[-1])


def test_is_patched(client: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not yolov5_utils.is_patched()
    yolov5_utils.patch()
    assert yolov5_utils.is_patched()  # as soon as there is a client
    assert yolov5_utils.is_patched("ema")
    client(text=text_of("7.0").replace("(weights == 0).sum()", "(weights == 1).sum()"))
    assert yolov5_utils.is_patched("ema")
    assert yolov5_utils.is_patched("ModelEMA.update")
    assert not yolov5_utils.is_patched("sparsity")  # the client's differs
    yolov5_utils.patch(only=["prune"])
    assert yolov5_utils.is_patched("prune")
    assert not yolov5_utils.is_patched("ema")
    monkeypatch.setenv("YOLOV5_UTILS_BACKEND", "torch")
    assert not yolov5_utils.is_patched()
    monkeypatch.delenv("YOLOV5_UTILS_BACKEND")
    yolov5_utils.unpatch()
    assert not yolov5_utils.is_patched()


def test_nothing_is_patched_in_an_unknown_file(client: Loader) -> None:
    yolov5_utils.patch()
    client(text="answer = 42\n")
    assert not yolov5_utils.is_patched()
