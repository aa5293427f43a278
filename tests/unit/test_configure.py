"""The extension's settings and facts, the switches of the environment, and a broken build."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import torch

from yolov5_utils import _C, _native, switches

from ..support import python


def test_configure_returns_what_was() -> None:
    before = _C.configure()
    assert _C.configure(gil_bytes=1, parallel_bytes=2) == before
    assert _C.configure(**before) == {**before, "gil_bytes": 1, "parallel_bytes": 2}
    assert _C.configure() == before


@pytest.mark.parametrize("setting", ["level", "gil_bytes", "parallel_bytes"])
def test_configure_leaves_what_is_none(setting: str) -> None:
    before = _C.configure()
    assert _C.configure(**{setting: None}) == _C.configure() == before


@pytest.mark.parametrize("setting", ["gil_bytes", "parallel_bytes"])
@pytest.mark.parametrize("given", [-1, 1.5, "1", 2**63])
def test_configure_bytes(setting: str, given: object) -> None:
    before = _C.configure()
    with pytest.raises(ValueError, match=rf"{setting}: got .*, allowed are integers from 0"):
        _C.configure(level="portable", **{setting: given})
    assert _C.configure() == before


@pytest.mark.parametrize("given", ["", "sse", "AVX2", 3, b"avx2", "portable\0", "sve"])
def test_configure_level(given: object) -> None:
    with pytest.raises(ValueError, match="level: got .*, allowed are 'portable', '(avx2|neon)'"):
        _C.configure(level=given)


def test_level_that_this_cpu_lacks() -> None:
    info = _C.info()
    lacking = set(info["levels_compiled"]) - set(info["levels_found"])
    if not lacking:
        pytest.skip("this CPU runs every level")
    for name in lacking:
        with pytest.raises(ValueError, match="this CPU does not run"):
            _C.configure(level=name)


def test_best_level_is_the_default() -> None:
    code = "from yolov5_utils import _native; print(_native._C.info()['level'])"
    best = _C.info()["levels_found"][-1]
    assert python("-c", code, YOLOV5_UTILS_CPU="").stdout.strip() == best


def test_level_from_the_environment(level: str) -> None:
    code = "from yolov5_utils import _native; print(_native._C.info()['level'])"
    assert python("-c", code, YOLOV5_UTILS_CPU=level).stdout.strip() == level


@pytest.mark.slow
@pytest.mark.parametrize("switch", switches.ALL, ids=lambda s: s.name)
def test_unknown_value_lists_the_valid_ones(switch: switches.Switch) -> None:
    code = "from yolov5_utils import overlay, torch_utils; overlay.install()"
    done = python("-c", code, **{switch.name: "wrong"})
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert f"{switch.name}='wrong'" in message
    assert all(value in message for value in switch.values)


@pytest.mark.parametrize("switch", switches.ALL, ids=lambda s: s.name)
def test_empty_is_as_good_as_unset(
    switch: switches.Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(switch.name, "")
    assert switch.read() == switch.default


MODEL = "import torch; from yolov5_utils import ops, torch_utils as t; m = torch.nn.Linear(2, 2); "


def test_backend_torch() -> None:
    code = MODEL + "t.sparsity(m); t.ModelEMA(m).update(m); print(ops.OPERATIONS)"
    done = python("-c", code, YOLOV5_UTILS_BACKEND="torch")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'YOLOV5_UTILS_BACKEND=torch': 1") == 2
    assert "'C': 1" not in done.stdout


def test_strict_refuses_the_torch_way() -> None:
    code = MODEL + "e = t.ModelEMA(m); e.decay = lambda x: torch.tensor(0.5); e.update(m)"
    assert python("-c", code, YOLOV5_UTILS_STRICT="0").returncode == 0
    done = python("-c", code, YOLOV5_UTILS_STRICT="1")
    assert "RuntimeError: ema: C cannot run this call (decay: not a Python float)" in done.stderr


def test_an_old_torch_is_one_sentence() -> None:
    code = "import torch; torch.__version__ = '1.12.1+cu116'; import yolov5_utils._native"
    done = python("-c", code)
    assert done.returncode == 1
    told = "ImportError: yolov5_utils: torch 1.12.1+cu116 is older than 1.13, which is needed"
    assert done.stderr.splitlines()[-1] == told


def test_missing_extension_names_the_remedy(tmp_path: Path) -> None:
    package = tmp_path / "yolov5_utils"
    source = Path(_native.__file__).parent
    package.mkdir()
    for name in (
        "__init__.py",
        "_native.py",
        "probe.py",
        "install_hint.py",
        "switches.py",
    ):
        (package / name).write_text((source / name).read_text())
    installed = sysconfig.get_paths()["purelib"]  # without its .pth files: they may lead to _C
    paths = [str(tmp_path), installed, str(Path(torch.__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {paths!r}; import yolov5_utils._native"
    done = python("-S", "-c", code)
    assert "ImportError: yolov5_utils: the C extension" in done.stderr
    assert "pip install" in done.stderr
    (package / "_C.abi3.so").write_bytes(b"not a library")
    assert "pip install" in python("-S", "-c", code).stderr
    whole = Path(_C.__file__).read_bytes()
    for size in (0, 64, 4096, len(whole) // 2):
        (package / "_C.abi3.so").write_bytes(whole[:size])
        done = python("-S", "-c", code)
        assert done.returncode == 1  # and no signal's number
        assert "pip install" in done.stderr
    assert f"is cut off: it has {size} of" in done.stderr
