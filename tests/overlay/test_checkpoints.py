"""Nothing of the package is in the client's data: what is saved under the overlay is what is saved
without it, byte for byte, and loads where the package does not exist."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run
from synthetic import PACKAGES, text_of

ROOT = Path(__file__).parents[2]
MODELS = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
        self.register_buffer("anchors", torch.rand(3, 2))
"""
# Trains a little as YOLOv5 does, and saves what it saves: whole modules, and state dicts.
TRAIN = """
import sys
from copy import deepcopy
from {package} import torch_utils
import torch
from models import Net

torch.manual_seed(0)
model = Net()
average = torch_utils.ModelEMA(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for step in range(3):
    loss = model(torch.rand(2, 3, 8, 8)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    average.update(model)
pruned = deepcopy(average.ema)
if hasattr(torch_utils, "prune"):
    torch_utils.prune(pruned, 0.4)
fused = deepcopy(average.ema)
with torch.no_grad():
    fused[0] = torch_utils.fuse_conv_and_bn(fused[0], fused[1])
checkpoint = {{
    "epoch": 2,
    "model": deepcopy(model).half(),
    "ema": deepcopy(average.ema).half(),
    "updates": average.updates,
    "optimizer": optimizer.state_dict(),
    "pruned": pruned,
    "fused": fused,
    "full": average.ema,
}}
torch.save(checkpoint, sys.argv[1] + ".pt")
tensors = {{k: v.state_dict() for k, v in checkpoint.items() if isinstance(v, torch.nn.Module)}}
torch.save({{**tensors, "updates": average.updates}}, sys.argv[1] + "-tensors.pt")
print("yolov5_utils" in sys.modules, average.updates)
"""
# In a process where any import of the package fails.
LOAD = """
import sys
sys.modules["yolov5_utils"] = None
import torch
from models import Net
from torch import nn

name = sys.argv[1]
checkpoint = torch.load(name + ".pt", weights_only=False)
for value in checkpoint.values():
    for module in value.modules() if isinstance(value, nn.Module) else ():
        assert type(module) in (Net, nn.Conv2d, nn.BatchNorm2d), type(module)
        plain = vars(type(module)(*([2, 2, 1][: 0 if type(module) is Net else 3])))
        assert set(vars(module)) <= set(plain), set(vars(module)) - set(plain)
        assert not any(value for key, value in vars(module).items() if key.endswith("_hooks"))
    if isinstance(value, nn.Module):
        value.float()(torch.rand(1, 3, 8, 8))
tensors = torch.load(name + "-tensors.pt", weights_only=True)
assert tensors["full"].keys() == checkpoint["full"].state_dict().keys()
print(checkpoint["updates"], tensors["updates"])
"""


@pytest.fixture(params=["5.0", "7.0", "u8.4"])
def folder(request: pytest.FixtureRequest, write: Callable[..., Path]) -> Path:
    package = PACKAGES[request.param]
    file = write(text_of(request.param), package=package)
    folder = file.parents[len(package.split("."))]
    (folder / "models.py").write_text(MODELS)
    (folder / "train.py").write_text(TRAIN.format(package=package))
    (folder / "load.py").write_text(LOAD)
    (folder / "forms.py").write_text(FORMS)
    return folder


# The launcher, once it knows the forms of the functions that are the tests' own text.
FORMS = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from synthetic import known_forms
from yolov5_utils.commands.cli import main
from yolov5_utils.overlay.known_callables import HOT
for name, digest, form in known_forms():
    HOT[name].forms[digest] = form
main(sys.argv[1:])
"""


def last_line(folder: Path, *arguments: str) -> str:
    """Of what Python prints with these arguments."""
    result = run(*arguments, folder=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_checkpoints_are_the_stock_ones_and_load_without_the_package(folder: Path) -> None:
    assert last_line(folder, "train.py", "stock") == "False 3"
    assert last_line(folder, "forms.py", "train.py", "ours") == "True 3"
    for kind in ("", "-tensors"):
        contents = []
        for name in ("stock", "ours"):
            archive = zipfile.ZipFile(folder / f"{name}{kind}.pt")
            records = {entry.partition("/")[2]: archive.read(entry) for entry in archive.namelist()}
            assert not any(b"yolov5_utils" in record for record in records.values())
            contents.append(records)
        assert contents[0].keys() == contents[1].keys()
        for entry, record in contents[0].items():
            if not entry.startswith("."):  # the archive's own identity depends on its name
                assert contents[1][entry] == record, entry
    assert last_line(folder, "load.py", "ours") == "3 3"
