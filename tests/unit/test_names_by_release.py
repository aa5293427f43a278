"""The drop-in as a whole file: what the modules of each YOLOv5 release import from it is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from yolov5_utils import torch_utils

from ..support import python

NAMES = Path(__file__).parents[2] / "docs/names.md"

# What the other modules of a release import from its torch_utils, found by reading all of them.
ALL_RELEASES = (
    "ModelEMA copy_attr fuse_conv_and_bn initialize_weights model_info scale_img select_device "
    "torch_distributed_zero_first"
)
SINCE_6_0 = f"{ALL_RELEASES} EarlyStopping de_parallel"
SINCE_6_2 = (
    f"{SINCE_6_0} profile reshape_classifier_output smartCrossEntropyLoss smart_DDP "
    "smart_inference_mode smart_optimizer smart_resume time_sync"
)
MOVED_SINCE = "intersect_dicts is_parallel load_classifier"
IMPORTED = {
    "5.0": f"{ALL_RELEASES} {MOVED_SINCE} init_torch_seeds profile time_synchronized",
    "6.0": f"{SINCE_6_0} {MOVED_SINCE} profile time_sync",
    "6.1": f"{SINCE_6_0} profile time_sync",
    "6.2": SINCE_6_2,
    "7.0": SINCE_6_2,
    "2026-06": SINCE_6_2,
    "2026-07": f"{SINCE_6_2} smart_amp_autocast",
    "2026-08": f"{SINCE_6_2} smart_amp_autocast",
    "PyPI 5.0.10": f"{ALL_RELEASES} {MOVED_SINCE} de_parallel init_torch_seeds time_sync torch",
    "PyPI 6.0.7": f"{SINCE_6_0} {MOVED_SINCE} time_sync torch",
    "PyPI 6.1.9": f"{SINCE_6_0} profile smart_DDP smart_optimizer smart_resume time_sync",
    "PyPI 6.2.3": SINCE_6_2,
    "PyPI 7.0.14": SINCE_6_2,
}

# What the file itself defines in at least one release.
DEFINED = (
    f"{SINCE_6_2} {MOVED_SINCE} date_modified device_count find_modules git_describe "
    "init_torch_seeds prune smart_amp_autocast smart_hub_load sparsity time_synchronized"
)


def block(name: str) -> str:
    """The Python between two marks of docs/names.md."""
    text = NAMES.read_text(encoding="utf-8")
    (found,) = re.findall(
        rf"<!-- {name}: begin -->\n```python\n(.*?)```\n<!-- {name}: end", text, re.S
    )
    return found


@pytest.fixture
def client(tmp_path):
    """Runs a program beside a package `utils` whose torch_utils.py is the documented one."""
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/__init__.py").touch()

    def run(program: str, torch_utils: str, general: str = "") -> str:
        (tmp_path / "utils/torch_utils.py").write_text(torch_utils)
        (tmp_path / "utils/general.py").write_text(general)
        ran = python("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}")
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr

    return run


def test_every_import_of_every_release_works(client):
    lines = [
        f"from utils.torch_utils import {', '.join(names.split())}" for names in IMPORTED.values()
    ]
    client("\n".join(lines), block("replacement"))


def test_a_missing_name_is_an_import_error(client):
    program = (
        "try: from utils.torch_utils import smart_everything\n"
        "except ImportError as error: print(type(error).__name__)"
    )
    assert client(program, block("replacement")) == "ImportError\n"


@pytest.mark.parametrize("release", IMPORTED)
def test_names_are_public(release):
    assert set(IMPORTED[release].split()) - {"torch"} <= set(torch_utils.__all__)


def test_all_is_what_some_release_defines():
    assert {*DEFINED.split(), "logger"} == set(torch_utils.__all__)


def test_every_name_has_its_row():
    rows = re.findall(r"^\| (.*?) \|", NAMES.read_text(encoding="utf-8"), re.M)
    named = set(re.findall(r"\w+", " ".join(rows)))
    assert set(torch_utils.__all__) <= named


def test_messages_reach_the_handlers_of_the_client(client):
    general = (
        "import logging, sys\n"
        "LOGGER = logging.getLogger('yolov5')\n"
        "LOGGER.propagate = False\n"
        "LOGGER.setLevel(logging.INFO)\n"
        "LOGGER.addHandler(logging.StreamHandler(sys.stdout))\n"
    )
    program = "from utils.torch_utils import model_info, nn; model_info(nn.Linear(1, 1))"
    both = f"{block('replacement')}\n\n{block('logger')}"
    said = "Model Summary: 1 layers, 2 parameters, 2 gradients"
    assert said in client(program, both, general)
    assert said not in client(program, block("replacement"), general)
