"""The fuzz targets on their corpora, for every change; that each notices a slip is shown once a
week. `make fuzz` looks further."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from tests.fuzz.targets import ROOT, TARGETS, build, corpus_file, replay

from .building import need, succeed

FUZZER = f"libclang_rt.fuzzer-{platform.machine()}.a"


@pytest.fixture(autouse=True)
def clang_can_fuzz() -> None:
    found = Path(succeed(need("clang++"), f"-print-file-name={FUZZER}").strip())
    if not found.is_absolute():
        pytest.skip("this clang comes without libFuzzer")


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_passes(name: str, tmp_path: Path) -> None:
    done = replay(build(name, tmp_path), name, tmp_path)
    assert done.returncode == 0, done.stderr
    inputs = len(corpus_file(name).read_text().splitlines())
    assert f"{inputs} files found" in done.stderr


@pytest.mark.long  # a build for each
@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_notices_a_slip(name: str, tmp_path: Path) -> None:
    csrc = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", csrc)
    file, text, slip = TARGETS[name].slip
    original = (csrc / file).read_text()
    assert text in original, "the slip no longer fits; choose another one"
    (csrc / file).write_text(original.replace(text, slip, 1))
    done = replay(build(name, tmp_path, csrc), name, tmp_path)
    assert done.returncode != 0
    assert "ERROR: libFuzzer" in done.stderr or "AddressSanitizer" in done.stderr, done.stderr
