"""The documents: every link leads somewhere, and every document that the code names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CODE = ("benchmarks", "csrc", "cuda", "examples", "tests", "tools", "yolov5_utils")
TEXT = {".c", ".cu", ".cuh", ".h", ".inc", ".py", ".pyi", ".sh"}


def anchors(document: Path) -> set[str]:
    """What the headings of a document are called in links."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        path, _, anchor = link.partition("#")
        if not path.startswith("http"):
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_documents_that_are_named_are_there() -> None:
    files = [ROOT / "Makefile", *DOCUMENTS]
    files += [path for name in CODE for path in (ROOT / name).rglob("*") if path.suffix in TEXT]
    named = {name for file in files for name in re.findall(r"docs/[\w-]+\.md", file.read_text())}
    assert "docs/gpu.md" in named
    assert not [name for name in named if not (ROOT / name).is_file()]
