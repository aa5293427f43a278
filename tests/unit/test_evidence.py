"""docs/reliability.md tells what the commands of tools/evidence.txt have shown, no more."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool() -> ModuleType:
    return load("evidence")


def test_every_explained_mutant_is_one() -> None:
    mutants = load("mutants")
    assert mutants.explanations() <= {mutant.key() for mutant in mutants.all_mutants([])}
    assert len(mutants.explanations()) >= 2


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
