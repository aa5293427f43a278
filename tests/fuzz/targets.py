"""The fuzz targets: what each is made of, how it is built, and what its corpus is. clang's
libFuzzer drives them; AddressSanitizer and UndefinedBehaviorSanitizer watch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tests.native.building import clean_environment, compile_flags, run, succeed

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
NATIVE = ROOT / "tests" / "native"
# -O1: as fast as -O3 under the sanitizers, in a third of the time to build.
FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Counts edges, which inputs are to reach. What is compared with what says nothing about the bytes
# of an input, and takes half of the time to note.
GUIDED = ("-fsanitize=fuzzer", "-fno-sanitize-coverage=trace-cmp")
ORACLE_FLAGS = ("-O2", "-g")  # nobody looks for mistakes there
# Python's own allocations are not ours to judge. Memory that is free stays so for long enough to
# see it used, and is then used again: new pages take longer than what is computed in them.
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:handle_abort=1:quarantine_size_mb=4"}


class Target(NamedTuple):
    """One program: what it is linked of beside its own file, and what it is shown to notice."""

    code: tuple[str, ...]  # of csrc, without suffix: whose edges are counted
    beside: tuple[str, ...] = ()  # likewise, but only linked
    tests: tuple[str, ...] = ()  # of tests/native and of this folder
    python: bool = False  # wants Python's headers and library
    longest: int = 512  # bytes of an input
    slip: tuple[str, str, str] = ("", "", "")  # file of csrc, its text, what it becomes
    # Sizes of csrc from which on something else is done, made smaller: small inputs reach all.
    smaller: Mapping[str, Mapping[str, int]] = MappingProxyType({})


CORE = ("core/levels", "core/parallel", "core/huge_pages")
PYTHON = ("core/levels", "python/errors", "python/borrowed")
PRUNE = {
    "core/prune.c": {"SCRATCH_BYTES": 4096, "BLOCK": 512, "FEW_KEYS": 128, "LARGE_BYTES": 4096}
}
TARGETS = {
    "arguments": Target(
        ("python/bindings",),
        ("core/y5", *PYTHON),
        python=True,
        longest=64,
        slip=("python/bindings.c", "if (values[index] != NULL) {", "if (false) {"),
    ),
    "cutter": Target(
        ("core/parallel",),
        ("core/levels",),
        slip=("core/parallel.c", "begin > starts[i] ? begin - starts[i] : 0", "0"),
    ),
    "dltensor": Target(
        ("core/y5", "core/sparsity"),  # and python/tensor, which is included
        ("core/parallel", "python/questions", *PYTHON),
        python=True,
        slip=("python/tensor.c", "tensor->shape[i] < 0)", "tensor->shape[i] < -1)"),
    ),
    "overlap": Target(
        ("core/overlap",),
        CORE,
        slip=(
            "core/overlap.c",
            "range->end > written_until ? range->end : written_until",
            "range->end",
        ),
    ),
    "prune": Target(
        ("core/prune",),
        ("core/prune_ties", *CORE),
        ("prune_oracle.c",),
        longest=1024,
        slip=("core/prune_apply.inc", "wanted < last.equal", "wanted <= last.equal"),
        smaller=PRUNE,
    ),
    "scale_img": Target(
        ("core/scale_img",),
        ("core/y5", *CORE),
        ("resize_oracle.c",),
        slip=("core/scale_img.inc", "place < 0.0F ? 0.0F : place", "place"),
        smaller={"core/scale_img.c": {"TILE_COLUMNS": 64, "TASK_ELEMENTS": 512}},
    ),
    "ties": Target(
        ("core/prune_ties",),
        ("core/prune", *CORE),
        ("prune_oracle.c", "nth_element.cpp"),
        slip=("core/prune_ties.c", "cut <= nth", "cut < nth"),
        smaller=PRUNE,
    ),
}


def make_smaller(target: Target, csrc: Path, copy: Path) -> Path:
    """A copy of csrc with the target's smaller sizes."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(csrc, copy)
    for file, sizes in target.smaller.items():
        text = (copy / file).read_text()
        for size, value in sizes.items():
            text, found = re.subn(rf"(?m)^(#define {size}) .*", rf"\1 {value}", text)
            assert found == 1, f"{file} has no {size}"
        (copy / file).write_text(text)
    return copy


def build(name: str, into: Path, csrc: Path = ROOT / "csrc") -> Path:
    """The program of a target, made in the folder `into`."""
    target = TARGETS[name]
    into.mkdir(parents=True, exist_ok=True)
    csrc = make_smaller(target, csrc, into / "smaller")
    flags = compile_flags()
    flags += [f"-I{folder}" for folder in (csrc, ROOT / "cuda", NATIVE, HERE)]
    library: list[str] = []
    if target.python:
        flags.append(f"-I{sysconfig.get_paths()['include']}")
        library = python_library()
    guided = [*(csrc / f"{stem}.c" for stem in target.code), HERE / f"fuzz_{name}.c"]
    watched = [*guided, *(csrc / f"{stem}.c" for stem in target.beside)]
    oracles = [folder / file for file in target.tests for folder in (NATIVE, HERE)]
    oracles = [NATIVE / "support.c", *(source for source in oracles if source.exists())]

    def compile_one(source: Path) -> Path:
        made = into / f"{source.stem}.o"
        compiler, language = ("clang", flags)
        if source.suffix == ".cpp":
            compiler, language = "clang++", [f for f in flags if f != "-std=c11"]
        more = FLAGS if source in watched else ORACLE_FLAGS
        guide = GUIDED if source in guided else ()
        succeed(compiler, *language, *more, *guide, "-w", "-c", source, "-o", made)
        return made

    with ThreadPoolExecutor(cpu_count()) as threads:
        objects = list(threads.map(compile_one, [*watched, *oracles]))
    program = into / f"fuzz_{name}"
    library += ["-lm", "-ldl", "-pthread"]
    succeed("clang++", *FLAGS, GUIDED[0], *objects, "-o", program, *library)
    return program


def python_library() -> list[str]:
    """What links this Python's library, with which a program embeds it."""
    value = sysconfig.get_config_var
    folders = [value("LIBDIR"), value("LIBPL")]
    return [
        *(f"-L{folder}" for folder in folders),
        f"-Wl,-rpath,{folders[0]}",
        f"-lpython{value('LDVERSION')}",
        "-Wl,-export-dynamic",
        *(value("LIBS") or "").split(),
        *(value("SYSLIBS") or "").split(),
    ]


def environment() -> dict[str, str]:
    """For running a program; an embedded interpreter finds its library by where this one is."""
    return clean_environment(**OPTIONS, PYTHONHOME=sys.base_prefix)


def corpus_file(name: str) -> Path:
    """The inputs that are kept: a line of hexadecimal digits each."""
    return HERE / "corpus" / f"{name}.txt"


def unpack_corpus(name: str, into: Path) -> Path:
    """The kept inputs as the files that libFuzzer reads, among others that are there."""
    into.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(corpus_file(name).read_text().splitlines()):
        (into / f"kept-{number}").write_bytes(bytes.fromhex(line))
    return into


def keep_corpus(name: str, inputs: Iterable[bytes]) -> None:
    lines = sorted({data.hex() for data in inputs}, key=lambda line: (len(line), line))
    corpus_file(name).parent.mkdir(exist_ok=True)
    corpus_file(name).write_text("".join(f"{line}\n" for line in lines))


def replay(program: Path, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The finished run of the kept inputs and nothing else."""
    corpus = unpack_corpus(name, folder / "corpus")
    into = f"-artifact_prefix={folder}/"
    return run(program, "-runs=0", into, corpus, environment=environment())
