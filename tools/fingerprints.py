"""Prints the digests by which the overlay knows the hot callables of clients' torch_utils files.

    python tools/fingerprints.py FILE...           of these files
    python tools/fingerprints.py --git REPOSITORY  of every version of utils/torch_utils.py there

One line for each text of each callable: its digest, whether overlay/known_callables.py knows it,
and the files or commits that have it. No source is printed or kept.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import decode_source
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from yolov5_utils.overlay.fingerprint import callables_of, digest
from yolov5_utils.overlay.known_callables import HOT, Left

FILE = "utils/torch_utils.py"


def versions(repository: str) -> Iterator[tuple[str, str]]:
    """(date and commit, text) of the file's versions, oldest first."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", repository, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    lines = git("log", "--reverse", "--format=%h %ad", "--date=short", "--", FILE).splitlines()
    for commit, date in map(str.split, lines):
        yield f"{date} {commit}", git("show", f"{commit}:{FILE}")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--git"] and len(arguments) == 2:
        texts = list(versions(arguments[1]))
    elif arguments and not arguments[0].startswith("-"):
        texts = [(name, decode_source(Path(name).read_bytes())) for name in arguments]
    else:
        sys.exit(__doc__)
    found: dict[tuple[str, str], list[str]] = {}
    for label, text in texts:
        for name, definition in callables_of(ast.parse(text)).items():
            if name in HOT and isinstance(definition, ast.FunctionDef):
                found.setdefault((name, digest(definition)), []).append(label)
    for (name, text), labels in sorted(found.items()):
        form = HOT[name].forms.get(text)
        known = "unknown" if form is None else "left" if isinstance(form, Left) else "known"
        others = f" to {labels[-1]} ({len(labels)})" if len(labels) > 1 else ""
        print(f"{name:<18} {text}  {known:<7}  {labels[0]}{others}")


if __name__ == "__main__":
    main(sys.argv[1:])
