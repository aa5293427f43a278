"""The command line: commands answer, mistakes and a broken build are named.

What becomes of a client's script: test_cli_scripts.py.
"""

from __future__ import annotations

import contextlib
import json
import pkgutil
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yolov5_utils import _C, __version__, probe, reference, torch_utils
from yolov5_utils.commands import cli, info, selftest
from yolov5_utils.ops import OPERATIONS

from .. import older_torch
from ..support import client_text
from .command_line import OURS, ROOT, STOCK, Result, run


def test_client_is_patched_before_it_uses_anything(tmp_path: Path) -> None:
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "torch_utils.py").write_text(client_text())
    (tmp_path / "train.py").write_text(
        "import sys\n"
        "assert 'torch' not in sys.modules\n"
        "from utils.torch_utils import ModelEMA, sparsity, torch\n"
        "model = torch.nn.Linear(3, 4)\n"
        "ModelEMA(model).update(model)\n"
        "sparsity(model)\n"
        "from yolov5_utils import ops\n"
        "print({name: path.calls for name, path in ops.OPERATIONS.items()})\n"
    )
    result = run(OURS, "train.py", folder=tmp_path)
    assert "'ema': {'C': 1, 'CUDA': 0, 'torch': 0}" in result.stdout, result.stderr
    assert "'sparsity': {'C': 1, 'CUDA': 0, 'torch': 0}" in result.stdout


MISTAKES = {
    "nothing": ((), {}, 2, "usage: python -m yolov5_utils SCRIPT.py"),
    "module": (("-m",), {}, 2, "-m needs the name of a module"),
    "option": (("--jsno",), {}, 2, "unknown option --jsno"),
    "argument": (("info", "--jsno"), {}, 2, "info takes nothing or --json, not --jsno"),
    "argument of selftest": (("selftest", "all"), {}, 2, "selftest takes no arguments, not all"),
    "switch": (
        ("s.py",),
        {"YOLOV5_UTILS_BACKEND": "c"},
        2,
        "YOLOV5_UTILS_BACKEND='c': allowed values are auto, torch",
    ),
    "level": (
        ("info",),
        {"YOLOV5_UTILS_CPU": "sse9"},
        2,
        "YOLOV5_UTILS_CPU='sse9': allowed values are portable, avx2, avx512, neon",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_in_one_line(tmp_path: Path, mistake: str) -> None:
    arguments, environment, code, text = MISTAKES[mistake]
    (tmp_path / "s.py").write_text("print('ran')\n")
    result = run(OURS, *arguments, folder=tmp_path, **environment)
    assert result.returncode == code
    assert result.stdout == ""
    assert text in result.stderr
    assert mistake == "nothing" or result.stderr.count("\n") == 1, result.stderr


def test_level_that_the_cpu_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(level: str | None) -> None:
        raise ValueError("level: this CPU does not run it")

    monkeypatch.setattr(_C, "configure", refuse)
    assert cli.main(["info"]) == 2
    expected = "yolov5_utils: YOLOV5_UTILS_CPU: this CPU does not run it\n"
    assert capsys.readouterr().err == expected


def run_broken(
    folder: Path, *arguments: str, missing: tuple[str, ...] = (), **environment: str
) -> Result:
    """The command line where the extension was built for another interpreter."""
    (folder / "s.py").write_text("import sys; print('ran', bool(sys.modules.get('torch')))\n")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({('yolov5_utils._C', *missing)!r}))\n"
        f"from yolov5_utils.commands.cli import main; sys.exit(main({list(arguments)!r}))"
    )
    return run(STOCK, "-c", code, folder=folder, **environment)


@pytest.mark.parametrize("torch", ["", "no torch either"])
@pytest.mark.parametrize("arguments", [("s.py",), ("-m", "s")])
def test_broken_build_warns_and_the_client_runs(
    tmp_path: Path, arguments: tuple[str], torch: str
) -> None:
    """The client is the first to import torch; whether there is one is its own affair."""
    result = run_broken(tmp_path, *arguments, missing=("torch",) if torch else ())
    assert result.returncode == 0
    assert result.stdout == "ran False\n"
    assert "yolov5_utils: the C extension yolov5_utils._C cannot be loaded" in result.stderr
    assert "yolov5_utils: yolov5_utils" not in result.stderr
    assert "Remedy: install the package" in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize("argument", ["info", "selftest", "s.py"])
def test_broken_build_is_named_with_its_remedy(tmp_path: Path, argument: str) -> None:
    strict = {"YOLOV5_UTILS_STRICT": "1"} if argument == "s.py" else {}
    result = run_broken(tmp_path, argument, **strict)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Remedy: install the package" in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


def test_broken_build_is_said_once(tmp_path: Path) -> None:
    """Not again by the overlay, when the client is imported."""
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "torch_utils.py").write_text(client_text())
    (tmp_path / "train.py").write_text(
        "from utils.torch_utils import LOGGER\nLOGGER.error('ran')\n"
    )
    line, last = run_broken(tmp_path, "train.py").stderr.splitlines()
    assert "cannot be loaded" in line
    assert last == "ran"


@pytest.mark.parametrize(
    ("there", "hint"), [("train.py", "; did you mean train.py?\n"), ("x", "\n")]
)
def test_a_script_without_its_suffix_is_suggested(tmp_path: Path, there: str, hint: str) -> None:
    (tmp_path / there).write_text("print('ran')\n")
    result = run(OURS, "train", "--img", "640", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    *_, last = result.stderr.splitlines(keepends=True)
    assert last == (
        "yolov5_utils: 'train' is neither a command (info, selftest, demo) nor a file nor a program"
        + hint
    )


def test_a_script_beside_a_folder_of_that_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()  # pictures, say
    (tmp_path / "train.py").write_text("print('ran')\n")
    result = run(OURS, "train", folder=tmp_path)
    expected = "yolov5_utils: the folder train has no __main__.py; did you mean train.py?\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", expected)
    (tmp_path / "train" / "__main__.py").write_text("print('folder')\n")
    assert run(OURS, "train", folder=tmp_path).stdout == "folder\n"
    (tmp_path / "train" / "val.py").touch()
    result = run(OURS, "train/val", folder=tmp_path)
    assert result.stderr.endswith("; did you mean train/val.py?\n")


def test_help_and_version() -> None:
    text = run(OURS, "--help").stdout
    for word in (
        "SCRIPT.py",
        "info",
        "selftest",
        "demo",
        "YOLOV5_UTILS_CPU",
        "YOLOV5_UTILS_STRICT",
    ):
        assert word in text
    assert run(OURS, "--version").stdout == f"yolov5_utils {__version__}\n"


def test_info_says_how_each_hot_path_runs() -> None:
    facts = json.loads(run(OURS, "info", "--json").stdout)
    assert facts["package"]["version"] == __version__
    assert facts["build"]["levels_found"] == _C.info()["levels_found"]
    assert facts["torch"] == torch.__version__
    assert facts["switches"]["YOLOV5_UTILS_BACKEND"] == "auto"
    assert set(facts["hot_paths"]) == set(OPERATIONS)
    assert facts["hot_paths"]["ema"]["way"] == "C"
    assert facts["hot_paths"]["prune"]["way"] == "C"
    assert facts["hot_paths"]["ema"]["calls"] == {"C": 0, "CUDA": 0, "torch": 0}

    text = run(OURS, "info").stdout
    assert "hot path ema" in text
    assert torch.__version__ in text


def refuse(*_: object) -> None:
    raise _C.Unsupported("too warm")


def test_info_asks_what_the_call_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A usual call is tried, so what stops the calls is what is said."""
    expected = "torch" if older_torch.APPLIES else "C"
    before = {name: OPERATIONS[name].counted() for name in OPERATIONS}
    paths = info.hot_paths()
    assert {name: path.way for name, path in paths.items() if path.way != "C"} == (
        {"scale_img": "torch"} if older_torch.APPLIES else {}
    )
    assert paths["scale_img"].way == expected
    assert {name: OPERATIONS[name].counted() for name in OPERATIONS} == before
    for operation in OPERATIONS.values():
        if operation.name != "time_synchronized":
            monkeypatch.setattr(operation, "check", refuse)
    for name, path in info.hot_paths().items():
        if name != "time_synchronized":
            assert (path.way, path.why) == ("torch", "too warm"), name

    def broken() -> bool:
        raise AttributeError("no attribute 'is_compiling'")

    monkeypatch.setattr(probe, "is_compiling", broken)
    for path in info.hot_paths().values():
        assert (path.way, path.why[:14]) == ("error", "AttributeError")


def test_info_into_a_closed_pipe_says_nothing() -> None:
    process = subprocess.Popen([*OURS, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_info_follows_the_switches() -> None:
    switches = {"YOLOV5_UTILS_BACKEND": "torch", "YOLOV5_UTILS_CPU": "portable"}
    facts = json.loads(run(OURS, "info", "--json", **switches).stdout)
    assert facts["build"]["level"] == "portable"
    assert facts["hot_paths"]["ema"]["way"] == "torch"
    assert facts["hot_paths"]["ema"]["why"] == "YOLOV5_UTILS_BACKEND=torch"


def test_info_tells_what_it_would_do_to_the_clients_it_finds(tmp_path: Path) -> None:
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "torch_utils.py").write_text("raise SystemExit('it was run')\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics" / "__init__.py").write_text("raise SystemExit('it was run')\n")
    facts = json.loads(run(OURS, "info", "--json", folder=tmp_path, **environment).stdout)
    assert [client["module"] for client in facts["clients"]] == ["utils.torch_utils"]
    text = run(OURS, "info", folder=tmp_path, **environment).stdout
    assert re.search(
        "found here: utils.torch_utils +not known as a file of .*: it defines no class", text
    )


def test_info_finds_a_package_in_this_folder(tmp_path: Path) -> None:
    folder = tmp_path / "ultralytics" / "utils"
    folder.mkdir(parents=True)
    (tmp_path / "ultralytics" / "__init__.py").write_text("raise SystemExit('it was run')\n")
    (folder / "torch_utils.py").write_text("")
    facts = json.loads(run(OURS, "info", "--json", folder=tmp_path, PYTHONPATH=str(ROOT)).stdout)
    (found,) = (client for client in facts["clients"] if "ultralytics" in client["module"])
    assert found["file"] == str(folder / "torch_utils.py")


def found_here(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `info` says of a client's file with this content."""
    (folder / "utils").mkdir()
    (folder / "utils" / "torch_utils.py").write_bytes(content)
    monkeypatch.chdir(folder)
    (record,) = (client for client in info.clients() if client.module == "utils.torch_utils")
    return record


COOKIE = "# -*- coding: latin-1 -*-\n# \xe9t\xe9\n"
ENCODED = {
    "plain": lambda text: text.encode(),
    "byte order mark": lambda text: ("\ufeff" + text).encode(),
    "mark and cookie": lambda text: ("\ufeff# coding: utf-8 \xe9\n" + text).encode(),
    "cookie": lambda text: (COOKIE + text).encode("latin-1"),
    "cookie in line two": lambda text: ("#!/usr/bin/env python\n" + COOKIE + text).encode(
        "latin-1"
    ),
    "lines of Windows": lambda text: text.replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("encoded", ENCODED)
def test_info_reads_files_as_python_does(
    tmp_path: Path, encoded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ENCODED[encoded](client_text())
    compile(content, "", "exec")
    record = found_here(tmp_path, content, monkeypatch)
    assert record.release.startswith("YOLOv5")
    assert "ModelEMA.update" in record.replaced
    assert "module" not in record.left


UNREADABLE = {
    "another encoding": "x = '\xe9'\n".encode("latin-1"),
    "unknown cookie": b"# coding: klingon\n",
    "cookie that is no text": b"# coding: hex\n",
    "mark against cookie": "\ufeff# coding: latin-1\n".encode(),
    "two bytes a character": "x = 1\n".encode("utf-16"),
    "zeros": bytes(40),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_info_says_in_one_line_what_python_cannot_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((SyntaxError, ValueError, LookupError)):
        compile(UNREADABLE[kind], "", "exec")
    record = found_here(tmp_path, UNREADABLE[kind], monkeypatch)
    assert record.release is None
    assert record.replaced == ()
    assert re.match("cannot be read: .|not known as a file of .", record.left["module"])
    assert "\n" not in record.left["module"]


def test_report_counts_calls() -> None:
    before = info.hot_paths()["sparsity"].calls["C"]
    from yolov5_utils.torch_utils import sparsity

    sparsity(torch.nn.Linear(2, 2))
    assert info.hot_paths()["sparsity"].calls["C"] == before + 1


Selftest = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def selftests(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Selftest:
    """selftests("fuse"): exit code and lines, of some checks where they are named."""

    def run_some(*only: str) -> tuple[int, list[str]]:
        if only:
            checks = {name: selftest._CHECKS[name] for name in only}
            monkeypatch.setattr(selftest, "_CHECKS", checks)
        capsys.readouterr()
        return selftest.run(), capsys.readouterr().out.splitlines()

    return run_some


@pytest.mark.slow
def test_selftest_passes_at_every_level(level: str, selftests: Selftest) -> None:
    before = torch.get_rng_state()
    code, lines = selftests()
    assert code == 0, lines
    assert torch.equal(torch.get_rng_state(), before)
    assert f"level {level}" in lines[0]
    checked = [line for line in lines if line.startswith("ok ")]
    assert len(checked) == len(selftest._CHECKS) - older_torch.APPLIES  # scale_img
    assert lines[-1].startswith("all equal")
    left = [line for line in lines if "left to torch" in line or "cannot do" in line]
    if older_torch.APPLIES:
        for words in ("16-bit floats", "no variant in C", "the original cannot do either"):
            assert any(words in line for line in left)
    elif probe.release() >= (2, 3):  # before, torch cannot multiply float16 on the CPU
        assert [line.split(":")[0] for line in left] == ["ok      scale_img"]
        for words in ("channels last with more than 3 channels", "an empty batch"):
            assert words in left[0]
        assert left[0].count("left to torch") == 2


def test_selftest_says_what_c_leaves_to_torch(
    monkeypatch: pytest.MonkeyPatch, selftests: Selftest
) -> None:
    """A check that C refuses has not failed, nor is it among the equal ones."""
    monkeypatch.setattr(_C, "fuse", refuse)
    monkeypatch.setattr(_C, "count_module_zeros", refuse)
    names = ("fuse", "sparsity, dtypes", "sparsity, models", "ema, models")
    code, lines = selftests(*names)
    assert code == 0
    for name, line in zip(names[:3], lines[1:], strict=False):
        assert re.match(rf"torch   {name}: \d+ left to torch \(too warm\)", line)
    assert lines[4].startswith("ok      ema, models: 8 calls equal")
    assert "all equal, 3 of 4 checks left to torch" in lines[-1]


def test_selftest_says_what_the_original_cannot_do(
    monkeypatch: pytest.MonkeyPatch, selftests: Selftest
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("not implemented for 'Half'\nin aten/")

    monkeypatch.setattr(reference, "fuse_conv_and_bn", refuse)
    code, lines = selftests("fuse")
    assert code == 0
    assert lines[1] == (
        "torch   fuse: 48 that the original cannot do either "
        "(RuntimeError: not implemented for 'Half')"
    )


def lerp(average: torch.nn.Module, source: torch.nn.Module, decay: float) -> None:
    """The shortcut that C must not take."""
    state = source.state_dict()
    with torch.no_grad():
        for name, value in average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(state[name].to(value.dtype), 1 - decay)


def one_bit_more(function: Any) -> Any:
    """The public function, the last bit of whose result is another one."""

    def changed(*args: Any, **named: Any) -> Any:
        result = function(*args, **named)
        value = result if isinstance(result, torch.Tensor) else result.weight
        if value.numel():
            last = value.detach()[(-1,) * value.dim()]  # a 0-d view
            last.copy_(torch.nextafter(last.float(), torch.tensor(9.0)).to(last.dtype))
        return result

    return changed


def raising(*_: object, **__: object) -> None:
    raise AttributeError("module 'torch.compiler' has no attribute 'is_compiling'")


FAULTS: dict[str, tuple[str, str, Any, str]] = {
    "ema differs": ("ema, models", "reference.ema_update", lerp, "differs from the original's"),
    "share differs": ("sparsity, models", "torch_utils.sparsity", one_bit_more, "share differs"),
    "image differs": ("scale_img", "torch_utils.scale_img", one_bit_more, "image differs"),
    "fused differs": ("fuse", "torch_utils.fuse_conv_and_bn", one_bit_more, "weight differs"),
    "ema raises": ("ema, models", "torch_utils.ModelEMA.update", raising, "is_compiling"),
    "share raises": ("sparsity, models", "torch_utils.sparsity", raising, "is_compiling"),
    "image raises": ("scale_img", "torch_utils.scale_img", raising, "is_compiling"),
    "fused raises": ("fuse", "torch_utils.fuse_conv_and_bn", raising, "is_compiling"),
    "pruning raises": ("prune", "torch_utils.prune", raising, "is_compiling"),
    "clock raises": ("time_synchronized", "torch_utils.time_synchronized", raising, "is_comp"),
    "clock is wrong": ("time_synchronized", "torch_utils.time_synchronized", lambda: 1.0, "read 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_selftest_fails_where_a_public_function_is_at_fault(
    monkeypatch: pytest.MonkeyPatch, selftests: Selftest, fault: str
) -> None:
    check, target, change, text = FAULTS[fault]
    module, name = f"yolov5_utils.{target}".rsplit(".", 1)
    owner = pkgutil.resolve_name(module)
    new = one_bit_more(getattr(owner, name)) if change is one_bit_more else change
    monkeypatch.setattr(owner, name, new)
    code, lines = selftests(check)
    if "image" in fault and older_torch.APPLIES and change is one_bit_more:
        assert lines[1].startswith("torch   scale_img")  # C has done nothing that may differ
        return
    assert code == 1
    assert lines[1].startswith(f"FAILED  {check}: ")
    assert text in lines[1]
    assert lines[-1].startswith("1 of 1 checks FAILED")


def test_selftest_fails_where_other_weights_are_pruned(
    monkeypatch: pytest.MonkeyPatch, selftests: Selftest
) -> None:
    prune = torch_utils.prune
    monkeypatch.setattr(
        torch_utils, "prune", lambda model, amount, ties: prune(model, min(amount, 0.4), ties=ties)
    )
    code, lines = selftests("prune")
    assert code == 1
    assert "0.5 of the weights, ties position: " in lines[1]


def test_selftest_fails_where_a_handlers_exception_is_lost(
    monkeypatch: pytest.MonkeyPatch, selftests: Selftest
) -> None:
    def swallowing(model: torch.nn.Module) -> None:
        with contextlib.suppress(Exception):
            time.sleep(0.01)

    monkeypatch.setattr(torch_utils, "sparsity", swallowing)
    code, lines = selftests("signals")
    assert code == 1
    assert "the exception of a signal handler was lost" in lines[1]


def test_without_torch_a_command_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert cli.main(["info"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("yolov5_utils: torch is not installed for ")
    assert told.count("\n") == 1
