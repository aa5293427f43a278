"""Which modules are recognised, which are left alone, and what the reason says."""

from __future__ import annotations

import ast
import importlib
import py_compile
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from conftest import Loader, record, replaceable
from synthetic import RELEASES, ULTRALYTICS, YOLOV5, edited, text_of

from yolov5_utils import overlay
from yolov5_utils.overlay.fingerprint import NotRecognised, digest, examine, identify

UPDATES = {  # what the record says of each release
    "5.0": "YOLOv5 4.0 to 6.0",
    "6.0": "YOLOv5 4.0 to 6.0",
    "between": "YOLOv5 6.1",
    "6.1": "YOLOv5 6.1",
    "6.2": "YOLOv5 6.2",
    "7.0": "YOLOv5 7.0 to main",
    "u8.0": "ultralytics 8.0 to 8.3",
    "u8.3": "ultralytics 8.3 to 8.4",
    "u8.4": "ultralytics 8.3 to 8.4",
}
SCALED = "old *= share"
ADDED = "old += (1 - share) * new[name].detach()"

# Averages that differ from YOLOv5's in a bit, in a case, or in when they happen.
OTHER_AVERAGES = {
    "lerp": (SCALED, "old.lerp_(new[name], 1 - share)"),
    "one rounding less": (ADDED, "old.add_(new[name].detach(), alpha=1 - share)"),
    "other order": (ADDED, "old += new[name].detach() * (1 - share)"),
    "other weights": (ADDED, "old += (1.01 - share) * new[name].detach()"),
    "condition": ("is_floating_point:", "is_floating_point and name in new:"),
    "every second": ("        self.updates += 1\n", "        self.updates += 2\n"),
    "switch": (SCALED, f"if self.enabled: {SCALED}"),
    "other loop": ("self.ema.state_dict().items()", "self.ema.named_parameters()"),
    "decorator": ("    def update(self", "    @torch.no_grad()\n    def update(self"),
    "more after it": (ADDED, f"{ADDED}\n        self.report()"),
}
NOT_THE_FILE = {
    "function missing": ("def profile(input, ops, n=10, device=None): ...", ""),
    "head": ("# YOLOv5, as", "# YOLOv3, as"),
    "function renamed": ("def sparsity(", "def share_of_zeros("),
    "signature": ("def prune(model, amount=0.3)", "def prune(model, amount=0.3, structured=False)"),
    "update signature": ("def update(self, model)", "def update(self, model, step=1)"),
    "not a class": ("class ModelEMA:", "ModelEMA = None\nclass Average:"),
}


@pytest.mark.parametrize("release", RELEASES)
def test_releases_are_recognised(client: Loader, release: str) -> None:
    found = identify(client(release))
    assert found.release == UPDATES[release]
    assert found.left == {}
    update = found.forms["ModelEMA.update"]
    assert update.switch == ("enabled" if release in ULTRALYTICS else None)
    hot = {"ModelEMA.update", "fuse_conv_and_bn", "scale_img"}
    hot.add("time_synchronized" if release == "5.0" else "time_sync")
    if release in YOLOV5:
        hot |= {"sparsity", "prune", "model_info"}
        assert found.forms["sparsity"].exact == (release not in ("5.0", "6.0"))
    assert set(found.forms) == hot


@pytest.mark.parametrize("change", OTHER_AVERAGES)
def test_other_averages_are_left_alone(patched: Loader, change: str) -> None:
    module = patched(text=edited(*OTHER_AVERAGES[change]))
    assert not hasattr(module.ModelEMA.update, "__yolov5_utils__")
    assert record().replaced == tuple(n for n in replaceable() if n != "ModelEMA.update")
    assert "differs from every release" in record().left["ModelEMA.update"]


def test_other_count_is_left_alone(patched: Loader) -> None:
    text = edited("(weights == 0).sum()", "(weights.abs() < 1e-6).sum()")
    module = patched(text=text)
    assert not hasattr(module.sparsity, "__yolov5_utils__")
    assert record().replaced == tuple(n for n in replaceable() if n != "sparsity")
    assert "differs" in record().left["sparsity"]


@pytest.mark.parametrize("change", NOT_THE_FILE)
def test_other_files_are_left_alone(patched: Loader, change: str) -> None:
    patched(text=edited(*NOT_THE_FILE[change]))
    found = record()
    assert found.release is None
    assert found.replaced == ()
    assert found.left["module"].startswith("not known as a file of YOLOv5")


AGPL = "Ultralytics 🚀 AGPL-3.0 License - https://ultralytics.com/license"
MODEL_INFO = "def model_info(model): ..."
HEADS = {  # of the real files, and whether these are YOLOv5's
    "YOLOv5 PyTorch utils": True,
    "YOLOv5 🚀 by Ultralytics, GPL-3.0 license": True,
    "YOLOv5 🚀 by Ultralytics, AGPL-3.0 license": True,
    "Ultralytics YOLOv5 🚀, AGPL-3.0 license": True,
    AGPL: True,
    "YOLOv5_rotated by somebody": True,
    "YOLOv5s, pruned": True,
    "YOLOv50": False,
    "PyTorch utils": True,
    "YOLOv3 PyTorch utils": False,
    "YOLOv3 🚀 by Ultralytics, GPL-3.0 license": False,
    "Ultralytics YOLOv3 🚀, AGPL-3.0 license": False,
    "YOLOR PyTorch utils": False,
}


@pytest.mark.parametrize("head", HEADS)
def test_heads(head: str) -> None:
    text = edited("YOLOv5, as the tests know it", head)
    if HEADS[head]:
        assert examine(text).release == UPDATES["7.0"]
    else:
        with pytest.raises(NotRecognised, match="it names YOLO"):
            examine(text)


@pytest.mark.parametrize("head", [AGPL, "PyTorch utils"])
@pytest.mark.parametrize("name", ["YOLOv5", "YOLOv3"])
def test_where_the_head_names_none_the_rest_tells(name: str, head: str) -> None:
    text = edited("YOLOv5, as the tests know it", head).replace(
        "How large it is.", f"Prints a {name} model's size."
    )
    assert name in text
    if name == "YOLOv5":
        assert examine(text).forms
    else:
        with pytest.raises(NotRecognised, match="it names YOLOv3"):
            examine(text)


@pytest.mark.parametrize("head", ["Ultralytics YOLO 🚀, AGPL-3.0 license", AGPL])
def test_heads_of_ultralytics(head: str) -> None:
    """Whose file speaks of other models in its examples."""
    text = edited("Ultralytics, as the tests know it", head, "u8.3")
    text = text.replace(MODEL_INFO, f"{MODEL_INFO}  # of a YOLOv8 model")
    assert "YOLOv8" in text
    assert examine(text).release == UPDATES["u8.3"]


def test_unrelated_file_of_that_name_is_left_alone(patched: Loader) -> None:
    assert patched(text="answer = 42\n").answer == 42
    assert record().left["module"].endswith("or of ultralytics: it defines no class ModelEMA")


@pytest.mark.parametrize(("release", "family"), [("7.0", "YOLOv5"), ("u8.3", "ultralytics")])
def test_what_is_missing_is_said_of_the_nearest_client(release: str, family: str) -> None:
    text = edited("def copy_attr(", "def copy_all(", release).replace(
        "def select_device(", "def s("
    )
    absent = {"YOLOv5": "select_device", "ultralytics": "copy_attr, select_device"}[family]
    with pytest.raises(NotRecognised, match=f"defines no {absent}, as every {family} known here"):
        examine(text)


def test_stand_ins_are_not_modules() -> None:
    with pytest.raises(NotRecognised, match="MagicMock is not a module"):
        identify(MagicMock())


def test_functions_of_another_module_are_left_alone(
    write: Callable[..., Path], client: Loader
) -> None:
    """As where a fork takes ModelEMA from elsewhere: its helpers are not this module's."""
    other = write(text_of("7.0")).with_name("averaging.py")
    other.write_text(text_of("7.0"))
    text = text_of("7.0") + "\n\nfrom utils.averaging import ModelEMA  # noqa\n"
    found = identify(client(text=text))
    assert "ModelEMA.update" not in found.forms
    assert found.left == {"ModelEMA.update": "is not the function of this module's source"}


def test_without_source_nothing_is_replaced(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay.install()
    file = write(text_of("7.0"))
    py_compile.compile(str(file), cfile=str(file.with_suffix(".pyc")), dfile="gone.py")
    file.unlink()
    importlib.import_module("utils.torch_utils")
    assert record().replaced == ()
    assert "source cannot be read" in record().left["module"]


def function(text: str) -> ast.FunctionDef:
    definition = ast.parse(text).body[0]
    assert isinstance(definition, ast.FunctionDef)
    return definition


def test_digest_sees_what_is_computed_and_nothing_else() -> None:
    plain = digest(function("def f(a):\n    b = a + 1\n    return b\n"))
    same = digest(function('def f(x):\n    "Doc."\n\n    y = x + 1  # note\n    return (y)\n'))
    assert same == plain
    for other in ("b = a + 2", "b = a - 1", "b = 1 + a", "a = a + 1", "b = c + 1"):
        text = f"def f(a):\n    {other}\n    return b\n"
        assert digest(function(text)) != plain, other


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters need Python 3.12")
def test_digest_of_newer_syntax() -> None:
    assert digest(function("def f[T](a):\n    return a\n"))
