"""Runs every command of tools/evidence.txt and writes its figure into docs/reliability.md:
tools/evidence.py [NAME...]

A figure of a command that is not run again, or fails, stays with the date, commit and machine it is
of. Hours, if all of them run.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tools" / "evidence.txt"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"
HEAD = "| what | result | day, commit, time, machine | command |\n|---|---|---|---|\n"


class Row(NamedTuple):
    name: str
    result: str
    when: str
    command: str

    def __str__(self) -> str:
        command = f"`{self.command}`" if self.command else ""
        return f"| {self.name} | {self.result} | {self.when} | {command} |\n"


def commands() -> dict[str, str]:
    lines = [line.strip() for line in LIST.read_text().splitlines()]
    pairs = [line.split("|", 1) for line in lines if line and not line.startswith("#")]
    return {name.strip(): command.strip() for name, command in pairs}


def rows(page: str) -> dict[str, Row]:
    """The figures that the page has already."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    found = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| `(.+?)` \|$", table, re.MULTILINE)
    return {name: Row(name, result, when, command) for name, result, when, command in found}


def commit() -> str:
    """The commit that is checked out; a copy without a repository has none."""
    command = ("git", "rev-parse", "--short", "HEAD")
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "no commit"


def machine() -> str:
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    name = cpu[1] if cpu else platform.machine()
    return f"{os.cpu_count()} × {name}"


def show(name: str, command: str) -> Row | None:
    """Runs a command, whose output passes through; its figure, or None where it fails."""
    print(f"--- {name}: {command}", flush=True)
    begin, of = time.monotonic(), commit()  # which may be another one at the end
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # this python
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        text=True,
        stdout=subprocess.PIPE,
    )
    figure = None
    for line in process.stdout or ():
        print(line, end="", flush=True)
        found = re.match(r"evidence: [^:]*: (.*)", line)
        figure = found[1] if found else figure
    if process.wait() != 0 or figure is None:
        return None
    seconds = time.monotonic() - begin
    taken = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    when = f"{time.strftime('%Y-%m-%d')}, {of}, {taken}, {machine()}"
    return Row(name, figure.replace("|", "/"), when, command.replace("|", "/"))


def write(page: str, known: dict[str, Row]) -> None:
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    table = HEAD + "".join(str(known[name]) for name in commands() if name in known)
    PAGE.write_text(f"{before}{BEGIN}\n{table}{END}{after}")


def main(names: list[str]) -> int:
    wanted = {name: command for name, command in commands().items() if not names or name in names}
    failed = []
    for name, command in wanted.items():
        row = show(name, command)
        if row is None:
            failed.append(name)
            continue
        page = PAGE.read_text()
        write(page, {**rows(page), name: row})
    print(f"evidence: {len(wanted) - len(failed)} shown, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
