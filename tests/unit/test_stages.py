"""Continuous integration forgets nothing: every test is in a stage of .ci/stages, and the table in
CONTRIBUTING.md says which stage runs when."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CLIENTS = Path("tests/clients")
NEWEST = "yolov5 7.0.14"  # whose the tests are that name no client


class Stage(NamedTuple):
    when: str
    name: str
    command: str

    def words(self) -> list[str]:
        return shlex.split(self.command)

    def values(self, option: str) -> list[str]:
        words = self.words()
        return [after for word, after in itertools.pairwise(words) if word == option]

    def runs(self, path: Path) -> bool:
        """True where the command names the path or a folder of it, and does not ignore it."""
        covers = {str(path), *map(str, path.parents)}
        return not covers & {*self.values("--ignore")} and bool(covers & {*self.words()})


def stages() -> list[Stage]:
    lines = (ROOT / ".ci" / "stages").read_text().splitlines()
    return [Stage(*line.split(None, 2)) for line in lines if line and not line.startswith("#")]


def files_of_tests(under: str = "tests") -> list[Path]:
    return sorted(file.relative_to(ROOT) for file in (ROOT / under).rglob("test_*.py"))


def test_each_day_has_its_stages() -> None:
    assert {stage.when for stage in stages()} == {"every", *"0123456"}


def test_every_test_is_run() -> None:
    """The quick ones for every change, those marked `long` on a day."""
    for file in files_of_tests():
        chosen = {
            (stage.when, mark)
            for stage in stages()
            for mark in stage.values("-m")
            if stage.runs(file) and not stage.values("-k")
        }
        if CLIENTS not in file.parents:
            assert {("every", "not long"), ("0", "long")} <= chosen, file


def test_every_client_test_is_run_once() -> None:
    """Of each file the tests of each client, and its other tests with the newest one's."""
    clients = runpy.run_path(str(ROOT / CLIENTS / "releases.py"))["CLIENTS"]
    files = files_of_tests(str(CLIENTS))
    run = Counter(
        (file, client)
        for stage in stages()
        for client in stage.values("--client")
        for file in files
        if stage.runs(file)
    )
    for file, client in itertools.product(files, clients):
        if client == NEWEST or "in CLIENTS" in (ROOT / file).read_text():
            assert run[file, client] == 1, (file, client)


def test_every_check_of_the_makefile_is_run() -> None:
    targets = re.findall(r"^([a-z-]+): ##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    run = {word for stage in stages() for word in re.findall(r"\bmake ([a-z-]+)", stage.command)}
    # What these run is stages of their own; the rest checks nothing, or runs the stages.
    elsewhere = {"help", "evidence", "test", "verify", "clients", "bench", "clean", "all-checks"}
    assert sorted(targets) == sorted(run | elsewhere)


def test_the_documentation_has_the_same_stages() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    told = re.findall(r"^\| (every|day \d)[ a-z]* \| `([a-z]+)` \|", text, re.MULTILINE)
    assert told == [(s.when if s.when == "every" else f"day {s.when}", s.name) for s in stages()]
