"""Holds that version, changelog and tag agree: python tools/check_release.py [TAG]

Without a tag the newest section of the changelog may still say "unreleased"."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(version: str, changelog: str, tag: str | None) -> list[str]:
    """What is wrong, a sentence each."""
    found = re.search(r"^## \[(.+)\] - (.+)$", changelog, re.MULTILINE)
    if found is None:
        return ["CHANGELOG.md has no section like '## [1.2.3] - 2026-01-31'"]
    told = []
    if found[1] != version:
        told.append(f"CHANGELOG.md begins with {found[1]}, and the package is {version}")
    if tag is None:
        return told
    if tag != f"v{version}":
        told.append(f"the tag {tag} is not v{version}, the package's version")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", found[2]):
        told.append(f"CHANGELOG.md has no date for {found[1]}, but {found[2]!r}")
    return told


def main(tag: str | None = None) -> None:
    """Prints the version, or exits with what is wrong."""
    text = (ROOT / "yolov5_utils" / "__init__.py").read_text()
    version = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]
    told = problems(version, (ROOT / "CHANGELOG.md").read_text(), tag)
    if told:
        sys.exit("\n".join(told))
    print(f"version {version}")


if __name__ == "__main__":
    main(*sys.argv[1:])
