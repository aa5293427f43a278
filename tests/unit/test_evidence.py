"""docs/reliability.md tells what the commands of tools/evidence.txt have shown, no more."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evidence", ROOT / "tools" / "evidence.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_is_of_a_command(tool: ModuleType) -> None:
    shown = {row.name: row.command for row in tool.rows(tool.PAGE.read_text()).values()}
    assert shown.items() <= tool.commands().items()
    assert len(tool.commands()) >= 4


def test_a_figure_is_what_a_command_says_last(tool: ModuleType) -> None:
    command = "echo evidence: a: 1 call; echo between; echo evidence: a: 2 calls"
    row = tool.show("a", command)
    assert (row.name, row.result, row.command) == ("a", "2 calls", command)
    assert tool.show("a", "echo evidence: a: 2 calls; exit 1") is None
    assert tool.show("a", "echo nothing") is None


def test_a_page_keeps_what_was_not_run_again(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(tool, "commands", lambda: {"a": "echo a", "b": "echo b"})
    page = f"before\n{tool.BEGIN}\n{tool.END}\nbehind\n"
    known = {name: tool.Row(name, f"1 {name}", "today", f"echo {name}") for name in "ab"}
    tool.write(page, known)
    written = tool.PAGE.read_text()
    assert tool.rows(written) == known
    assert written.startswith("before\n")
    assert written.endswith("behind\n")
    tool.write(written, {**tool.rows(written), "a": known["a"]._replace(result="2 a")})
    assert [row.result for row in tool.rows(tool.PAGE.read_text()).values()] == ["2 a", "1 b"]
