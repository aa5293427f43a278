"""The command line: a script runs as under python itself, commands answer, mistakes are named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolov5_utils import _C, __version__, _native, cli, reference, report, selftest

from .. import older_torch

OURS = (sys.executable, "-m", "yolov5_utils")
STOCK = (sys.executable,)


def run(
    command: tuple[str, ...], *arguments: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if "YOLOV5_UTILS" not in key}
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def both(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], ...]:
    """The same script through this package and by python: results that should be equal."""
    return run(OURS, *arguments, folder=folder), run(STOCK, *arguments, folder=folder)


def assert_same(results: tuple[subprocess.CompletedProcess[str], ...]) -> None:
    ours, stock = results
    assert ours.stdout == stock.stdout
    assert ours.stderr == stock.stderr
    assert ours.returncode == stock.returncode


# Prints everything a script can see of the way it was started.
MIRROR = """\
'''Its docstring.'''
import sys
loader = __loader__
print(list(globals()), __name__, __doc__, __package__, __spec__, __file__, type(__builtins__))
print(type(loader).__name__, loader.name, loader.path, globals().get("__cached__", "no"))
print(globals().get("__annotations__", "no"), sys.modules["__main__"].__dict__ is globals())
print(sys.argv, sys.path, "torch" in sys.modules, "numpy" in sys.modules)
"""


@pytest.mark.parametrize("script", ["./s.py", "s.py", "sub/../s.py", "link.py", "{folder}/s.py"])
def test_script_sees_what_python_shows_it(tmp_path: Path, script: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "s.py").write_text(MIRROR)
    (tmp_path / "sub" / "real.py").write_text(MIRROR)
    (tmp_path / "link.py").symlink_to("sub/real.py")
    results = both(tmp_path, script.format(folder=tmp_path), "--flag", "info", "-h")
    assert "'--flag', 'info', '-h'" in results[1].stdout
    assert_same(results)


def module_in(folder: Path, text: str) -> None:
    """The text as modules: `one`, `package` (its __main__) and `package.inner`."""
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("import sys; print(sys.argv)\n")
    for file in ("one.py", "package/__main__.py", "package/inner.py"):
        (folder / file).write_text(text)


# The loader's text has its address; and it is enough to see that there is one.
MODULE = MIRROR.replace("loader = __loader__\n", "loader = __loader__\n__spec__.loader = None\n")


@pytest.mark.parametrize("name", ["one", "package", "package.inner"])
def test_module_sees_what_python_shows_it(tmp_path: Path, name: str) -> None:
    module_in(tmp_path, MODULE)
    results = both(tmp_path, "-m", name, "--flag", "info", "-m")
    assert "'--flag', 'info', '-m'" in results[1].stdout
    assert_same(results)


@pytest.mark.parametrize("name", ["gone", "package.gone", "one.gone", "empty", "one.py", ".one"])
def test_module_that_cannot_be_run(tmp_path: Path, name: str) -> None:
    module_in(tmp_path, MODULE)
    (tmp_path / "empty").mkdir()
    results = both(tmp_path, "-m", name)
    assert results[1].returncode == 1
    assert_same(results)


ENDINGS = {
    "end": "",
    "code": "import sys; sys.exit(7)",
    "text": "import sys; sys.exit('in words')",
    "raise": "def f():\n    return 1 / 0\nf()",
    "cause": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('two') from e",
    "syntax": "x = (1,\ny = 2",
    "encoding": "# -*- coding: latin-1 -*-\nprint(ascii('\xff'))",
    "hook": "import sys\nsys.excepthook = lambda *a: print(a[0], a[2].tb_lineno)\n1 / 0",
    "at exit": "import atexit; atexit.register(print, 'bye'); raise SystemExit(3)",
    "future": "x: undefined = 1\nfrom __future__ import annotations",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_script_ends_as_under_python(tmp_path: Path, ending: str) -> None:
    encoding = "latin-1" if ending == "encoding" else "utf-8"
    (tmp_path / "s.py").write_text(ENDINGS[ending] + "\n", encoding=encoding)
    assert_same(both(tmp_path, "s.py"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_module_ends_as_under_python(tmp_path: Path, ending: str) -> None:
    encoding = "latin-1" if ending == "encoding" else "utf-8"
    (tmp_path / "s.py").write_text(ENDINGS[ending] + "\n", encoding=encoding)
    assert_same(both(tmp_path, "-m", "s"))


def test_program_of_this_environment(tmp_path: Path) -> None:
    """As pip installs `yolo`: a script in the environment's folder of programs."""
    code = "import sysconfig; print(sysconfig.get_path('scripts'))"
    name = f"y5-test-program-{os.getpid()}"
    program = Path(run(STOCK, "-c", code).stdout.strip()) / name
    program.write_text(f"#!{sys.executable}\n{MIRROR}")
    try:
        ours = run(OURS, name, "train", folder=tmp_path)
        assert_same((ours, run(STOCK, str(program), "train", folder=tmp_path)))
        assert str(program) in ours.stdout
        program.write_text("\x7fELF no Python program\n")
        assert "neither a command" in run(OURS, name, folder=tmp_path).stderr
    finally:
        program.unlink()


def test_interrupt_ends_as_under_python(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    for arguments in (("s.py",), ("-m", "s")):
        results = both(tmp_path, *arguments)
        assert results[1].returncode == -signal.SIGINT
        assert_same(results)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_worker_processes_start(tmp_path: Path, method: str) -> None:
    """Workers import the script again from `__main__`'s file or spec, as under python."""
    (tmp_path / "s.py").write_text(
        "import multiprocessing, sys\n"
        "def work(x):\n"
        "    return x * x, sys.modules[work.__module__].__file__\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "        print(pool.map(work, range(4)))\n"
    )
    for arguments in (("s.py",), ("-m", "s")):
        results = both(tmp_path, *arguments)
        assert "(9, " in results[1].stdout
        assert_same(results)


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
    "command": (("inof",), {}, 2, "'inof' is neither a command (info, selftest, demo) nor a file"),
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


@pytest.mark.parametrize("script", ["gone.py", "gone/train.py", "."])
def test_missing_script_is_reported_in_pythons_words(tmp_path: Path, script: str) -> None:
    ours = run(OURS, script, folder=tmp_path)
    assert ours.returncode == 2
    if script != ".":  # python looks into a folder for its __main__.py
        assert_same((ours, run(STOCK, script, folder=tmp_path)))
    assert "can't open file" in ours.stderr or "neither a command" in ours.stderr


def run_broken(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line where the extension was built for another interpreter."""
    (folder / "s.py").write_text("print('ran')\n")
    code = (
        "import sys; sys.modules['yolov5_utils._C'] = None\n"
        f"from yolov5_utils.cli import main; sys.exit(main({list(arguments)!r}))"
    )
    return run(STOCK, "-c", code, folder=folder, **environment)


@pytest.mark.parametrize("arguments", [("s.py",), ("-m", "s")])
def test_broken_build_warns_and_the_client_runs(tmp_path: Path, arguments: tuple[str]) -> None:
    result = run_broken(tmp_path, *arguments)
    assert result.returncode == 0
    assert result.stdout == "ran\n"
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
