"""What the overlay says in a client's log: once, where the user looks, and else nothing."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Loader, ours, record, replaceable, run
from synthetic import edited, text_of

from yolov5_utils import overlay
from yolov5_utils.overlay import patches

ROOT = Path(__file__).parents[2]
FORK = edited("def prune(model, amount=0.3):", "def prune_all(model, amount=0.3):")


def test_one_line_in_the_clients_own_log(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    write(text_of("7.0"), package="yolov5.utils")
    write(text_of("5.0"))
    overlay.install()
    with caplog.at_level(logging.INFO, "client"):
        module = importlib.import_module("utils.torch_utils")
        importlib.import_module("yolov5.utils.torch_utils")
        assert caplog.records == []  # the client has said nothing yet
        module.logger.info("first")
    line, first = caplog.records
    assert first.getMessage() == "first"
    assert line.name == "client"
    assert line.levelno == logging.INFO
    names = ", ".join(replaceable("5.0"))
    assert f"{names} of utils.torch_utils replaced" in line.getMessage()


def test_yolov5_and_ultralytics_have_a_line_each(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """As on YOLOv5's main: its file imports ultralytics', whose functions it hands on."""
    write(text_of("u8.3"), package="ultralytics.utils")
    head, _, body = text_of("7.0").partition("def torch_distributed_zero_first")
    body = body.replace("def scale_img(", "def shrink_img(").replace("def time_sync(", "def sync(")
    for name in ("shrink_img", "sync"):
        start = body.index(f"def {name}(")
        body = body[:start] + body[body.index("\n\n\n", start) + 3 :]
    imports = "from ultralytics.utils.torch_utils import scale_img, time_sync\n\n\n"
    write(f"{head}{imports}def torch_distributed_zero_first{body}")
    overlay.install()
    with caplog.at_level(logging.INFO, "client"):
        module = importlib.import_module("utils.torch_utils")
        module.LOGGER.info("first")
    other = sys.modules["ultralytics.utils.torch_utils"]
    assert module.scale_img is other.scale_img
    assert ours(module.scale_img)
    assert ours(module.prune)
    texts = [line.getMessage() for line in caplog.records]
    assert texts[2:] == ["first"]
    assert "of ultralytics.utils.torch_utils replaced" in texts[0]
    assert "of utils.torch_utils replaced" in texts[1]
    records = {record.module: record for record in overlay.status()}
    left = records["utils.torch_utils"].left
    assert left["scale_img"] == "is ultralytics.utils.torch_utils's"
    overlay.uninstall()
    assert not ours(module.scale_img)


@pytest.mark.parametrize("name", ["LOGGER", "JOURNAL"])
def test_a_problem_is_said(
    patched: Loader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """In the client's log, where it has one under a name that is known; else on stderr."""
    monkeypatch.setattr(patches, "apply", lambda *_: 1 / 0)
    module = patched(text=text_of("7.0").replace("LOGGER", name))
    assert caplog.records == []
    vars(module)[name].warning("first")
    *lines, first = caplog.records
    assert first.getMessage() == "first"
    problem = "ZeroDivisionError"
    if name == "LOGGER":
        [line] = lines
        assert (line.name, line.levelno) == ("client", logging.WARNING)
        assert f"utils.torch_utils runs as it is: {problem}" in line.getMessage()
        assert capfd.readouterr().err == ""
    else:
        assert lines == []
        said = capfd.readouterr().err
        assert said.startswith(f"yolov5_utils: utils.torch_utils runs as it is: {problem}")
    assert problem in record().left["module"]


@pytest.mark.parametrize(("rank", "lines"), [("-1", 1), ("0", 1), ("1", 0), ("17", 0)])
def test_only_the_first_rank_logs(
    patched: Loader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rank: str,
    lines: int,
) -> None:
    monkeypatch.setenv("RANK", rank)
    with caplog.at_level(logging.INFO, "client"):
        patched().LOGGER.info("first")
    assert len(caplog.records) == lines + 1


def test_of_other_projects_nothing_is_said(
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A package's own module of that name, without an EMA; and STRICT is not about it."""
    monkeypatch.setenv("YOLOV5_UTILS_STRICT", "1")
    overlay.install()
    write("import logging\nlogger = logging.getLogger('client')\n", package="vendored.utils")
    with caplog.at_level(logging.DEBUG):
        importlib.import_module("vendored.utils.torch_utils").logger.warning("first")
    assert [line.getMessage() for line in caplog.records] == ["first"]
    assert capfd.readouterr() == ("", "")
    assert record().left["module"].endswith(": it defines no class ModelEMA")


def test_a_line_of_a_client_that_comes_later_is_not_lost_by_an_unknown_file(
    client: Loader, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    overlay.install()
    with caplog.at_level(logging.INFO, "client"):
        client(text=FORK)
        write(text_of("7.0"), package="yolov5.utils")
        importlib.import_module("yolov5.utils.torch_utils").LOGGER.info("first")
    lines = [line.getMessage() for line in caplog.records]
    assert any("of yolov5.utils.torch_utils replaced" in line for line in lines)


def test_a_log_that_is_set_up_later_has_the_line_before_its_first(
    patched: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    """As in 5.0 and 6.0, whose commands set up their log when all is imported."""
    logger = patched("5.0").logger
    logger.warning("too early")
    logger.info("not shown")
    with caplog.at_level(logging.INFO, "client"):
        logger.info("first")
        logger.info("second")
    early, line, *rest = (line.getMessage() for line in caplog.records)
    assert early == "too early"
    assert "of utils.torch_utils replaced" in line
    assert rest == ["first", "second"]
    assert logger.filters == []


def test_other_filters_of_the_log_are_asked_as_always(
    patched: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    logger = patched("5.0").logger

    def dull(record: logging.LogRecord) -> bool:
        return record.getMessage() != "dull"

    logger.addFilter(dull)
    with caplog.at_level(logging.INFO, "client"):
        logger.info("dull")
    logger.removeFilter(dull)
    [line] = caplog.records
    assert "replaced" in line.getMessage()


def test_what_waits_to_be_said_is_forgotten_with_the_overlay(
    client: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    overlay.install()
    logger = client("5.0").logger
    assert len(logger.filters) == 1
    overlay.uninstall()
    assert logger.filters == []
    with caplog.at_level(logging.INFO, "client"):
        logger.info("first")
    assert [line.getMessage() for line in caplog.records] == ["first"]


def test_the_fork_server_that_imports_the_main_module_says_nothing(
    patched: Loader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no child by name, and from Python 3.13 on does import the main module."""
    monkeypatch.setitem(sys.modules, "__mp_main__", ModuleType("__mp_main__"))
    with caplog.at_level(logging.INFO, "client"):
        assert ours(patched().sparsity)
    assert caplog.records == []


# A log without a handler, which is set up after the import: what 5.0 and 6.0 do, in a process that
# no test framework has given handlers.
LATE = """
import logging
import yolov5_utils.auto
from utils.torch_utils import LOGGER
LOGGER.info("not shown")
logging.basicConfig(format="%(message)s", level=logging.INFO)
LOGGER.info("first")
"""
WORKERS = """
import logging, multiprocessing, sys
logging.basicConfig(format="%(message)s", level=logging.INFO)
import yolov5_utils.auto
from utils.torch_utils import LOGGER, sparsity
def patched(_):
    LOGGER.info("working")
    return hasattr(sparsity, "__yolov5_utils__")
def main(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        print(pool.map(patched, range(4), chunksize=1))
    LOGGER.info("done")
if __name__ == "__main__":
    main(sys.argv[1])
"""


def run_beside(write: Callable[..., Path], code: str, *arguments: str) -> tuple[str, str]:
    """What Python prints with these arguments, beside a client and `code` in train.py."""
    folder = write(text_of("7.0")).parents[1]
    (folder / "train.py").write_text(code)
    done = run(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_log_without_handlers_until_later(write: Callable[..., Path]) -> None:
    line, first = run_beside(write, LATE, "train.py")[1].splitlines()
    assert "of utils.torch_utils replaced" in line
    assert first == "first"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "imported"), [("spawn", False), ("spawn", True), ("forkserver", False)]
)
def test_workers_are_patched_and_do_not_say_it_again(
    write: Callable[..., Path], method: str, imported: bool
) -> None:
    """Also where they have no main module to import, as those of a notebook."""
    program = ("-c", f"import train; train.main({method!r})") if imported else ("train.py", method)
    stdout, stderr = run_beside(write, WORKERS, *program)
    assert stdout == "[True, True, True, True]\n"
    *workers, line, last = stderr.splitlines()
    assert (workers, last) == (["working"] * 4, "done")
    assert "of utils.torch_utils replaced" in line
