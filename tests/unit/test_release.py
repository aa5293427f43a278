"""What a release goes by: one version, texts that name what can be installed, pinned actions."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest

import yolov5_utils
from yolov5_utils import install_hint

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
CHECK = runpy.run_path(str(ROOT / "tools" / "check_release.py"))
DATED = "# Changelog\n\n## [1.2.3] - 2026-01-31\n\n## [1.2.2] - 2025-12-31\n"


def texts() -> list[Path]:
    """All that users read."""
    code = [*(ROOT / "yolov5_utils").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    return [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *code]


def test_version_and_changelog_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert CHECK["problems"](yolov5_utils.__version__, changelog, None) == []


@pytest.mark.parametrize(
    ("version", "changelog", "tag", "words"),
    [
        ("1.2.3", DATED, "v1.2.3", None),
        ("1.2.3", DATED.replace("2026-01-31", "unreleased"), None, None),
        ("1.2.3", DATED.replace("2026-01-31", "unreleased"), "v1.2.3", "no date for 1.2.3"),
        ("1.2.4", DATED, None, "begins with 1.2.3, and the package is 1.2.4"),
        ("1.2.3", DATED, "v1.2.4", "the tag v1.2.4 is not v1.2.3"),
        ("1.2.3", "", "v1.2.3", "no section"),
    ],
)
def test_what_a_release_must_have(
    version: str, changelog: str, tag: str | None, words: str | None
) -> None:
    told = CHECK["problems"](version, changelog, tag)
    assert told == [] if words is None else len(told) == 1 and words in told[0]


def test_texts_name_what_can_be_installed() -> None:
    """The name on the index before it is there, nor a path once it is."""
    command = re.compile(rf"pip install [^`'\n]*{install_hint.NAME}")
    named = [path.name for path in texts() if command.search(path.read_text())]
    assert bool(named) == install_hint.ON_INDEX, named
    assert ("it is not on PyPI yet" in (ROOT / "README.md").read_text()) != install_hint.ON_INDEX


@pytest.mark.parametrize("on_index", (False, True))
def test_a_remedy_can_be_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_index: bool
) -> None:
    monkeypatch.setattr(install_hint, "ON_INDEX", on_index)
    checkout = tmp_path / "with space"
    (checkout / "yolov5_utils").mkdir(parents=True)
    monkeypatch.setattr(install_hint, "__file__", str(checkout / "yolov5_utils" / "x.py"))
    assert (install_hint.source() == install_hint.NAME) == on_index
    (checkout / "pyproject.toml").touch()
    (checkout / "yolov5_utils" / "_C.abi3.so").touch()
    assert install_hint.source() == f"'{checkout}'"
    told = install_hint.for_broken_extension(ImportError("no such symbol"))
    assert told.endswith(f"pip install --force-reinstall --no-deps '{checkout}'")


@pytest.mark.parametrize("name", ("ci", "release"))
def test_actions_are_pinned(name: str) -> None:
    used = re.findall(r"uses: (\S+)(.*)", (WORKFLOWS / f"{name}.yml").read_text())
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v[\d.]+", comment), action


def test_a_pushed_tag_publishes_and_nothing_else_may() -> None:
    before, _, publish = (WORKFLOWS / "release.yml").read_text().partition("\n  publish:")
    assert re.search(r"^    if: github.event_name == 'push'$", publish, re.MULTILINE)
    assert re.search(r"^  push:\n    tags: ", before, re.MULTILINE)
    assert "id-token: write" in publish
    assert "write" not in before


def step(after: str) -> str:
    """The commands of the step of release.yml in which `after` stands."""
    text = (WORKFLOWS / "release.yml").read_text().partition(after)[2]
    found = re.match(r".*\n +run: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", text)
    return found[1] or found[2]


def run_step(after: str, folder: Path, **environment: str) -> bool:
    """As GitHub runs them: True where they succeed."""
    command = ("bash", "-e", "-c", step(after))
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, check=False)
    return done.returncode == 0


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with what two machines have made, and the digests that both have told."""
    told = tmp_path / "told"
    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "yolov5_torch_utils-1.tar.gz").write_text("s")
    for machine, files in (("x86_64", "*"), ("aarch64", "*.whl")):
        wheel = dist / f"yolov5_torch_utils-1-{machine}.whl"
        wheel.write_text(machine)
        environment = {"MACHINE": machine, "FILES": files, "GITHUB_OUTPUT": str(told)}
        assert run_step("id: made", dist, **environment)
        wheel.rename(tmp_path / wheel.name)  # the other machine does not have it
    for wheel in tmp_path.glob("*.whl"):
        wheel.rename(dist / wheel.name)
    lines = [line.partition("=") for line in told.read_text().splitlines()]
    return dist, {machine.upper(): digests for machine, _, digests in lines}


def publishes(dist: Path, digests: dict[str, str]) -> bool:
    return run_step("name: what was made", dist, **digests)


def test_what_was_made_is_published(made: tuple[Path, dict[str, str]]) -> None:
    dist, digests = made
    assert len(list(dist.iterdir())) == 3
    assert publishes(dist, digests)


@pytest.mark.parametrize("name", ("x86_64.whl", "aarch64.whl", "1.tar.gz"))
def test_nothing_else_is_published(made: tuple[Path, dict[str, str]], name: str) -> None:
    dist, digests = made
    (file,) = dist.glob(f"*{name}")
    content = file.read_text()
    for wrong in (lambda: file.write_text("other"), file.unlink):
        wrong()
        assert not publishes(dist, digests)
    file.write_text(content)
    (dist / f"new-{name}").touch()
    assert not publishes(dist, digests)


@pytest.mark.parametrize("machine", ("X86_64", "AARCH64"))
def test_a_machine_that_tells_nothing_publishes_nothing(
    made: tuple[Path, dict[str, str]], machine: str
) -> None:
    dist, digests = made
    assert not publishes(dist, {**digests, machine: ""})
