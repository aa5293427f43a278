"""What the package asks of torch: right whatever a release refuses and however, and documented."""

from __future__ import annotations

import ast
import importlib
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_utils import _native, probe

from ..support import ROOT, python

RELEASES = ROOT / "docs/torch-releases.md"
CUDA_BUILD = torch.version.cuda is not None
# Names of the package itself that torch has as well, by chance.
OWN = {"_C", "_native", "_find", "_state", "_run", "_check", "_device"}


def rows() -> Iterator[tuple[str, str]]:
    """Name and release of each row of the documented table."""
    text = RELEASES.read_text(encoding="utf-8")
    table = text[text.index("<!-- names: begin") : text.index("<!-- names: end")]
    yield from re.findall(r"^\| `([^`]+)` \| ([^ |]+) \|", table, re.M)


def look_up(name: str) -> Any:
    """What the documented name stands for; None where this torch has not got it."""
    if name.startswith("distributed.tensor."):
        probe.answer(importlib.import_module, "torch.distributed.tensor")
    if name.startswith("conv."):
        return getattr(nn.Conv2d(1, 1, 1), name[5:], None)
    called = re.fullmatch(r"(.+)(\(.*\))", name)
    if called is None:
        return probe.find(name)
    argument = ast.literal_eval(called[2])
    return True if probe.takes(probe.find(called[1]), argument) else None


@pytest.mark.parametrize(("name", "since"), list(rows()))
def test_the_documented_release_has_it(name: str, since: str) -> None:
    if since == "CUDA":
        expected = CUDA_BUILD
    else:
        expected = probe.release() >= tuple(map(int, since.split(".")))
    assert (look_up(name) is not None) == expected


def test_the_thread_pool_is_as_documented() -> None:
    if sys.platform == "linux":
        assert _native._C.info()["thread_pool"] == (probe.release() >= (2, 10))


def private_names(root: Path) -> set[str]:
    """Private names in the package, as attributes or words of their own in a text."""
    found: set[str] = set()
    for path in (root / "yolov5_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(node.value.split("."))
    for path in (root / "csrc/python").rglob("*.[ch]"):
        found.update(re.findall(r'"(\w+)"', path.read_text(encoding="utf-8")))
    return {name for name in found if re.fullmatch(r"_[A-Za-z]\w*", name)}


def test_every_private_name_of_torch_is_documented() -> None:
    owners = (
        *(torch, torch._C, torch.cuda, torch.Tensor, nn.Conv2d(1, 1, 1), torch._utils),
        *(torch.autograd.forward_ad, nn.modules.module, nn.modules.batchnorm, nn.modules.conv),
    )
    documented = {part for name, _ in rows() for part in re.findall(r"\w+", name)}
    names = private_names(ROOT)
    assert {"_increment_version", "_is_zerotensor", "_state_dict_hooks"} < names  # they are found
    torchs = {name for name in names if any(hasattr(owner, name) for owner in owners)}
    assert torchs - documented - OWN == set()


def test_answers() -> None:
    assert probe.answer(divmod, 7, 2) == (3, 1)
    assert probe.answer(int, "7", base=8) == 7
    assert probe.answer(divmod, 7, 0) is None
    assert probe.answer(divmod, 7, 0, otherwise="none") == "none"
    assert probe.find("autograd.forward_ad") is torch.autograd.forward_ad
    assert probe.find("_C._no_such_name") is probe.find("nowhere._at.all") is None
    assert probe.takes(int, "1")
    asked = [probe.takes(int, "one"), probe.takes(None), probe.takes(divmod, 1)]
    assert asked == [False, False, False]


@pytest.mark.parametrize(
    ("version", "release"),
    [("2.13.0+cpu", (2, 13)), ("1.13.0a0+git0", (1, 13)), ("2", (0, 0)), ("main", (0, 0))],
)
def test_release(monkeypatch: pytest.MonkeyPatch, version: str, release: tuple[int, int]) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert probe.release() == release


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass(interrupt: type[BaseException]) -> None:
    def stop(*_: Any) -> None:
        raise interrupt

    with pytest.raises(interrupt):
        probe.answer(stop)
    with pytest.raises(interrupt):
        probe.takes(stop)


# Imports the package anew on a torch whose names refuse, a trial a line of the arguments.
HOSTILE = """
import sys, torch
from torch import nn
from yolov5_utils import probe, reference

conv, bn = nn.Conv2d(2, 3, 3).requires_grad_(False), nn.BatchNorm2d(3).requires_grad_(False)
expected = reference.fuse_conv_and_bn(conv, bn).weight


class Refusal(Exception):
    pass


def refuse_with(kind):
    def function(*args, **named):
        raise kind("not in this release")
    return function


def use():
    from yolov5_utils import torch_utils as ours

    model = nn.Linear(3, 3)
    average = ours.ModelEMA(model)
    with torch.no_grad():
        model.weight.fill_(2)
    average.update(model)
    assert average.updates == 1
    assert float(ours.sparsity(model)) == 0
    assert torch.equal(ours.fuse_conv_and_bn(conv, bn).weight, expected)


for trial in sys.argv[1:]:
    owners, held = [], {}
    for change in trial.split():
        name, kind = change.split(":")
        path, _, last = name.rpartition(".")
        owner = probe.find(path)
        owners.append((owner, last, getattr(owner, last)))
        if kind == "missing":
            delattr(owner, last)
        else:
            setattr(owner, last, refuse_with(vars().get(kind) or getattr(__builtins__, kind)))
    for module in [name for name in sys.modules if name.partition(".")[0] == "yolov5_utils"]:
        held[module] = sys.modules.pop(module)
    try:
        use()
    except BaseException as error:
        print(f"{trial}: {error!r}")
    finally:
        sys.modules.update(held)
        for owner, last, value in owners:
            setattr(owner, last, value)
"""


def trials() -> list[str]:
    """Each name missing, refusing in several ways, and many at once: drawn, the same each time."""
    draw = random.Random(11)
    kinds = ("missing", "RuntimeError", "TypeError", "ValueError", "NotImplementedError")
    kinds += ("AttributeError", "AssertionError", "ImportError", "SystemError", "Refusal")
    names = [
        name
        for name, _ in rows()
        if re.match(r"_C\.|compiler|_utils", name)
        for name in [name.partition("(")[0]]
        if probe.find(name) is not None
    ]
    names = list(dict.fromkeys(names))  # some have a row for each way to ask
    found = [f"{name}:missing" for name in names]
    found += [f"{name}:{kind}" for name in names for kind in draw.sample(kinds[1:], 3)]
    for _ in range(20):
        some = draw.sample(names, draw.randint(2, len(names)))
        found.append(" ".join(f"{name}:{draw.choice(kinds)}" for name in some))
    return found


def test_a_torch_that_refuses_in_any_way() -> None:
    """The package is imported and right on it, through torch where it cannot know."""
    ran = python("-c", HOSTILE, *trials())
    assert (ran.stdout, ran.returncode) == ("", 0), ran.stderr


def test_an_interrupt_of_the_import_is_no_refusal() -> None:
    ran = python("-c", HOSTILE, "_C._increment_version:KeyboardInterrupt")
    if probe.find("_C._increment_version") is None:
        assert "AttributeError" in ran.stderr
    else:
        assert "KeyboardInterrupt" in ran.stdout


@pytest.mark.parametrize("name", probe._CUBLAS_SWITCHES)
def test_switches_of_cublas_lower_the_precision(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On GPUs only; torch's own switch is asked besides."""
    on_gpu, on_cpu = map(probe.lower_precision, ("cuda", "mkldnn"))
    for other in probe._CUBLAS_SWITCHES:
        monkeypatch.delenv(other, raising=False)
    assert not on_gpu()
    for value, lowered in (("0", False), ("", False), ("1", True)):
        monkeypatch.setenv(name, value)
        assert (on_gpu(), on_cpu()) == (lowered, False)
    monkeypatch.delenv(name)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert on_gpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
