"""The command line: commands answer, mistakes and a broken build are named.

What becomes of a client's script: test_cli_scripts.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolov5_utils import _C, __version__, _native, cli, reference, report, selftest

from .. import older_torch
from .command_line import OURS, STOCK, Result, run


def test_client_is_patched_before_it_uses_anything(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "overlay"))
    try:
        from synthetic import text_of
    finally:
        del sys.path[0]
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "torch_utils.py").write_text(text_of("7.0"))
    (tmp_path / "train.py").write_text(
        "import sys\n"
        "assert 'torch' not in sys.modules\n"
        "from utils.torch_utils import ModelEMA, sparsity, torch\n"
        "model = torch.nn.Linear(3, 4)\n"
        "ModelEMA(model).update(model)\n"
        "sparsity(model)\n"
        "from yolov5_utils import _native\n"
        "print({name: path.calls for name, path in _native.HOT_PATHS.items()})\n"
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
        "YOLOV5_UTILS_CPU='sse9': allowed values are portable, avx2, avx512",
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
    expected = "yolov5_utils: YOLOV5_UTILS_CPU: level: this CPU does not run it\n"
    assert capsys.readouterr().err == expected


def run_broken(
    folder: Path, *arguments: str, missing: tuple[str, ...] = (), **environment: str
) -> Result:
    """The command line where the extension was built for another interpreter."""
    (folder / "s.py").write_text("import sys; print('ran', bool(sys.modules.get('torch')))\n")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({('yolov5_utils._C', *missing)!r}))\n"
        f"from yolov5_utils.cli import main; sys.exit(main({list(arguments)!r}))"
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
    assert "Remedy: reinstall" in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize("argument", ["info", "selftest", "s.py"])
def test_broken_build_is_named_with_its_remedy(tmp_path: Path, argument: str) -> None:
    strict = {"YOLOV5_UTILS_STRICT": "1"} if argument == "s.py" else {}
    result = run_broken(tmp_path, argument, **strict)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Remedy: reinstall" in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


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
    assert set(facts["hot_paths"]) == set(_native.HOT_PATHS)
    assert facts["hot_paths"]["ema"]["way"] == "C"
    assert facts["hot_paths"]["prune"]["way"] == "C"
    assert facts["hot_paths"]["ema"]["calls"] == {"C": 0, "CUDA": 0, "torch": 0}

    text = run(OURS, "info").stdout
    assert "hot path ema" in text
    assert torch.__version__ in text


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
    assert re.search("found here: utils.torch_utils +not YOLOv5's: it defines no class", text)


def test_report_counts_calls() -> None:
    before = report.hot_paths()["sparsity"]["calls"]["C"]
    from yolov5_utils.torch_utils import sparsity

    sparsity(torch.nn.Linear(2, 2))
    assert report.hot_paths()["sparsity"]["calls"]["C"] == before + 1


def test_selftest_passes_at_every_level(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_rng_state()
    assert selftest.run() == 0
    assert torch.equal(torch.get_rng_state(), before)
    lines = capsys.readouterr().out.splitlines()
    assert f"level {level}" in lines[0]
    left = [line for line in lines if "left to torch" in line]
    if older_torch.APPLIES:
        named = ("; float16 left to torch (torch refused it", "no variant in C", "all equal, 1 of")
        assert len(left) == len(named)
        assert all(words in line for words, line in zip(named, left, strict=True))
    else:
        assert left == []
    checked = sum(line.startswith("ok ") for line in lines)
    assert checked == len(selftest._CHECKS) - older_torch.APPLIES  # scale_img
    assert lines[-1].startswith("all equal")


def test_selftest_says_what_c_leaves_to_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check that C refuses has not failed, nor is it among the equal ones."""

    def refuse(*_: object) -> None:
        raise _C.Unsupported("too warm")

    monkeypatch.setattr(_C, "fuse", refuse)
    monkeypatch.setattr(_C, "count_module_zeros", refuse)
    assert selftest.run() == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("fuse", "sparsity, dtypes", "sparsity, models"):
        assert f"torch   {name}: left to torch (too warm)" in lines
    count = 3 + older_torch.APPLIES
    assert f"all equal, {count} of {len(selftest._CHECKS)} checks left to torch" in lines[-1]


def test_selftest_fails_where_a_bit_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference is made to take the shortcut that the C must not take."""

    def lerp(average: torch.nn.Module, source: torch.nn.Module, decay: float) -> None:
        state = source.state_dict()
        with torch.no_grad():
            for name, value in average.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(state[name].to(value.dtype), 1 - decay)

    monkeypatch.setattr(reference, "ema_update", lerp)
    assert selftest.run() == 1
    out = capsys.readouterr().out
    assert "FAILED  ema, dtypes" in out
    assert f"3 of {len(selftest._CHECKS)} checks FAILED" in out


def test_selftest_fails_where_a_count_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = _C.count_module_zeros

    def one_more(model: torch.nn.Module) -> tuple[float, ...]:
        parameters, elements, *zeros = count(model)
        return (parameters, elements, *(number + 1 for number in zeros))

    monkeypatch.setattr(_C, "count_module_zeros", one_more)
    assert selftest.run() == 1
    assert f"2 of {len(selftest._CHECKS)} checks FAILED" in capsys.readouterr().out
