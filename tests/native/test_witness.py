"""Debug builds notice Python code that could run while addresses of tensors are in use: with such a
call planted into python/call.c, the first update ends the process with a sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .building import ROOT, clean_environment, need, run, succeed

PLANTS = {
    "nothing": ("", ""),
    "a release": (
        "    bool acts = plan->run",
        "    Py_INCREF(Py_None);\n    Py_DECREF(Py_None);\n",
    ),
    "an attribute": ("    bool acts = plan->run", "    PyErr_Clear(); /* planted */\n"),
}
UPDATE = """
import torch
from yolov5_utils import _C, _native
average, source = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
_C.ema_update(average, source, 0.5)
_C.count_module_zeros(source)
for exchange in (True, False):
    _C.register_torch(_native.TorchFacts(use_exchange=exchange))
    for gil_bytes in (0, 1 << 40):
        _C.configure(gil_bytes=gil_bytes)
        _C.ema_update(average, source, 0.5)
        _C.prune([torch.rand(9)], [torch.empty(9)], [3])
        _C.scale_img(torch.rand(1, 3, 8, 8), torch.empty(1, 3, 4, 4), (4, 4), 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [*list(PLANTS)[:2], pytest.param("an attribute", marks=pytest.mark.long)],
)
def test_the_witness(plant: str, tmp_path: Path) -> None:
    before, text = PLANTS[plant]
    for name in ("csrc", "cuda", "yolov5_utils"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "yolov5_utils_overlay.pth"):
        shutil.copy(ROOT / name, tmp_path / name)
    source = tmp_path / "csrc" / "python" / "call.c"
    code = source.read_text()
    assert code.count(before) == 1 or not before
    source.write_text(code.replace(before, before.partition("=")[0] and text + before, 1))
    environment = clean_environment(
        CC=need("gcc"), YOLOV5_UTILS_DEBUG="1", YOLOV5_UTILS_CUDA="0", CFLAGS="-UNDEBUG"
    )
    succeed(
        *(sys.executable, "setup.py", "-q", "build_ext", "--inplace"),
        cwd=tmp_path,
        environment=environment,
    )
    done: subprocess.CompletedProcess[str] = run(
        sys.executable, "-c", UPDATE, environment=clean_environment(PYTHONPATH=str(tmp_path))
    )
    if plant == "nothing":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert "Python code could run while addresses of tensors are in use" in done.stderr
