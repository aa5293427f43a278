"""A script, module or folder that is run by the command line cannot tell it from python itself."""

from __future__ import annotations

import os
import py_compile
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .command_line import OURS, ROOT, STOCK, assert_same, both, run

# Prints everything a script can see of the way it was started.
MIRROR = """\
'''Its docstring.'''
import sys
loader = __loader__
print(list(globals()), __name__, __doc__, __package__, type(__builtins__))
print(getattr(__spec__, "name", None), globals().get("__file__", "no"))
print(*(getattr(loader, name, "no") for name in ("__name__", "name", "path", "archive")))
print(type(loader).__name__, globals().get("__cached__", "no"))
print(globals().get("__annotations__", "no"), sys.modules["__main__"].__dict__ is globals())
print(sys.argv, sys.path, sys.flags, "torch" in sys.modules, "numpy" in sys.modules)
print(repr(sys.stdin.read()))
"""


def everything_in(folder: Path) -> None:
    """MIRROR as whatever python runs by its path."""
    (folder / "sub").mkdir()
    (folder / "empty").mkdir()
    for name in ("s.py", "sub/real.py", "sub/__main__.py"):
        (folder / name).write_text(MIRROR)
    (folder / "link.py").symlink_to("sub/real.py")
    (folder / "bom.py").write_text("\ufeff" + MIRROR)
    (folder / "lines.py").write_bytes(MIRROR.replace("\n", "\r\n").encode())
    py_compile.compile(str(folder / "s.py"), cfile=str(folder / "s.pyc"))
    (folder / "byte_code").write_bytes((folder / "s.pyc").read_bytes())
    with zipfile.ZipFile(folder / "s.zip", "w") as file:
        file.writestr("__main__.py", MIRROR)
    (folder / "zipapp").write_bytes(b"#!/usr/bin/env python3\n" + (folder / "s.zip").read_bytes())


SCRIPTS = (
    *("s.py", "./s.py", "sub/../s.py", "link.py", "{folder}/s.py", "bom.py", "lines.py"),
    *("s.pyc", "byte_code", "sub", "sub/", "s.zip", "zipapp"),
)


@pytest.mark.parametrize("safe_path", ["", "1"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_script_sees_what_python_shows_it(tmp_path: Path, script: str, safe_path: str) -> None:
    everything_in(tmp_path)
    arguments = (script.format(folder=tmp_path), "--flag", "info", "-h")
    found = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": safe_path}
    results = both(tmp_path, *arguments, stdin="some input", **found)
    assert "'--flag', 'info', '-h'" in results[1].stdout
    assert "'some input'" in results[1].stdout
    assert_same(results)


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_program_on_stdin(tmp_path: Path, safe_path: str) -> None:
    found = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": safe_path}
    results = both(tmp_path, "-", "--flag", stdin=MIRROR, **found)
    assert "['-', '--flag']" in results[1].stdout
    assert_same(results)
    for text in ("", "def f():\n    1 / 0\nf()\n", "x = (\n", "raise SystemExit(5)"):
        assert_same(both(tmp_path, "-", stdin=text))


@pytest.mark.parametrize("script", ["s.py", "sub"])
def test_isolated(tmp_path: Path, script: str) -> None:
    """Python 3.10 has no safe path, but -I keeps the script's folder out of sys.path there too."""
    everything_in(tmp_path)
    (tmp_path / "s.py").write_text("import sys; print(sys.path[0])")
    (tmp_path / "sub" / "__main__.py").write_text("import sys; print(sys.path[0])")
    code = f"import sys; sys.path.append({str(ROOT)!r}); from yolov5_utils.commands.cli import main"
    ours = run(STOCK, "-I", "-c", f"{code}; main()", script, folder=tmp_path)
    assert_same((ours, run(STOCK, "-I", script, folder=tmp_path)))


def traps_in(folder: Path) -> None:
    """A file that ends Python for each module of the standard library, and torch and numpy.

    But for those that `python -m` itself imports from the working directory before any package.
    """
    (folder / "names.py").write_text("import sys; print(*sys.modules)")
    imported = run(STOCK, "-m", "names", folder=folder).stdout.split()
    assert "runpy" in imported
    for name in {*sys.stdlib_module_names, "torch", "numpy"} - set(imported):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py was run')\n")


@pytest.mark.parametrize("safe_path", ["", "1"])
@pytest.mark.parametrize("arguments", [("sub/s.py",), ("sub",), ("{folder}/sub/s.py",)])
def test_working_directory_holds_nothing_that_is_imported(
    tmp_path: Path, arguments: tuple[str, ...], safe_path: str
) -> None:
    """A script elsewhere would not see its files, so the package must not either."""
    traps_in(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("s.py", "__main__.py"):
        (tmp_path / "sub" / name).write_text(MIRROR)
    found = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": safe_path}
    results = both(tmp_path, *(part.format(folder=tmp_path) for part in arguments), **found)
    assert results[1].returncode == 0
    assert_same(results)


@pytest.mark.parametrize("arguments", [("s.py",), ("-m", "s"), ("-m", "package.inner"), ("-",)])
def test_script_is_the_first_to_import_from_its_folder(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Here the working directory is the script's folder: what it does not import is not run."""
    traps_in(tmp_path)
    module_in(tmp_path, MIRROR)
    (tmp_path / "s.py").write_text(MIRROR)
    results = both(tmp_path, *arguments, stdin=MIRROR, PYTHONPATH=str(ROOT))
    assert results[1].returncode == 0
    assert_same(results)


def test_checkout_as_working_directory(tmp_path: Path) -> None:
    """The package itself may come from there, with nothing installed."""
    traps_in(tmp_path)
    (tmp_path / "yolov5_utils").symlink_to(ROOT / "yolov5_utils")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "s.py").write_text(
        "import sys, yolov5_utils\nprint(yolov5_utils.__file__, sys.path[0])\n"
        "from yolov5_utils import overlay\nprint(overlay.installed())\n"
    )
    result = run(OURS, "sub/s.py", folder=tmp_path)
    assert result.stdout == f"{tmp_path}/yolov5_utils/__init__.py {tmp_path}/sub\nTrue\n"
    assert result.stderr == ""


@pytest.mark.parametrize("command", [("info",), ("demo", "--help")])
def test_commands_import_nothing_from_the_working_directory(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    traps_in(tmp_path)
    result = run(OURS, *command, folder=tmp_path, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr


def test_pipe_as_a_script(tmp_path: Path) -> None:
    """What a shell makes of `<(command)`."""
    text = "import sys; print(sys.argv, sys.path[0], __file__); 1 / 0"
    results = []
    for command in (OURS, STOCK):
        reader, writer = os.pipe()
        os.dup2(reader, 63)
        os.close(reader)
        os.write(writer, text.encode())
        os.close(writer)
        arguments = [*command, "/dev/fd/63", "--flag"]
        results.append(
            subprocess.run(arguments, pass_fds=[63], capture_output=True, text=True, check=False)
        )
        os.close(63)
    assert results[1].stdout == "['/dev/fd/63', '--flag'] /dev/fd /dev/fd/63\n"
    assert_same((results[0], results[1]))


@pytest.mark.parametrize(
    "script", ["gone.py", "gone/train.py", "s.py/x.py", "loop.py", "locked.py"]
)
def test_script_that_cannot_be_opened(tmp_path: Path, script: str) -> None:
    (tmp_path / "s.py").touch()
    (tmp_path / "loop.py").symlink_to("loop.py")  # what nobody can open, not even root
    (tmp_path / "locked.py").touch(mode=0)
    if script == "locked.py" and os.access(tmp_path / script, os.R_OK):
        pytest.skip("root may read every file")
    results = both(tmp_path, script)
    assert results[1].returncode == 2
    assert "can't open file" in results[1].stderr
    assert_same(results)


def test_name_without_a_file_is_also_no_command(tmp_path: Path) -> None:
    """Python's own line comes first."""
    ours, stock = both(tmp_path, "inof")
    assert ours.returncode == stock.returncode == 2
    hint = (
        "yolov5_utils: 'inof' is neither a command (info, selftest, demo) nor a file nor a program"
    )
    assert ours.stderr == f"{stock.stderr}{hint}\n"


@pytest.mark.parametrize("script", ["empty", ".", "", "s.zip", "other.pyc", "constant.pyc"])
def test_what_holds_no_program(tmp_path: Path, script: str) -> None:
    everything_in(tmp_path)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as file:
        file.writestr("main.py", MIRROR)
    (tmp_path / "other.pyc").write_bytes(bytes(32))
    (tmp_path / "constant.pyc").write_bytes((tmp_path / "s.pyc").read_bytes()[:16] + b"N")
    results = both(tmp_path, script)
    assert results[1].returncode == 1
    if (script, sys.version_info[:2]) != ("", (3, 10)):  # which shows a slash after the folder
        assert_same(results)


def module_in(folder: Path, text: str) -> None:
    """The text as modules: `one`, `package` (its __main__) and `package.inner`."""
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("import sys; print(sys.argv)\n")
    for file in ("one.py", "package/__main__.py", "package/inner.py"):
        (folder / file).write_text(text)


@pytest.mark.parametrize("safe_path", ["", "1"])
@pytest.mark.parametrize("name", ["one", "package", "package.inner"])
def test_module_sees_what_python_shows_it(tmp_path: Path, name: str, safe_path: str) -> None:
    module_in(tmp_path, MIRROR)
    found = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONSAFEPATH": safe_path}
    results = both(tmp_path, "-m", name, "--flag", "info", "-m", stdin="some input", **found)
    assert "'--flag', 'info', '-m'" in results[1].stdout
    assert_same(results)


MISSING = ("gone", "package.gone", "one.gone", "empty", "one.py", ".one", "bare", "sys", "")


@pytest.mark.parametrize("name", MISSING)
def test_module_that_cannot_be_run(tmp_path: Path, name: str) -> None:
    module_in(tmp_path, MIRROR)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "__init__.py").touch()
    results = both(tmp_path, "-m", name)
    assert results[1].returncode == 1
    assert_same(results)


def test_module_that_its_package_imports(tmp_path: Path) -> None:
    module_in(tmp_path, "print(__name__)\n")
    (tmp_path / "package" / "__init__.py").write_text("from . import inner\n")
    results = both(tmp_path, "-m", "package.inner")
    assert "RuntimeWarning" in results[1].stderr
    assert_same(results)


THREAD = """\
import os, threading, time
def work():
    time.sleep(0.2)
    print(globals().get('__file__', 'gone'), threading.main_thread().is_alive())
threading.Thread(target=work).start()
"""
ENDINGS = {
    "end": "",
    "code": "import sys; sys.exit(7)",
    "none": "print('out'); import sys; sys.exit(None)",
    "text": "import sys; sys.exit('in words')",
    "tuple": "raise SystemExit((1, 2))",
    "raise": "def f():\n    return 1 / 0\nf()",
    "cause": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('two') from e",
    "context": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['key']",
    "syntax": "x = (1,\ny = 2",
    "tabs": "if 1:\n\tx = 1\n        y = 2",
    "encoding": "# -*- coding: latin-1 -*-\nprint(ascii('\xff'))",
    "hook": "import sys\nsys.excepthook = lambda *a: print(a[0], a[2].tb_lineno)\n1 / 0",
    "hook after": "import atexit, sys\n"
    "atexit.register(lambda: print(sys.excepthook is sys.__excepthook__))\n1 / 0",
    "post mortem": "import atexit, sys\n"
    "atexit.register(lambda: print(sys.last_traceback.tb_frame.f_code.co_name))\n1 / 0",
    "no stdout": "import sys; del sys.stdout",
    "no stderr": "import sys; del sys.stderr; sys.exit(3)",
    "at exit": "import atexit; atexit.register(print, 'bye'); raise SystemExit(3)",
    "file at exit": "import atexit; atexit.register(lambda: print('__file__' in globals()))",
    "future": "x: undefined = 1\nfrom __future__ import annotations",
    "thread": THREAD,
    "thread, raise": THREAD + "import sys; sys.exit('in words')",
    "at once": "import os; print('lost'); os._exit(5)",
    "interrupt": "raise KeyboardInterrupt",
    "terminated": "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)",
    "destructor": "class A:\n    def __del__(self):\n        print('del', __name__)\na = A()",
    "fork": "import os, sys\nif os.fork() == 0:\n    sys.exit(4)\nprint(os.wait()[1])",
    "warning": "import warnings; warnings.warn('w', DeprecationWarning)\nprint(warnings is 1)",
}


@pytest.mark.parametrize("way", [("s.py",), ("-m", "s")], ids=["script", "module"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_ends_as_under_python(tmp_path: Path, ending: str, way: tuple[str, ...]) -> None:
    encoding = "latin-1" if ending == "encoding" else "utf-8"
    (tmp_path / "s.py").write_text(ENDINGS[ending] + "\n", encoding=encoding)
    assert_same(both(tmp_path, *way))


@pytest.mark.parametrize("way", [("s.py",), ("-m", "s")], ids=["script", "module"])
def test_exception_hook_that_the_script_deletes(tmp_path: Path, way: tuple[str, ...]) -> None:
    """All frames are reported then, ours too."""
    (tmp_path / "s.py").write_text("import sys; del sys.excepthook\n1 / 0\n")
    for result in both(tmp_path, *way):
        lines = result.stderr.splitlines()
        assert (lines[0], lines[-1]) == MISSING_HOOK


MISSING_HOOK = ("sys.excepthook is missing", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize("way", [("s.py",), ("-m", "s")], ids=["script", "module"])
@pytest.mark.parametrize("ending", ["none", "text", "raise", "thread, raise"])
def test_order_of_output_and_errors(tmp_path: Path, ending: str, way: tuple[str, ...]) -> None:
    """In one pipe: python empties a script's stdout before it reports how the script ended."""
    (tmp_path / "s.py").write_text("print('first', end=' ')\n" + ENDINGS[ending] + "\n")
    ours, stock = both(tmp_path, *way, stderr=subprocess.STDOUT)
    assert ours.stdout == stock.stdout


@pytest.mark.parametrize("way", [("s.py",), ("-m", "s")], ids=["script", "module"])
def test_reader_that_has_gone(tmp_path: Path, way: tuple[str, ...]) -> None:
    (tmp_path / "s.py").write_text("print('unread')\n")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        results = both(tmp_path, *way, stdout=pipe)
    assert results[1].returncode == 120
    assert_same(results)


@pytest.mark.parametrize("way", [("s.py",), ("-m", "s")], ids=["script", "module"])
@pytest.mark.parametrize("text", ["x = 1", "raise SystemExit(3)", "1 / 0"])
def test_prompt_after_the_script(tmp_path: Path, text: str, way: tuple[str, ...]) -> None:
    """python -i: the prompt has the script's names, and an end is not an error."""
    (tmp_path / "s.py").write_text(f"y = 2\n{text}\n")
    arguments = (*way, "--flag")
    ours = run((STOCK[0], "-i", *OURS[1:]), *arguments, folder=tmp_path, stdin="print(y)\n")
    stock = run((STOCK[0], "-i"), *arguments, folder=tmp_path, stdin="print(y)\n")
    assert stock.stdout == "2\n"
    assert (ours.stdout, ours.returncode) == (stock.stdout, stock.returncode)
    if "SystemExit" not in text:  # its report, which no hook sees, has our frames
        assert ours.stderr == stock.stderr


def test_interrupt_ends_as_under_python(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a shell's jobs
        "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    for arguments in (("s.py",), ("-m", "s")):
        results = both(tmp_path, *arguments)
        assert results[1].returncode == -signal.SIGINT
        assert_same(results)


WORKERS = """\
import multiprocessing, pickle, sys
class Number:
    def __init__(self, value):
        self.value = value
def work(pickled):
    value = pickle.loads(pickled).value
    return Number(value * value), sys.modules[Number.__module__].__file__
if __name__ == '__main__':
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        for number, file in pool.map(work, [pickle.dumps(Number(x)) for x in range(4)]):
            print(type(number) is Number, number.value, file)
"""


@pytest.mark.parametrize("way", [("s.py",), ("s.pyc",), ("-m", "s")], ids=["py", "pyc", "module"])
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_workers_unpickle_what_the_script_defines(
    tmp_path: Path, method: str, way: tuple[str, ...]
) -> None:
    """Workers import the script again from `__main__`'s file or spec, as under python."""
    (tmp_path / "s.py").write_text(WORKERS)
    py_compile.compile(str(tmp_path / "s.py"), cfile=str(tmp_path / "s.pyc"))
    results = both(tmp_path, *way, method)
    if way != ("s.pyc",) or method == "fork":  # no python starts other workers of byte code
        assert "True 9" in results[1].stdout
        assert_same(results)
    assert results[0].returncode == results[1].returncode
